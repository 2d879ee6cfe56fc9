"""Explain: which spans of a text are in the training rows, in which documents, and when a model read them.

The rules are OLMoTrace's (Liu et al. 2025, arXiv 2504.07096, section 3): a span is *maximal* if no longer one around it
is in the rows; it begins and ends with a word, and holds no full stop and no end of a line but at its end. As many are
shown as `density` times the ids of the text: those whose ids are the rarest.
What that service cannot say is when: with a timeline, a span is one that this model had read by then.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.base.paths import TOKENIZER
from pipeline.formats.vocabulary import token_texts
from pipeline.release.release import Release
from pipeline.search.answers import Place, count, pieces, search
from pipeline.search.index import Index
from pipeline.search.timeline import NEVER, Timeline

MOST_IDS = 4096
"""Ids of a text that are explained at a time: each begins a search."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which spans are shown."""

    density: float = 0.05
    """Spans for each id of the text, rounded up."""
    most_places: int | None = 10
    """A span that is at more places says little about any of them; null: any number."""
    places: int = 10
    """Places that are listed for each span."""


@dataclass(frozen=True)
class Span:
    """A stretch of the text that is in the training rows."""

    start: int
    """First of its ids in the text."""
    stop: int
    ids: list[int]
    text: str
    places: int
    """Places in the rows."""
    reads: int
    """How often the model had read it."""
    first_step: int | None
    """The first step that read it; null if none did."""
    last_step: int | None
    """The last step, up to the one that is asked about, that read it."""
    shown: list[Place]
    """The first places in the order of reading."""


@dataclass(frozen=True)
class Explained:
    """A text, and the spans of it that are in the training rows."""

    model: str
    until: int
    ids: list[int]
    maximal: int
    """Number of all maximal spans."""
    spans: list[Span]
    """Those that are shown, in the order of the text."""


def explain(release: Release, index: Index, ids: Sequence[int], timeline: Timeline, rules: Rules) -> Explained:
    """Find the spans of `ids` that the model of `timeline` had read."""
    texts = token_texts(release.file(TOKENIZER))
    words = Words([texts[id] for id in ids])
    found = list(maximal_spans(index, ids, words, timeline))
    few = [span for span in found if rules.most_places is None or _places(index, ids, span) <= rules.most_places]
    likelihood = {span: _log_likelihood(index, ids, span) for span in few}
    wanted = math.ceil(rules.density * len(ids))
    chosen = sorted(sorted(few, key=lambda span: (likelihood[span], span))[:wanted])
    spans = [_described(release, index, ids, span, words, timeline, rules) for span in chosen]
    return Explained(timeline.model, timeline.until, list(ids), len(found), spans)


def maximal_spans(index: Index, ids: Sequence[int], words: "Words", timeline: Timeline) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of each run of whole words that the model had read and that is in no longer one."""
    reached = 0
    for start in range(len(ids)):
        if not words.begins(start):
            continue
        stop = start + _read_together(
            index, ids[start : min(words.end_of_sentence(start), start + index.width)], timeline
        )
        while stop > start and not words.begins(stop):
            stop -= 1
        if stop > max(start, reached):
            reached = stop
            yield start, stop


class Words:
    """The tokens of a text, and where its words and sentences begin."""

    def __init__(self, texts: list[bytes]) -> None:
        self.texts = texts

    def begins(self, place: int) -> bool:
        """Whether a word begins at this token, or the text ends there."""
        if place in (0, len(self.texts)):
            return True
        before, after = self.texts[place - 1][-1:], self.texts[place][:1]
        return not (_is_of_a_word(before) and _is_of_a_word(after))

    def end_of_sentence(self, start: int) -> int:
        """The place after the first token from `start` on that holds a full stop or the end of a line."""
        ends = (i + 1 for i in range(start, len(self.texts)) if b"." in self.texts[i] or b"\n" in self.texts[i])
        return next(ends, len(self.texts))


def _is_of_a_word(byte: bytes) -> bool:
    """Letters, digits, and the bytes of all characters beyond ASCII."""
    return byte.isalnum() or byte >= b"\x80"


def _read_together(index: Index, ids: Sequence[int], timeline: Timeline) -> int:
    """How many of `ids`, from the first on, the model had read in one row: fewer ids are at no fewer places."""
    low, high = 0, index.longest(ids)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(index, ids[:middle], timeline).reads else (low, middle - 1)
    return low


def _places(index: Index, ids: Sequence[int], span: tuple[int, int]) -> int:
    return index.find(ids[slice(*span)]).count


def _log_likelihood(index: Index, ids: Sequence[int], span: tuple[int, int]) -> float:
    """Sum of the logarithms of the frequencies of its ids."""
    return math.fsum(math.log(index.find([id]).count / index.places) for id in ids[slice(*span)])


def _described(
    release: Release,
    index: Index,
    ids: Sequence[int],
    span: tuple[int, int],
    words: Words,
    timeline: Timeline,
    rules: Rules,
) -> Span:
    run = list(ids[slice(*span)])
    found = search(release, index, run, {timeline.model: timeline}, timeline, rules.places)
    first, last = math.inf, NEVER
    for rows, _ in pieces(index, index.find(run)):
        different = np.unique(rows)
        firsts = timeline.first_steps(different)
        first = min([first, *firsts[firsts != NEVER].tolist()])
        last = max(last, int(timeline.last_steps(different).max(initial=NEVER)))
    return Span(
        start=span[0],
        stop=span[1],
        ids=run,
        text=b"".join(words.texts[slice(*span)]).decode(errors="replace"),
        places=found.count.places,
        reads=found.count.reads or 0,
        first_step=None if first is math.inf else int(first),
        last_step=None if last == NEVER else last,
        shown=found.shown,
    )
