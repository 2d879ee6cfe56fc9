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

from pipeline.blocks.block import Block, Fault, Outcome
from pipeline.blocks.shingles import BLANK, Hashes, fold_all, shingle_hashes

PUNCTUATION = re.compile(r"[^\w\s]|_")
ASCII_PUNCTUATION = {code: None for code in range(128) if PUNCTUATION.fullmatch(chr(code))}
MAX_NAMED = 8  # items that the record of a removal names
FIRST_BITS = 24  # of a hash: at two million n-grams in the index, one in nine hashes passes the first lookup


class EvaluationIndex(NamedTuple):
    """Sorted hashes of n-grams of `size` words, and a map from the index of one to the (set, item) of its first use."""

    size: int
    hashes: Hashes
    item_of: Callable[[int], tuple[str, str]]


def contamination(index: EvaluationIndex) -> Block:
    """Make the block; its detail names the items found, its counts their sets."""

    shift = np.uint64(64 - FIRST_BITS)
    begins = np.zeros(1 << FIRST_BITS, dtype=bool)
    begins[index.hashes >> shift] = True

    def judge(text: str) -> Outcome:
        grams = ngram_hashes(text, index.size)
        grams = np.unique(grams[begins[grams >> shift]])  # few are left to search for
        places = np.searchsorted(index.hashes, grams)
        places[places == len(index.hashes)] = 0
        hit = places[index.hashes[places] == grams] if len(index.hashes) else places[:0]
        if not len(hit):
            return None
        items = sorted({index.item_of(place) for place in hit.tolist()})
        named = ", ".join(" ".join(item) for item in items[:MAX_NAMED])
        more = f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""
        return Fault("contamination", named + more, Counter({name: 1 for name, _ in items}))

    return judge


def ngram_hashes(text: str, size: int) -> Hashes:
    """Hash each n-gram in the order of the text: shape (words - size + 1,), empty for a shorter text."""
    texts = fold_all([bare(text)])
    words = np.count_nonzero(texts.content == BLANK) + bool(len(texts.content))
    if words < size:
        return np.empty(0, dtype=np.uint64)
    return shingle_hashes(texts, size)[0]


def bare(text: str) -> str:
    """Keep letters, digits and blanks; punctuation is deleted, not replaced: `don't` is one word, and so is `a-b`."""
    return text.translate(ASCII_PUNCTUATION) if text.isascii() else PUNCTUATION.sub("", text)
