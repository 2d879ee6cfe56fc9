"""Everything that metadata can show of the checkpoints at an address, in one report.

First what is there (`pipeline.series.read`), then every kind of finding (`pipeline.series.findings`). Little is read of
files: the versions of configs, the header of weights of each size, lists of shards. What could not be looked at is a
finding, since it is not cleared; what was not looked at by design is said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.series import findings as find
from pipeline.series.displacement import Moved, Rates, displacement, pick
from pipeline.series.findings import Finding
from pipeline.series.headers import contents, layouts
from pipeline.series.names import parse_name
from pipeline.series.read import read_address
from pipeline.series.series import Checkpoint, Collection, Series, Unseen

JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
HEADER, INDEX = ".safetensors", ".index.json"


@dataclass(frozen=True)
class Linted:
    """What was found at an address."""

    collection: Collection
    findings: tuple[Finding, ...]
    limits: tuple[str, ...]
    """What was not looked at, and why."""
    moved: Moved | None = None
    """How far weights moved between two checkpoints, where that was asked."""

    @property
    def named(self) -> tuple[str, ...]:
        """Every revision that a finding names, once, in the order of the series."""
        wrong = {name for finding in self.findings for name in finding.revisions}
        order = [one.name for one in self.collection.checkpoints()]
        return tuple(name for name in [*order, *sorted(wrong - {*order})] if name in wrong)


@dataclass
class _Looked:
    """What was met while files were read."""

    unseen: list[Unseen] = field(default_factory=list)
    skipped: int = 0
    sizes: int = 0


def lint(address: str, weights: Sequence[str] | None = None, rates: Rates | None = None) -> Linted:
    """Read what is at an address and say what is wrong with it; `weights` names two checkpoints to compare."""
    collection, looked = read_address(address), _Looked()
    pair = pick(collection, weights) if weights else None
    found = [*find.whole_copies(collection), *find.shared_shards(collection)]
    for series in collection.series:
        steps = [named.step for one in collection.unseen if (named := parse_name(one.name)) and not one.is_gone]
        found += find.missing_steps(series, steps if len(collection.series) == 1 else ())
        found += [*find.wrong_order(series), *find.broken_chain(series)]
        found += find.missing_files(series)
        found += _inside(collection, series, looked)
    unseen = (*collection.unseen, *looked.unseen)
    found += find.unreadable(unseen)
    moved, limits = None, (*collection.limits, *_limits(looked))
    if pair:
        moved, beyond = displacement(collection, pair, rates or Rates())
        found += beyond
    return Linted(collection, tuple(found), limits, moved)


def _inside(collection: Collection, series: Series, looked: _Looked) -> Iterator[Finding]:
    """Findings about the content of small files and headers along a series, `main` with the longest."""
    members = list(series.checkpoints)
    if collection.main and series == collection.longest():
        members.append(collection.main)
    paths = sorted({path for one in members for path in one.files})
    for path in paths:
        if path in JSON_FILES and _differs(members, path):
            read = contents(collection.place, members, path)
            looked.unseen += read.unseen
            looked.skipped += read.skipped
            yield from find.changed_keys(path, read.by_name, members)
        elif path.endswith(INDEX):
            read = contents(collection.place, members, path)
            looked.unseen += read.unseen
            looked.skipped += read.skipped
            yield from find.absent_shards(path, read.by_name, members)
    yield from find.changed_digests(members)
    for path in sorted({path for one in members for files in one.weights().values() for path in files}):
        if path.endswith(HEADER):
            headers = layouts(collection.place, members, path)
            looked.unseen += headers.unseen
            looked.skipped += headers.skipped
            looked.sizes += len(headers.by_size)
            yield from find.changed_tensors(path, headers.by_size, members)
        else:
            yield from find.changed_sizes(path, members)


def _differs(members: Sequence[Checkpoint], path: str) -> bool:
    """Whether a file may not be the same in all revisions that have it."""
    digests = {one.files[path].digest for one in members if path in one.files}
    return len(digests) > 1 or any(digest is None for digest in digests)


def _limits(looked: _Looked) -> Iterator[str]:
    if looked.sizes:
        yield f"of weights, {looked.sizes} header{'s were' if looked.sizes > 1 else ' was'} read: one of each size"
    if looked.skipped:
        yield f"{looked.skipped} versions of small files or headers were not read, to stay small"
