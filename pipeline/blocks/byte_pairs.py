"""Byte-level BPE in plain Python (Sennrich et al. 2016; Radford et al. 2019): what a text's token ids must be.

A second encoder, for readers who check rows and have none of the libraries that encode them. A text is cut into words
by the pattern of GPT-2, and a word is merged pair by pair, the earliest learned pair first. Texts repeat their words,
so each word is merged once.
"""

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import groupby, pairwise

from pipeline.formats.vocabulary import BYTE_OF

MOST_WORDS = 1 << 20
"""Words whose ids are kept."""
LONG_WORD = 200
"""Bytes from which on a heap is faster than a search of all pairs."""
BLANKS = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""The property White_Space of Unicode, which is not what `\\s` means in Python."""
CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}


class BytePairs:
    """Encoder of ordinary text. `vocabulary` maps tokens, in the characters of GPT-2, to ids; `merges` are the pairs in
    the order in which they were learned."""

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
        self._words = _Words({token: id.to_bytes(4, "little") for token, id in vocabulary.items()}, merges)

    def encode(self, text: str) -> bytes:
        """Encode a text; return its ids as little-endian integers of 32 bits."""
        return b"".join(map(self._words.__getitem__, split(text)))


def split(text: str) -> list[str]:
    """Cut a text into the words within which pairs are merged; joined, they are the text."""
    return (_of_ascii() if text.isascii() else _of_unicode()).findall(text)


def is_known(text: str) -> bool:
    """Tell whether this Python's version of Unicode knows each character, so that `split` cuts as newer ones do."""
    return text.isascii() or all(unicodedata.category(character) != "Cn" for character in set(text))


class _Words(dict[str, bytes]):
    """Ids of each word, made when they are first asked for."""

    def __init__(self, ids: dict[str, bytes], merges: Sequence[tuple[str, str]]) -> None:
        self._ids = ids
        self._ranks = {pair: rank for rank, pair in reversed([*enumerate(map(tuple, merges))])}

    def __missing__(self, word: str) -> bytes:
        if len(self) >= MOST_WORDS:
            self.clear()
        parts = [CHARACTER_OF[byte] for byte in word.encode()]
        merged = self._merged(parts) if len(parts) < LONG_WORD else self._merged_long(parts)
        self[word] = ids = b"".join([self._ids[part] for part in merged])
        return ids

    def _merged(self, parts: list[str]) -> list[str]:
        """Merge the parts of a word; the time grows with the square of its length."""
        rank, never = self._ranks.get, len(self._ranks)
        ranks = [rank(pair, never) for pair in pairwise(parts)]
        while ranks and (first := min(ranks)) < never:
            place = ranks.index(first)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            del ranks[place]
            if place:
                ranks[place - 1] = rank((parts[place - 1], parts[place]), never)
            if place < len(ranks):
                ranks[place] = rank((parts[place], parts[place + 1]), never)
        return parts

    def _merged_long(self, parts: list[str]) -> list[str]:
        """Merge the parts of a long word by a heap of pairs; a part that was merged into another is empty."""
        before, after = [*range(-1, len(parts) - 1)], [*range(1, len(parts) + 1)]
        pairs = [(self._ranks[pair], place) for place, pair in enumerate(pairwise(parts)) if pair in self._ranks]
        heapify(pairs)
        while pairs:
            rank, place = heappop(pairs)
            other = after[place]
            if other >= len(parts) or self._ranks.get((parts[place], parts[other])) != rank:
                continue  # one of the two was merged meanwhile
            parts[place], parts[other] = parts[place] + parts[other], ""
            after[place] = after[other]
            if after[place] < len(parts):
                before[after[place]] = place
            for left, right in ((before[place], place), (place, after[place])):
                if left >= 0 and right < len(parts) and (pair := (parts[left], parts[right])) in self._ranks:
                    heappush(pairs, (self._ranks[pair], left))
        return [part for part in parts if part]


@cache
def _of_ascii() -> re.Pattern[str]:
    return _pattern("A-Za-z", "0-9")


@cache
def _of_unicode() -> re.Pattern[str]:
    kinds = [unicodedata.category(chr(code))[0] for code in range(0x110000)]
    ranges = {"L": "", "N": ""}
    begin = 0
    for kind, run in groupby(kinds):
        end = begin + len([*run])
        if kind in ranges:
            ranges[kind] += f"\\U{begin:08x}-\\U{end - 1:08x}"
        begin = end
    return _pattern(ranges["L"], ranges["N"])


def _pattern(letters: str, digits: str) -> re.Pattern[str]:
    others = f"[^{BLANKS}{letters}{digits}]"
    return re.compile(
        f"'(?:[stmd]|re|ve|ll)| ?[{letters}]+| ?[{digits}]+| ?{others}+|[{BLANKS}]+(?![^{BLANKS}])|[{BLANKS}]+"
    )
