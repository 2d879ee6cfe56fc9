"""What Gopher's rules count in the words of a text, without a Python object for each word.

The rules are the library's (`pipeline.blocks.quality`); here is what they count, exactly, or bounded where that is
enough to see that a text passes. The words of a run are split once (`pipeline.blocks.words`) and then remembered.
"""

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.blocks.runs import Characters, Numbers, Runs, grown
from pipeline.blocks.shingles import compiled
from pipeline.blocks.words import split_run

COUNTS = 6  # of the words of a run: `Measures`, but for the stop words


class Measures(NamedTuple):
    """What the rules count in a text."""

    words: int
    plain_words: int
    """Words that are not of punctuation alone."""
    plain_characters: int
    """Characters of these."""
    alphabetic_words: int
    """Words that contain a letter."""
    bullets: int
    """Runs that begin with a bullet: at least as many as lines that do."""
    ellipses: int
    """Runs that end in an ellipsis: at least as many as lines that do."""
    stop_words: int
    """Different stop words."""
    characters: Characters
    """The text without its blanks."""
    lengths: Numbers
    """Characters of each word."""


@lru_cache(2)  # two rules measure a text, one after the other
def measure(text: str) -> Measures:
    """Measure a text."""
    return _measurer().measure(text)


@cache
def _measurer() -> "_Measurer":
    return _Measurer()


class _Measurer:
    """Facts of the runs that were measured."""

    def __init__(self) -> None:
        from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
        from datatrove.utils.text import PUNCTUATION_SET

        self._punctuation = PUNCTUATION_SET
        self._stop_words = {word: 1 << n for n, word in enumerate(STOP_WORDS)}
        self._forget()

    def _forget(self) -> None:
        self._runs = Runs()
        self._known = 0
        self._facts = np.zeros((0, COUNTS + 1), dtype=np.int64)
        self._lengths = np.zeros(0, dtype=np.int64)
        self._stops = np.zeros(1, dtype=np.int64)

    def measure(self, text: str) -> Measures:
        if self._runs.is_full:
            self._forget()
        numbers = self._runs.number(text)
        if self._known < len(self._runs):
            self._learn()
        totals = np.zeros(COUNTS + 1, dtype=np.int64)
        characters = np.empty(len(text), dtype=np.uint32)
        lengths_W = np.empty(len(text), dtype=np.int64)
        end, num_words = _gather(
            numbers, self._facts, self._runs.characters, self._runs.stops, self._lengths, self._stops,
            totals, characters, lengths_W,
        )  # fmt: skip
        *counts, stop_words = totals.tolist()
        facts: list[Any] = [*counts, stop_words.bit_count(), characters[:end], lengths_W[:num_words]]
        return Measures(*facts)

    def _learn(self) -> None:
        """Find the facts of the runs that are new."""
        facts: list[tuple[int, ...]] = []
        lengths: list[int] = []
        stops: list[int] = []
        for run in self._runs.since(self._known):
            words = split_run(run)
            lengths += map(len, words)
            stops.append(len(lengths))
            facts.append(self._counted(run, words))
        self._facts = _extended(self._facts, self._known, facts)
        self._lengths = _extended(self._lengths, int(self._stops[self._known]), lengths)
        self._stops = _extended(self._stops, self._known + 1, np.array(stops) + self._stops[self._known])
        self._known = len(self._runs)

    def _counted(self, run: str, words: tuple[str, ...]) -> tuple[int, ...]:
        plain = [word for word in words if not self._punctuation.issuperset(word)]
        bits = 0
        for word in words:
            bits |= self._stop_words.get(word, 0)
        return (
            len(words),
            len(plain),
            sum(map(len, plain)),
            sum([word.isalpha() or any(map(str.isalpha, word)) for word in words]),
            run[0] in "•-",
            run.endswith(("...", "…")),
            bits,
        )


def _extended(array: NDArray[np.int64], used: int, more: object) -> NDArray[np.int64]:
    values = np.array(more, dtype=np.int64)
    end = used + len(values)
    if end > len(array):
        array = grown(array, 2 * end)
    array[used:end] = values
    return array


@compiled
def _gather(
    numbers: Numbers,
    facts: Numbers,
    characters: Characters,
    stops: Numbers,
    lengths: Numbers,
    length_stops: Numbers,
    totals: Numbers,
    out_C: Characters,
    out_W: Numbers,
) -> tuple[int, int]:
    """Add up the facts of runs, and write their characters and the lengths of their words; return the two ends."""
    last = len(totals) - 1
    end = word_end = 0
    for number in numbers:
        for f in range(last):
            totals[f] += facts[number, f]
        totals[last] |= facts[number, last]
        for c in range(stops[number], stops[number + 1]):
            out_C[end] = characters[c]
            end += 1
        for w in range(length_stops[number], length_stops[number + 1]):
            out_W[word_end] = lengths[w]
            word_end += 1
    return end, word_end
