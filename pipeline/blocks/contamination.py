"""Contamination: documents that share a run of words with an evaluation set.

This is the check of GPT-3 (Brown et al. 2020, appendix C): lower case, no punctuation, words separated by blanks; a
document is contaminated if it contains any n-gram of an item, 13 words long there. An n-gram is identified by its
64-bit hash: the probability that any of 10^12 n-grams of a corpus collides with one of 10^6 is 0.05.
"""

import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import uint8, uint64

from pipeline.blocks.block import Block, Fault, Outcome
from pipeline.blocks.shingles import Bytes, Hashes, Stops, compiled, one_shingle_hashes, word_hashes

PUNCTUATION = re.compile(r"[^\w\s]|_")
ASCII_PUNCTUATION = {code: None for code in range(128) if PUNCTUATION.fullmatch(chr(code))}
MAX_NAMED = 8  # items that the record of a removal names
FIRST_BITS = 27  # of a hash: at two million n-grams in the index, one in seventy hashes passes the first lookup


class EvaluationIndex(NamedTuple):
    """Sorted hashes of n-grams of `size` words, and a map from the index of one to the (set, item) of its first use."""

    size: int
    hashes: Hashes
    item_of: Callable[[int], tuple[str, str]]


def contamination(index: EvaluationIndex) -> Block:
    """Make the block; its detail names the items found, its counts their sets."""

    begins = np.zeros((1 << FIRST_BITS) // 8, dtype=np.uint8)
    _note_beginnings(index.hashes, begins)

    def judge(text: str) -> Outcome:
        grams = ngram_hashes(text, index.size)
        hit = _places(grams, begins, index.hashes)
        if not len(hit):
            return None
        items = sorted({index.item_of(place) for place in set(hit.tolist())})
        named = ", ".join(" ".join(item) for item in items[:MAX_NAMED])
        more = f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
        return Fault("contamination", named + more, Counter({name: 1 for name, _ in items}))

    return judge


def ngram_hashes(text: str, size: int) -> Hashes:
    """Hash each n-gram in the order of the text: shape (words - size + 1,), empty for a shorter text."""
    words = word_hashes(bare(text))
    return one_shingle_hashes(words, size) if len(words) >= size else words[:0]


def bare(text: str) -> str:
    """Keep letters, digits and blanks; punctuation is deleted, not replaced: `don't` is one word, and so is `a-b`."""
    return text.translate(ASCII_PUNCTUATION) if text.isascii() else PUNCTUATION.sub("", text)


@compiled
def _note_beginnings(hashes: Hashes, begins: Bytes) -> None:
    """Set the bit of the first `FIRST_BITS` bits of each hash."""
    for value in hashes:
        first = value >> uint64(64 - FIRST_BITS)
        begins[first >> uint64(3)] |= uint8(1) << uint8(first & uint64(7))


@compiled
def _places(grams: Hashes, begins: Bytes, hashes: Hashes) -> Stops:
    """Find the places in `hashes`, which are sorted, of those n-grams that are there."""
    places = np.empty(len(grams), dtype=np.int64)
    found = 0
    for gram in grams:
        first = gram >> uint64(64 - FIRST_BITS)
        if begins[first >> uint64(3)] >> uint8(first & uint64(7)) & uint8(1):
            place = np.searchsorted(hashes, gram)
            if place < len(hashes) and hashes[place] == gram:
                places[found] = place
                found += 1
    return places[:found]
