"""What `everystep search`, `count` and `next` answer, from the index and the order alone.

Without a step, an answer is about the training rows: what a model could read. With one, it is about what this model had
read by then, each row as often as it was read. That looks at every place that was found, 30 ns for each here; a count
without a step looks at none.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.base.errors import EverystepError
from pipeline.base.paths import TOKENS
from pipeline.formats.index_groups import documents_of_rows
from pipeline.formats.manifests import Tokens, path_of
from pipeline.formats.order import unpermute
from pipeline.formats.rows import DocumentIndex, Span
from pipeline.release.release import Release
from pipeline.search.index import Found, Index, Numbers
from pipeline.search.timeline import NEVER, Timeline

AT_ONCE = 1 << 20
"""Places that are looked at together."""
FEW_GROUPS = 16
"""A far-away document index of at most this number of row groups is brought as a whole, in one request."""
DOCUMENTS = TOKENS / "train.parquet"


@dataclass(frozen=True)
class Count:
    """How often a run of ids is in the training rows."""

    ids: list[int]
    """The run."""
    places: int
    """Places in the rows."""
    model: str | None = None
    """The model that is asked about, if a step is."""
    until: int | None = None
    """The step."""
    places_read: int | None = None
    """Places in rows that the model had read by then."""
    reads: int | None = None
    """The same, each place as often as its row was read."""


@dataclass(frozen=True)
class Document:
    """A document that a place is in."""

    id: str
    source: str
    license: str


@dataclass(frozen=True)
class Place:
    """A place in the rows."""

    row: int
    start: int
    """Offset in the row."""
    stop: int
    documents: list[Document]
    """The documents that it has tokens of, their end tokens included, in order."""
    first_steps: dict[str, int | None]
    """Model → the first step that read the row; null if none did."""


@dataclass(frozen=True)
class Searched:
    """Where a run of ids is."""

    count: Count
    rows: int
    """Different rows that hold it."""
    shown: list[Place]
    """The first places in the order of reading."""


@dataclass(frozen=True)
class Following:
    """An id after a context."""

    id: int
    count: int
    probability: float


@dataclass(frozen=True)
class Next:
    """What follows a context."""

    context: list[int]
    """The context that was given."""
    used: list[int]
    """The longest end of it that something follows."""
    total: int
    """How often something follows."""
    different: int
    """Number of different ids that do."""
    shown: list[Following]
    """The most frequent, then by id."""
    model: str | None = None
    until: int | None = None


@dataclass(frozen=True)
class Likelihood:
    """How probable an id of a text is after those before it."""

    id: int
    used: int
    """How many ids before it are the longest context that something follows."""
    count: int
    """How often it follows them."""
    total: int
    """How often anything does."""

    @property
    def bits(self) -> float:
        """Its information; infinite where the rows never have it there."""
        return -math.log2(self.count / self.total) if self.count else math.inf


def count(index: Index, ids: Sequence[int], timeline: Timeline | None = None) -> Count:
    """How often `ids` are in the training rows or, with a timeline, in what a model had read."""
    found = index.find(ids)
    if timeline is None:
        return Count(list(ids), found.count)
    places = reads = 0
    for rows, _ in pieces(index, found):
        times = _reads(timeline, rows)
        places += int(np.count_nonzero(times))
        reads += int(times.sum())
    return Count(list(ids), found.count, timeline.model, timeline.until, places, reads)


def search(
    release: Release,
    index: Index,
    ids: Sequence[int],
    timelines: Mapping[str, Timeline],
    until: Timeline | None = None,
    limit: int = 10,
) -> Searched:
    """Where `ids` are: the first `limit` places in the order of reading, with their documents and when each of
    `timelines` first read them. With `until`, only what that model had read."""
    found = index.find(ids)
    tokens = release.manifest(Tokens)
    is_held = np.zeros(index.num_rows, dtype=np.bool_)
    places = reads = 0
    best = np.empty((0, 3), dtype=np.int64)
    for rows, offsets in pieces(index, found):
        if until is not None:
            times = _reads(until, rows)
            rows, offsets, times = rows[times > 0], offsets[times > 0], times[times > 0]
            places, reads = places + len(rows), reads + int(times.sum())
        is_held[rows] = True
        order = unpermute(rows.astype(np.uint64), index.num_rows, tokens.parameters.seed, 0).astype(np.int64)
        best = np.concatenate([best, np.stack([order, offsets, rows], axis=1)])
        best = best[np.lexsort((best[:, 1], best[:, 0]))[:limit]]
    counted = Count(list(ids), found.count)
    if until is not None:
        counted = Count(list(ids), found.count, until.model, until.until, places, reads)
    return Searched(counted, int(is_held.sum()), _shown(release, index, best, len(ids), timelines))


def following(index: Index, context: Sequence[int], timeline: Timeline | None = None, limit: int = 10) -> Next:
    """What follows the longest end of `context` that something follows within a row, down to no context at all."""
    for start in range(max(0, len(context) - index.width + 1), len(context) + 1):
        used = context[start:]
        counts = _follow(index, index.find(used), timeline)
        total = int(counts.sum())
        if total:
            break
    by_count = np.lexsort((np.arange(len(counts)), -counts))[:limit]
    shown = [Following(int(i), int(counts[i]), int(counts[i]) / total) for i in by_count if counts[i]]
    return Next(
        context=list(context),
        used=list(used),
        total=total,
        different=int(np.count_nonzero(counts)),
        shown=shown,
        model=timeline.model if timeline else None,
        until=timeline.until if timeline else None,
    )


def likelihoods(index: Index, ids: Sequence[int], timeline: Timeline | None = None) -> list[Likelihood]:
    """How probable each id is after the longest context before it that something follows: the unbounded n-gram
    (Liu et al. 2024, arXiv 2401.17377, section 2)."""
    found = []
    used = 0
    for i, id in enumerate(ids):
        while not (total := _followed(index, ids[i - used : i], timeline)) and used:
            used -= 1
        followed = _times(index, index.find(ids[i - used : i + 1]), timeline)
        found.append(Likelihood(id, used, followed, total))
        used = min(used + 1, index.width - 1)
    return found


def pieces(index: Index, found: Found) -> Iterator[tuple[Numbers, Numbers]]:
    """Rows and offsets of all places, a bounded number at a time."""
    for number, (start, stop) in enumerate(found.intervals):
        for begin in range(start, stop, AT_ONCE):
            part = [(0, 0)] * len(found.intervals)
            part[number] = (begin, min(begin + AT_ONCE, stop))
            yield index.rows(Found(found.ids, tuple(part)))


def _reads(timeline: Timeline, rows: Numbers) -> Numbers:
    """How often each row was read; a row that is asked for twice is looked up once."""
    different, which = np.unique(rows, return_inverse=True)
    return timeline.reads(different)[which]


def _times(index: Index, found: Found, timeline: Timeline | None) -> int:
    if timeline is None:
        return found.count
    return sum(int(_reads(timeline, rows).sum()) for rows, _ in pieces(index, found))


def _followed(index: Index, context: Sequence[int], timeline: Timeline | None) -> int:
    """How often something follows a context within a row."""
    if timeline is None:
        return index.find(context).count - index.ends(context)
    return int(_follow(index, index.find(context), timeline).sum())


def _follow(index: Index, found: Found, timeline: Timeline | None) -> Numbers:
    """How often each id follows, shape (vocabulary,)."""
    counts = np.zeros(index.vocabulary, dtype=np.int64)
    for rows, offsets in pieces(index, found):
        after = offsets + len(found.ids)
        inside = after < index.width
        rows, after = rows[inside], after[inside]
        times = None if timeline is None else _reads(timeline, rows)
        if times is not None:
            rows, after, times = rows[times > 0], after[times > 0], times[times > 0]
        ids = index.ids_at(rows, after)
        counts += np.bincount(ids, weights=times, minlength=index.vocabulary).astype(np.int64)
    return counts


def _shown(
    release: Release, index: Index, best: Numbers, length: int, timelines: Mapping[str, Timeline]
) -> list[Place]:
    rows, offsets = best[:, 2], best[:, 1]
    spans = _documents(release, rows.tolist())
    steps = {name: timeline.first_steps(rows).tolist() for name, timeline in timelines.items()}
    return [
        Place(
            row=int(row),
            start=int(offset),
            stop=int(offset) + length,
            documents=[
                Document(span.id, span.source, span.license)
                for span in spans[i]
                if span.start < offset + length and span.stop > offset
            ],
            first_steps={name: None if listed[i] == NEVER else listed[i] for name, listed in steps.items()},
        )
        for i, (row, offset) in enumerate(zip(rows.tolist(), offsets.tolist(), strict=True))
    ]


def _documents(release: Release, rows: Sequence[int]) -> list[list[Span]]:
    """The pieces of documents in each of these rows."""
    if not rows:
        return []
    tokens = release.manifest(Tokens)
    groups, num_rows = tokens.shard("train_index").groups, tokens.splits.train.rows
    if groups is None:
        raise EverystepError(
            f"{release.folder / path_of(Tokens)}: outputs.train_index: has no digests of its row groups"
        )
    if release.mirror is not None and len(groups) <= FEW_GROUPS:
        index = DocumentIndex(release.file(DOCUMENTS), tokens.width, num_rows)
        return index.documents_of_rows(rows)
    with release.window(DOCUMENTS) as window:
        return documents_of_rows(window, groups, tokens.width, num_rows, rows)
