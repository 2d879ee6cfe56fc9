"""The report of receipts: who replayed which stretches of a release, and what they say came out.

0  every receipt is right, and nobody who counts found a difference
1  a receipt is wrong, a pinned key has left none, or somebody who counts found a difference
4  there are links in place of receipts, which were not followed
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from shlex import quote
from typing import Any

from pipeline.base.columns import table
from pipeline.base.errors import Differs, Linked

SHOWN = 20
SHORT = 16
"""Digits of a key id in a table."""


@dataclass(frozen=True)
class Replayed:
    """A stretch, as an auditor says that it came out."""

    model: str
    start: int
    stop: int
    first_difference: int | None
    """The first step that did not come out the same."""
    detail: str | None
    same_build: bool
    """Whether it ran on the build, and in the class `native` the processor, that trained the model."""


@dataclass(frozen=True)
class Read:
    """A receipt that is right."""

    path: str
    key: str
    """Id of the auditor's key."""
    counts: bool
    """Whether the reader named this key, or named none."""
    beacon: str
    source: str | None
    """What the auditor says that the beacon is."""
    models: list[str]
    """Models whose stretches the beacon chose from."""
    stretches: int
    """How many these have."""
    replayed: list[Replayed]
    classes: list[str]
    """Numerics classes."""
    processor: str
    version: str
    """Version of Everystep."""
    same_code: bool
    """Whether it trains with the files of code that trained the release."""


@dataclass(frozen=True)
class Covered:
    """A stretch of the release, and the keys whose owners say that it came out the same, or that it did not."""

    model: str
    start: int
    stop: int
    same: list[str]
    differs: list[str]


@dataclass(frozen=True)
class Receipts:
    """What was found in a folder of receipts."""

    receipts: list[Read] = field(default_factory=list)
    covered: list[Covered] = field(default_factory=list)
    """Every stretch of the release, and who replayed it, of the keys that count."""
    faults: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Files that have no place there."""
    pinned: bool = False
    """Whether the reader named keys."""

    @property
    def differing(self) -> list[Covered]:
        """Stretches that somebody who counts could not reproduce."""
        return [one for one in self.covered if one.differs]

    @property
    def exit_code(self) -> int:
        if self.faults or self.differing:
            return Differs.exit_code
        return Linked.exit_code if self.links else 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def summary(self) -> Iterator[str]:
        """Yield what `verify` says of receipts: nothing, if there are none."""
        if self.receipts:
            counted = [one for one in self.covered if one.same]
            keys = {receipt.key for receipt in self.receipts}
            yield (
                f"receipts: {_number(len(self.receipts), 'audit')} by {_number(len(keys), 'key')}; "
                f"{len(counted):,} of {len(self.covered):,} stretches were replayed; `everystep receipts` lists them"
            )
        for one in self.differing:
            yield f"receipts: somebody says that {one.model} differs between steps {one.start} and {one.stop}"

    def lines(self, address: str) -> Iterator[str]:
        """Yield the lines that a person reads."""
        yield from self.faults[:SHOWN]
        if len(self.faults) > SHOWN:
            yield f"... and {len(self.faults) - SHOWN:,} more faults; --json lists all"
        if self.links:
            yield f"links in place of receipts were not followed: {', '.join(self.links[:3])}"
        if self.others:
            yield f"{len(self.others):,} files have no place among receipts: {', '.join(self.others[:3])}"
        if self.receipts:
            header = ["key", "beacon", "what it is said to be", "replayed", "same", "class", "processor"]
            yield from table(header, [_row(receipt) for receipt in self.receipts])
            yield ""
            yield from table(["model", "stretches", "replayed", "by two keys or more"], _by_model(self.covered))
            yield ""
        yield from self._differences(address)
        yield f"{address}: {self._verdict()}"
        if self.receipts and not self.pinned:
            yield "anyone can make a key: name those that you trust with --key, and only these count"

    def _differences(self, address: str) -> Iterator[str]:
        for receipt in self.receipts:
            for one in receipt.replayed:
                if one.first_difference is not None and receipt.counts:
                    build = "" if one.same_build else ", on another build or processor than trained it"
                    yield (
                        f"{receipt.key[:SHORT]} says: {one.model} differs first at step {one.first_difference} "
                        f"({one.detail}){build}"
                    )
                    where = f"{quote(address)} --model {quote(one.model)}"
                    yield f"see for yourself: everystep replay {where} --from {one.start} --to {one.stop}"

    def _verdict(self) -> str:
        if self.faults:
            return f"{_number(len(self.faults), 'fault')}; what is said there is not to be believed"
        if not self.receipts:
            return "no receipts"
        same = sum(bool(one.same) for one in self.covered)
        right = f"{_number(len(self.receipts), 'receipt')} {'is' if len(self.receipts) == 1 else 'are'} right"
        return f"{right}; {same:,} of {len(self.covered):,} stretches came out the same at least once"


def _row(receipt: Read) -> list[str]:
    same = sum(one.first_difference is None for one in receipt.replayed)
    return [
        receipt.key[:SHORT] + ("" if receipt.counts else " (does not count)"),
        receipt.beacon,
        receipt.source or "",
        f"{len(receipt.replayed):,} of {receipt.stretches:,}",
        f"{same:,}",
        ", ".join(receipt.classes),
        receipt.processor,
    ]


def _by_model(covered: list[Covered]) -> list[list[str]]:
    models = sorted({one.model for one in covered})
    own = {model: [one for one in covered if one.model == model] for model in models}
    return [
        [
            model,
            f"{len(own[model]):,}",
            f"{sum(bool(one.same) for one in own[model]):,}",
            f"{sum(len(one.same) > 1 for one in own[model]):,}",
        ]
        for model in models
    ]


def _number(count: int, unit: str) -> str:
    return f"{count:,} {unit}{'s' * (count != 1)}"
