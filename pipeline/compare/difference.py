"""A difference, and the differences that were found: how many of each kind, and the first ones of each."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pipeline.formats.canonical import Json, canonical

Side = Literal["A", "B"]
CAUSES = ("code", "environment", "params", "data")
"""Kinds of which each difference is counted once, however many stages it changes."""
SHOWN = 60
"""Characters of a value that a line shows."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One thing that is not the same on both sides."""

    kind: str
    """What it is: a file of code, a key of params, a stage, a document, a row, a step, a tensor, a file."""
    where: str
    """Its name: a path, a key, an id, a number."""
    a: Json = None
    """Its value in A."""
    b: Json = None
    """Its value in B."""
    only_in: Side | None = None
    """The side that has it, if the other lacks it."""
    stage: str | None = None
    """The stage that it belongs to, as `dvc.lock` names it: `filter@plays`."""

    def __str__(self) -> str:
        if self.only_in:
            value = self.a if self.only_in == "A" else self.b
            return f"{self.where}: only in {self.only_in}" + ("" if value is None else f" ({shown(value)})")
        if self.a is None and self.b is None:
            return self.where
        return f"{self.where}: {shown(self.a)} -> {shown(self.b)}"


@dataclass
class Found:
    """The differences of one kind."""

    count: int = 0
    follow: int = 0
    """Further ones, which follow from others."""
    first: list[Difference] = field(default_factory=list)


class Findings:
    """Differences by kind, in the order in which they are found; of each kind the first `most` are kept."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.kinds: dict[str, Found] = {}
        self.notes: list[str] = []
        """What was not compared, and why."""
        self.agree: list[str] = []
        """What is the same of builds that differ: rows, and trainings up to a step."""
        self._causes: set[tuple[str, str]] = set()

    def add(self, differences: Iterable[Difference]) -> None:
        """Count each difference."""
        for difference in differences:
            name = difference.kind, difference.where
            if name not in self._causes:
                self.add_counted(difference.kind, 1, [difference])
            if difference.kind in CAUSES:
                self._causes.add(name)

    def add_counted(self, kind: str, count: int, first: Iterable[Difference]) -> None:
        """Count differences when only the first ones are at hand."""
        if count:
            found = self.kinds.setdefault(kind, Found())
            found.count += count
            found.first += list(first)[: max(0, self.most - len(found.first))]

    def follows(self, kind: str, count: int = 1) -> None:
        """Count what differs only because something before it does."""
        if count:
            self.kinds.setdefault(kind, Found()).follow += count

    def __bool__(self) -> bool:
        return any(found.count or found.follow for found in self.kinds.values())


class Key(NamedTuple):
    """A key of two trees that does not have the same value in both."""

    path: str
    a: Json
    b: Json
    only_in: Side | None


def keys_that_differ(a: Json, b: Json, path: str = "") -> Iterator[Key]:
    """The smallest subtrees that differ, in the order of their keys: of lists of one length their items, else the
    whole."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in sorted(a.keys() | b.keys()):
            inner = f"{path}.{key}".lstrip(".")
            if key not in a or key not in b:
                yield Key(inner, a.get(key), b.get(key), "A" if key in a else "B")
            else:
                yield from keys_that_differ(a[key], b[key], inner)
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for number, (left, right) in enumerate(zip(a, b, strict=True)):
            yield from keys_that_differ(left, right, f"{path}[{number}]")
    elif a != b or isinstance(a, bool) != isinstance(b, bool):
        yield Key(path, a, b, None)


def differing(kind: str, a: Json, b: Json, path: str = "", stage: str | None = None) -> Iterator[Difference]:
    """The keys of two trees that differ, as differences of this kind."""
    for key in keys_that_differ(a, b, path):
        yield Difference(kind=kind, where=key.path, a=key.a, b=key.b, only_in=key.only_in, stage=stage)


def only_in(in_a: bool, in_b: bool) -> Side | None:
    """The one side that has something; null if both do."""
    return None if in_a and in_b else "A" if in_a else "B"


def shown(value: Json) -> str:
    """A value for a line of text."""
    text = value if isinstance(value, str) else canonical(value).decode()
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
