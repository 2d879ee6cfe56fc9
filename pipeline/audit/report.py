"""The report of `verify`: changed bytes, links and other files each have their own sentence and exit code.

    0  every promised byte is right, and there is nothing else
    1  a file is changed, missing or unreadable, or two files contradict each other
    3  every promised byte is right, but there are other files
    4  there are links in place of files, which were not followed; everything else is right

(2 is misuse, as everywhere.) What Git, the Hub's client and file managers leave in a folder is reported, and changes
no exit code.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.audit.signed import DATA, RELEASE, Claim, Signatures
from pipeline.base.columns import table
from pipeline.base.errors import Differs, Linked
from pipeline.release.code import is_code
from pipeline.release.rungs import NOBODY, Rung

OTHER_FILES = 3
SHOWN = 20
SHORT_KEY = 16
"""Digits of a key id in a table."""
LONGEST = 200
MEANING = {
    Rung.FILES: "every digest is right; it is left open whether what they say is true",
    Rung.CONSISTENT: "what is said twice agrees; nothing was computed again",
    Rung.RECOMPUTED: "whatever follows from the rest was computed again; for 4 run `everystep replay`, for 5 `make "
    "reproduce`",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Outcome of a verification. `faults` are sentences, the other lists are paths; `files`, `bytes` and `checkpoints`
    count what was found right. A release whose root manifest could not be read has no name and no digest."""

    name: str | None
    version: str | None
    root_sha256: str | None
    files: int
    bytes: int
    checkpoints: int
    seconds: float
    faults: list[str]
    links: list[str]
    others: list[str]
    left_by_tools: list[str]
    rung: Rung | None = None
    """The highest rung without a fault; null if not even every file is right."""
    vouched: str | None = None
    """Who vouches for the root manifest, besides signers; null if nobody."""
    signatures: Signatures | None = None
    """What was found below `signatures/`; none if it was not looked into, because something else is wrong."""

    @property
    def exit_code(self) -> int:
        if self.faults:
            return Differs.exit_code
        return Linked.exit_code if self.links else OTHER_FILES if self.others else 0

    def to_json(self) -> dict[str, Any]:
        rung = None if self.rung is None else self.rung.word
        return {"verified": not self.faults and not self.links, **asdict(self), "rung": rung}

    def lines(self, release: str | Path) -> Iterator[str]:
        """Yield the lines that a person reads; long lists are shortened."""
        yield from self.faults[:SHOWN]
        yield from _more(self.faults[SHOWN:])
        if self.links:
            count = f"{len(self.links):,} links in place of files were not followed"
            yield f"{release}: {count}: {_folded(self.links)}"
            yield "use --follow-links to read what they point at, or copy the folder with `cp -rL`"
        if self.others:
            yield f"{release}: {len(self.others):,} other files, not part of the release: {_folded(self.others)}"
        if self.left_by_tools:
            yield f"{release}: passed over what tools left: {_folded(self.left_by_tools)}"
        yield f"{release}: {self._verdict()}"
        if self.rung:
            yield f"{self.rung.title}: {MEANING[self.rung]}"
        if self.root_sha256:
            yield f"sha256 of release.json: {self.root_sha256}"
            yield f"vouched for by {self._voucher()}"
            yield from self._signed()

    def _voucher(self) -> str:
        signers = self.signatures.signers if self.signatures else []
        pinned = [f"the owner of the key {signer.key[:SHORT_KEY]}" for signer in signers if signer.pinned]
        return ", ".join([*([self.vouched] if self.vouched else []), *pinned]) or NOBODY

    def _signed(self) -> Iterator[str]:
        """Who signed, and what is known of each claim."""
        if self.signatures is None:
            yield "signatures were not checked, because of the above"
            return
        for signer in self.signatures.signers:
            known = "the key that you named" if signer.pinned else "not pinned: anyone can make a key"
            yield f"signed by {signer.key} ({known})"
        if not (self.signatures.signers or self.signatures.faults or self.signatures.links):
            yield "unsigned: nobody has signed this release"
        if self.signatures.claims:
            yield ""
            yield from table(["what is said", "of", "known"], _claims(self.signatures.claims))

    def _verdict(self) -> str:
        if self.signatures and 0 < len(self.signatures.faults) == len(self.faults):
            return f"every file is what the release promises, but its signatures have {len(self.faults):,} faults"
        if self.faults:
            return f"{len(self.faults):,} faults; this is not the release that was published"
        if self.links and not self.files:
            return "nothing was verified: release.json is a link"
        if self.links:
            return f"what the links point at was not verified; the rest is right: {self._amount()}"
        return f"every file is what the release promises: {self.name} {self.version}, {self._amount()}"

    def _amount(self) -> str:
        size = f"{self.files:,} files, {self.bytes / 1e6:,.1f} MB, {self.checkpoints:,} checkpoints"
        return f"{size}, {self.seconds:.1f} s"


def _folded(paths: Sequence[str]) -> str:
    """Name the first paths, code before all others, and count the rest by folder."""
    ordered = sorted(paths, key=lambda path: (not is_code(path), path))
    rest = Counter(path.partition("/")[0] + "/" if "/" in path else "(top)" for path in ordered[3:])
    more = [f"{number:,} more in {folder}" for folder, number in sorted(rest.items())]
    first = [path if len(path) <= LONGEST else path[:LONGEST] + "..." for path in ordered[:3]]
    return ", ".join([*first, *more[:10], *(["..."] if len(more) > 10 else [])])


def _claims(claims: Sequence[Claim]) -> list[list[str]]:
    """Rows of a table, what was recomputed first. Claims of several signers, or of several models, share a row."""
    shared: dict[tuple[bool, str], list[Claim]] = {}
    for claim in claims:
        shared.setdefault((not claim.recomputed, claim.claim), []).append(claim)
    ordered = sorted(shared.items(), key=lambda row: row[0][0])
    return [[said, _subjects(same), _known(is_word, same)] for (is_word, said), same in ordered]


def _subjects(claims: Sequence[Claim]) -> str:
    models = sorted({claim.about for claim in claims} - {RELEASE, DATA})
    others = [name for name in (RELEASE, DATA) if any(claim.about == name for claim in claims)]
    return ", ".join([*others, *(models if len(models) < 3 else [f"{len(models)} models"])])


def _known(is_word: bool, claims: Sequence[Claim]) -> str:
    keys = sorted({claim.key[:SHORT_KEY] for claim in claims})
    return f"word of {', '.join(keys)}" if is_word else "recomputed"


def _more(faults: Sequence[str]) -> Iterator[str]:
    if faults:
        yield f"... and {len(faults):,} more faults; --json lists all"
