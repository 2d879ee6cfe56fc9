"""The report of a sampled audit: what the beacon chose, what came out, and what that is worth."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.base.errors import Differs
from pipeline.formats.receipts import Receipt, Verdict


@dataclass(frozen=True)
class Audited:
    """Outcome of a sampled audit."""

    root_sha256: str
    receipt: Receipt
    written: Path | None
    """The signed receipt, if one was written."""

    @property
    def exit_code(self) -> int:
        same = all(verdict.verdict == "same" for verdict in self.receipt.verdicts)
        return 0 if same else Differs.exit_code

    def to_json(self) -> dict[str, Any]:
        written = None if self.written is None else str(self.written)
        return {"root_sha256": self.root_sha256, "receipt": self.receipt.to_json(), "written": written}

    def lines(self) -> Iterator[str]:
        """Yield the lines that a person reads."""
        receipt = self.receipt
        models = receipt.models[0] if len(receipt.models) == 1 else f"{len(receipt.models)} models"
        yield f"the beacon chooses {receipt.sample:,} of the {receipt.stretches:,} stretches of {models}"
        yield from map(_line, receipt.verdicts)
        chances = [f"{chance.bad} bad: {_percent(chance.caught)}" for chance in receipt.chances]
        yield f"chance that this audit catches bad stretches, whichever they are: {', '.join(chances)}"
        yield f"sha256 of release.json: {self.root_sha256}"
        yield f"receipt: {self.written}" if self.written else "unsigned: with --key and --out, a receipt is written"


def _percent(chance: float) -> str:
    """What is not certain is not rounded up to 100 %."""
    return f"{chance if chance == 1 else min(chance, 0.999):.1%}"


def _line(verdict: Verdict) -> str:
    about = f"{verdict.verdict}: {verdict.model}, steps {verdict.start} to {verdict.stop}"
    if verdict.first_difference is not None:
        return f"{about}, first at step {verdict.first_difference}: {verdict.detail}"
    digests = f"{verdict.digests:,} digest{'s' * (verdict.digests != 1)} of all weights"
    return f"{about}, {digests} and the state at its end"
