"""Models that count runs of tokens: what can be predicted without learning anything.

Of a run of `n` tokens, Witten and Bell (1991; in the form of Chen and Goodman 1998, section 2.5) interpolate

    P_n(w | h) = (c(h w) + t(h) P_(n-1)(w | h')) / (c(h) + t(h))

where `h` is the last `n - 1` tokens, `h'` the same without its first, `c` how often a run occurs in the rows that are
counted, `t(h)` the number of different tokens after `h`, and `c(h)` how often any is. P_0 is 1 / vocabulary; where `h`
does not occur, P_n is P_(n-1). There is nothing to tune. Runs do not cross rows. At the beginning of a text `h` is
shorter, as is all that a model has read there.

A run is a key, `rank of its tokens but the last x vocabulary + last token`, where the rank is the place of that shorter
run in the sorted keys of its length; so the keys of any length fit into 64 bits, and no two runs share one.
Probabilities are sums, products and quotients of IEEE 754, the same bits on every processor.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.tasks import DIGITS, Item, Prompt, TextIds, prompts

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
NO_RUN = -1


class _Level(NamedTuple):
    """The runs of one length."""

    keys: Integers
    """Sorted, each once."""
    counts: Integers
    ends: Integers
    """For each shorter run, where the keys that begin with it end; the first of them is the end before."""
    before: Integers
    """Sums of the counts before each key, and of all."""


class CountedRuns:
    """Counted runs of up to `order` tokens in rows, shape (rows, width), of ids below `vocabulary`."""

    def __init__(self, rows: NDArray[np.unsignedinteger], vocabulary: int, order: int) -> None:
        self.vocabulary = vocabulary
        self.order = order
        self._levels: list[_Level] = []
        num_rows, width = rows.shape
        ranks = np.zeros((num_rows, width + 1), dtype=np.int64)  # of the run of no token
        num_ranks = 1
        for n in range(1, (min(order, width) if num_rows else 0) + 1):
            last = rows[:, n - 1 :].astype(np.int64)
            found = ranks[:, : width - n + 1] * vocabulary + last
            keys, which, counts = np.unique(found, return_inverse=True, return_counts=True)
            ends = np.searchsorted(keys, np.arange(1, num_ranks + 1) * vocabulary)
            self._levels.append(_Level(keys, counts, ends, np.concatenate([[0], np.cumsum(counts)])))
            ranks, num_ranks = which.reshape(found.shape), len(keys)

    def probabilities(self, before: Integers, tokens: Integers) -> Floats:
        """The probability of each of `tokens`, shape (N,), after the ids `before`, shape (N, order - 1), in which a
        place before the text is `NO_RUN`; shape (order, N), by the tokens of the longest run."""
        found = np.empty((self.order, len(tokens)))
        lower = np.full(len(tokens), 1 / self.vocabulary)
        for n in range(1, self.order + 1):
            if n <= len(self._levels):
                lower = self._interpolated(n, self._ranks(before, n - 1), tokens, lower)
            found[n - 1] = lower
        return found

    def most_likely(self, before: Integers) -> Integers:
        """The token of the highest probability after the ids `before`, shape (order - 1,), by the tokens of the longest
        run; of equal ones the first."""
        found = np.empty(self.order, dtype=np.int64)
        everything = np.arange(self.vocabulary)
        lower = np.full(self.vocabulary, 1 / self.vocabulary)
        for n in range(1, self.order + 1):
            if n <= len(self._levels):
                rank = self._ranks(before[None], n - 1)
                lower = self._interpolated(n, np.repeat(rank, self.vocabulary), everything, lower)
            found[n - 1] = lower.argmax()
        return found

    def _interpolated(self, n: int, ranks: Integers, tokens: Integers, lower: Floats) -> Floats:
        """P_n of each token after a run of n - 1 tokens with this rank, where `lower` is P_(n-1)."""
        level = self._levels[n - 1]
        known = ranks != NO_RUN
        place = np.where(known, ranks, 0)
        stops = level.ends[place]
        starts = np.where(place > 0, level.ends[place - 1], 0)
        after = np.where(known, level.before[stops] - level.before[starts], 0)
        kinds = np.where(known, stops - starts, 0)
        at = self._find(level, np.where(known, ranks * self.vocabulary + tokens, NO_RUN))
        seen = np.where(at == NO_RUN, 0, level.counts[at])
        with np.errstate(invalid="ignore"):
            mixed = (seen + kinds * lower) / (after + kinds)
        return np.where(after > 0, mixed, lower)

    def _ranks(self, before: Integers, length: int) -> Integers:
        """The rank of the last `length` ids of each of `before` among the runs of that length."""
        ranks = np.zeros(len(before), dtype=np.int64)
        for n in range(length):
            ids = before[:, before.shape[1] - length + n]
            known = (ranks != NO_RUN) & (ids != NO_RUN)
            ranks = self._find(self._levels[n], np.where(known, ranks * self.vocabulary + ids, NO_RUN))
        return ranks

    @staticmethod
    def _find(level: _Level, keys: Integers) -> Integers:
        """The place of each key, or `NO_RUN`."""
        places = np.minimum(np.searchsorted(level.keys, keys), len(level.keys) - 1)
        return np.where(level.keys[places] == keys, places, NO_RUN)


def bits_per_byte(
    counts: CountedRuns, blocks: Iterable[NDArray[np.unsignedinteger]], num_bytes: Integers
) -> list[float]:
    """The bits that the targets of rows, all ids but the first of each, take for each byte of their text, by the tokens
    of the longest run. The rows come in blocks, shape (some, width); `num_bytes` has the bytes of each id."""
    bits: list[list[float]] = []
    all_bytes = 0
    for rows in blocks:
        histories = [_histories(row.tolist(), 1, counts.order) for row in rows]
        found = counts.probabilities(np.concatenate(histories), rows[:, 1:].astype(np.int64).ravel())
        bits.append([-math.fsum(map(math.log2, each)) for each in found.tolist()])
        all_bytes += int(num_bytes[rows[:, 1:]].sum())
    return [round(math.fsum(each) / all_bytes, DIGITS) for each in zip(*bits, strict=True)]


def accuracies(counts: CountedRuns, items: Sequence[Item], ids_of: TextIds) -> list[tuple[float, float]]:
    """Accuracy on items and its standard error, by the tokens of the longest run.

    The choice of the highest likelihood is the answer, the first of equal ones; the choice of an item that has no other
    is right if each of its tokens is the most likely one. The standard error is that of the harness.
    """
    flat = prompts([choice for item in items for choice in item.choices], ids_of)
    right = [0] * counts.order
    if all(len(item.choices) == 1 for item in items):
        for prompt in flat:
            likely = [counts.most_likely(before) for before in _histories_of(prompt, counts.order)]
            fits = [[int(each[n]) for each in likely] == prompt.continuation for n in range(counts.order)]
            right = [number + fit for number, fit in zip(right, fits, strict=True)]
    else:
        before = np.concatenate([_histories_of(prompt, counts.order) for prompt in flat])
        tokens = np.concatenate([np.array(prompt.continuation, dtype=np.int64) for prompt in flat])
        bounds = np.cumsum([0, *(len(prompt.continuation) for prompt in flat)]).tolist()
        for n, found in enumerate(counts.probabilities(before, tokens).tolist()):
            logs = [*map(math.log2, found)]
            sums = iter([math.fsum(logs[start:stop]) for start, stop in pairwise(bounds)])
            for item in items:
                own = [next(sums) for _ in item.choices]
                right[n] += own.index(max(own)) == item.gold
    return [_accuracy(number, len(items)) for number in right]


def _accuracy(right: int, items: int) -> tuple[float, float]:
    share = right / items
    error = math.sqrt(share * (1 - share) / (items - 1)) if items > 1 else 0.0
    return round(share, DIGITS), round(error, DIGITS)


def _histories_of(prompt: Prompt, order: int) -> Integers:
    return _histories([*prompt.context, *prompt.continuation], len(prompt.context), order)


def _histories(ids: Sequence[int], first: int, order: int) -> Integers:
    """The `order - 1` ids before each of `ids` from `first` on, shape (ids, order - 1)."""
    padded = np.array([NO_RUN] * (order - 1) + [*ids], dtype=np.int64)
    if order == 1:
        return np.empty((len(ids) - first, 0), dtype=np.int64)
    return np.lib.stride_tricks.sliding_window_view(padded[:-1], order - 1)[first:]
