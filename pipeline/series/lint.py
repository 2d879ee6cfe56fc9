"""Everything that metadata can show of the checkpoints at an address, in one report.

First what is there (`pipeline.series.read`), then every kind of finding (`pipeline.series.findings`). Little is read of
files: the versions of configs, the header of weights of each size, lists of shards. What could not be looked at is a
finding, since it is not cleared; what was not looked at by design is said.
"""

from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import Json
from pipeline.formats.checkpoints import RECORD
from pipeline.series import findings as find
from pipeline.series.displacement import Moved, Rates, displacement, pick
from pipeline.series.findings import Finding
from pipeline.series.headers import AT_ONCE, contents, layouts
from pipeline.series.names import parse_name
from pipeline.series.read import read_address
from pipeline.series.series import Checkpoint, Collection, Series, Unseen
from pipeline.stores.store import Missing

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

    links: bool
    unseen: list[Unseen] = field(default_factory=list)
    skipped: int = 0
    sizes: int = 0


def lint(address: str, weights: Sequence[str] | None = None, rates: Rates | None = None, links: bool = False) -> Linted:
    """Read what is at an address and say what is wrong with it.

    `weights` names two checkpoints to compare; with `links`, every file of weights is asked for one byte.
    """
    collection, looked = read_address(address), _Looked(links)
    pair = pick(collection, weights) if weights else None
    collection = _with_records(collection)
    found = [*find.whole_copies(collection), *find.shared_shards(collection)]
    for series in collection.series:
        found += find.missing_steps(series, _unseen_steps(collection, series))
        found += [*find.wrong_order(series), *find.broken_chain(series)]
        found += find.missing_files(series)
        found += _inside(collection, series, looked)
    if links:
        looked.unseen += _without_answer(collection, {one.name for one in looked.unseen})
    unseen = (*collection.unseen, *looked.unseen)
    found += find.unreadable(unseen)
    moved, limits = None, (*collection.limits, *_limits(looked))
    if pair:
        moved, beyond = displacement(collection, pair, rates or Rates())
        found += beyond
    return Linted(collection, tuple(found), limits, moved)


def _unseen_steps(collection: Collection, series: Series) -> list[int]:
    """Steps of a series that have a name there, though what it names was not seen."""
    named = [parse_name(one.name) for one in collection.unseen]
    return [each.step for each in named if each and each.template == series.title]


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


def _with_records(collection: Collection) -> Collection:
    """The collection with what records say of updates, where equal weights ask for it: `record.json` is ours."""
    sharing = {name for names, _ in find.same_weights(collection) for name in names}
    members = [one for one in collection.checkpoints() if one.name in sharing and not one.facts]
    if not members:
        return collection
    records = contents(collection.place, members, RECORD).by_name
    return replace(
        collection,
        series=tuple(
            replace(series, checkpoints=tuple(_with_facts(one, records.get(one.name)) for one in series.checkpoints))
            for series in collection.series
        ),
    )


def _with_facts(one: Checkpoint, record: dict[str, Json] | None) -> Checkpoint:
    updates = (record or {}).get("applied_updates")
    return one if type(updates) is not int else replace(one, facts={"applied_updates": updates})


def _without_answer(collection: Collection, known: Container[str]) -> list[Unseen]:
    """Files of weights that are listed and do not answer, those of equal digests once."""
    files: dict[object, tuple[str, str]] = {}
    for one in collection.checkpoints():
        for paths in one.weights().values():
            for path, file in paths.items():
                if f"{one.name}/{path}" not in known:
                    files.setdefault((path, file.digest or one.name), (one.name, path))

    def ask(place: tuple[str, str]) -> Unseen | None:
        try:
            collection.place.read(*place, 0, 1)
        except EverystepError as error:
            return Unseen("/".join(place), str(error), isinstance(error, Missing))
        return None

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [answer for answer in pool.map(ask, files.values()) if answer]


def _differs(members: Sequence[Checkpoint], path: str) -> bool:
    """Whether a file may not be the same in all revisions that have it."""
    digests = {one.files[path].digest for one in members if path in one.files}
    return len(digests) > 1 or any(digest is None for digest in digests)


def _limits(looked: _Looked) -> Iterator[str]:
    if looked.sizes:
        read = "1 header was read" if looked.sizes == 1 else f"{looked.sizes} headers were read"
        rest = "" if looked.links else "; whether the other files answer, --links asks"
        yield f"of weights, {read}, one of each size{rest}"
    if looked.skipped:
        yield f"{looked.skipped} versions of small files or headers were not read, to stay small"
