"""Words, shingles and MinHash of many texts at once, on their bytes, in compiled loops.

The cost of near-duplicate search is splitting text into words, not its permutations: Python spends a good part of a
microsecond on each object it makes. Here folding, words, shingles, MinHash and intersections are loops over bytes
and 64-bit numbers that numba compiles, all integer, so that their results are the same on every processor.

A text's *words* are the runs of non-blank characters of its lower case, in the Unicode sense of `str.split`. A
*shingle* is `size` words in a row; a text of fewer words is one shingle. A shingle is identified by its 64-bit hash:
all of a million differ with probability 1 - 3e-8, and an auditor measures on the words themselves
(`everystep duplicates`, tests).

Shape suffixes: D documents, W words, S shingles (of all documents, concatenated), P permutations, B bands.
"""

import hashlib
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np
from numba import config, njit, uint8, uint32, uint64
from numba.core import entrypoints
from numpy.typing import NDArray

# numba loads extensions from installed packages: awkward, a dependency of gigatoken, takes a quarter of a second and
# 30 MB in each process. Nothing here uses its types.
entrypoints._already_initialized = True

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
Stops = NDArray[np.int64]
Given = ParamSpec("Given")
Result = TypeVar("Result")

BLANK = 32
AT_ONCE = 4  # shingles that are permuted together: twice as fast as one by one
FNV_OFFSET, FNV_PRIME = 0xCBF29CE484222325, 0x100000001B3
FACTOR = 0x9E3779B97F4A7C15  # of the polynomial over a shingle's words; odd


class Texts(NamedTuple):
    """Folded texts, concatenated: document d is `content[stops[d - 1]:stops[d]]`, the hashes of its words are
    `words[word_stops[d - 1]:word_stops[d]]`."""

    content: Bytes
    stops: Stops
    words: Hashes
    word_stops: Stops


def fold(text: str) -> bytes:
    """Join the words in lower case with single blanks. Exact duplicates are equal after that."""
    return " ".join(text.lower().split()).encode()


def fold_all(texts: Iterable[str]) -> Texts:
    """Fold each text. ASCII, as most text is, is folded in a compiled loop."""
    raw = [text.encode() if text.isascii() else fold(text) for text in texts]
    stops = np.cumsum([len(text) for text in raw], dtype=np.int64)
    given = np.frombuffer(b"".join(raw), dtype=np.uint8)
    content = np.empty(len(given) + 1, dtype=np.uint8)  # one more than is kept is written
    words = np.empty((len(given) + 1) // 2 + len(raw), dtype=np.uint64)
    word_stops = np.empty_like(stops)
    end, word_end = _fold_ascii(given, stops, _folded_bytes(), content, words, word_stops)
    return Texts(content[:end], stops, words[:word_end], word_stops)


def word_hashes(text: str) -> Hashes:
    """Hash each word of one text: what `fold_all` has as `words`, but none for a text without words."""
    raw = text.encode() if text.isascii() else fold(text)
    given = np.frombuffer(raw, dtype=np.uint8)
    stops, word_stops = np.array([len(raw)]), np.empty(1, dtype=np.int64)
    content, words = np.empty(len(raw) + 1, dtype=np.uint8), np.empty(len(raw) // 2 + 2, dtype=np.uint64)
    end, word_end = _fold_ascii(given, stops, _folded_bytes(), content, words, word_stops)
    return words[: word_end if end else 0]


def fingerprints(texts: Texts) -> Hashes:
    """Compute the first 16 bytes of the SHA-256 of each folded text, equal when these are equal. Shape (2, D)."""
    content, stops = texts.content.data, texts.stops.tolist()
    spans = zip([0, *stops], stops, strict=False)
    digests = b"".join([hashlib.sha256(content[start:stop]).digest() for start, stop in spans])
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 4)[:, :2].T


def band_keys(texts: Texts, size: int, bands: int, rows: int, seed: int) -> Hashes:
    """Compute a key for each band of each text's MinHash signature, shape (D, B).

    Texts that share a key agree in `rows` minima of the band's permutations (Leskovec, Rajaraman, Ullman, Mining of
    Massive Datasets, section 3.4): with Jaccard similarity s that happens in some band with probability
    1 - (1 - s^rows)^bands.
    """
    multipliers_P, increments_P = _permutations(bands * rows, seed)
    keys_DB = np.empty((len(texts.stops), bands), dtype=np.uint64)
    _minhash(texts.words, texts.word_stops, size, multipliers_P, increments_P, rows, keys_DB)
    return keys_DB


def shingle_sets(texts: Texts, size: int) -> tuple[Hashes, Stops]:
    """Compute the sorted set of each text's shingles, concatenated, and where each ends."""
    hashes_S, stops_D = shingle_hashes(texts, size)
    for piece in np.split(hashes_S, stops_D[:-1]):
        piece.sort()  # by numpy's vectorized sort, several times as fast as numba's
    return _unique(hashes_S, stops_D)


def shingle_hashes(texts: Texts, size: int) -> tuple[Hashes, Stops]:
    """Hash every shingle in the order of the texts; also return where each text's shingles end."""
    words_D = np.diff(texts.word_stops, prepend=0)
    stops_D = np.cumsum(np.maximum(words_D - size + 1, 1), dtype=np.int64)
    hashes_S = np.empty(stops_D[-1] if len(stops_D) else 0, dtype=np.uint64)
    _shingle_all(texts.words, texts.word_stops, size, hashes_S)
    return hashes_S, stops_D


def one_shingle_hashes(words_W: Hashes, size: int) -> Hashes:
    """Hash every shingle of the words of one text."""
    hashes_S = np.empty(max(len(words_W) - size + 1, 1), dtype=np.uint64)
    _shingles_of(words_W, size, hashes_S)
    return hashes_S


@cache
def _folded_bytes() -> Bytes:
    """Make the table from a byte to its folded form. Blanks are those of `str.split` below 128: tab to carriage return,
    the four separators from 28 on, space."""
    table = np.arange(256, dtype=np.uint8)
    table[65:91] += 32
    table[[*range(9, 14), *range(28, 32)]] = BLANK
    return table


@cache
def _permutations(number: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Draw odd multipliers and increments of h(x) = a x + b modulo 2^32 (Dietzfelbinger et al. 1997)."""
    stream = hashlib.shake_256(f"everystep/minhash/{seed}".encode()).digest(8 * number)
    drawn = np.frombuffer(stream, dtype="<u4").reshape(2, number).astype(np.uint32)
    return drawn[0] | np.uint32(1), drawn[1]


def _machine_code() -> str:
    """The folder of machine code that was compiled from these very sources.

    numba compares a cached loop with the file of that loop alone, so it would keep one whose callee, in another file,
    has changed.
    """
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return str(Path(__file__).parent / "__pycache__" / f"numba-{hashlib.sha256(sources).hexdigest()[:16]}")


config.CACHE_DIR = _machine_code()  # type: ignore[attr-defined]


def compiled(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Compile a function with numba, without Python objects, on its first call on a machine."""
    loop: Callable[Given, Result] = njit(cache=True, nogil=True)(function)
    return loop


@compiled
def _mixed(value: Any) -> Any:
    """Apply the finalizer of SplitMix64 (Steele, Lea, Flood 2014)."""
    value = (value ^ (value >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> uint64(27))) * uint64(0x94D049BB133111EB)
    return value ^ (value >> uint64(31))


@compiled
def similarity(left: Hashes, right: Hashes) -> float:
    """Compute |A and B| / |A or B| of two sorted sets, in floating point."""
    i = j = common = 0
    while i < len(left) and j < len(right):
        a, b = left[i], right[j]
        common += a == b
        i += a <= b
        j += b <= a
    return common / (len(left) + len(right) - common)


@compiled
def _fold_ascii(
    given: Bytes, stops: Stops, folded: Bytes, content: Bytes, words: Hashes, word_stops: Stops
) -> tuple[int, int]:
    """Fold texts into `content`, move their ends, and hash their words (FNV-1a); return both lengths.

    Folded text stays as it is. An empty text has one empty word, so that every text has a shingle.
    Bytes are placed without a branch: a blank after a blank is overwritten by the next byte.
    """
    start = end = word_end = 0
    for d in range(len(stops)):
        begin, word_begin = end, word_end
        last = uint8(BLANK)
        value = uint64(FNV_OFFSET)
        for i in range(start, stops[d]):
            byte = folded[given[i]]
            content[end] = byte
            end += (byte | last) != BLANK
            if byte != BLANK:
                value = (value ^ uint64(byte)) * uint64(FNV_PRIME)
            elif last != BLANK:
                words[word_end] = _mixed(value)
                word_end += 1
                value = uint64(FNV_OFFSET)
            last = byte
        if last != BLANK or word_end == word_begin:
            words[word_end] = _mixed(value)
            word_end += 1
        elif end > begin:
            end -= 1
        start = stops[d]
        stops[d], word_stops[d] = end, word_end
    return end, word_end


@compiled
def _shingles_of(words_W: Hashes, size: int, out_S: Hashes) -> int:
    """Write the hash of each shingle of some words; return their number."""
    length = min(size, len(words_W))
    shingles = max(len(words_W) - size + 1, 1)
    for i in range(shingles):
        value = uint64(length)
        for word in words_W[i : i + length]:
            value = value * uint64(FACTOR) + word
        out_S[i] = _mixed(value)
    return shingles


@compiled
def _minhash(
    words_W: Hashes, stops: Stops, size: int, multipliers_P: Any, increments_P: Any, rows: int, keys_DB: Hashes
) -> None:
    hashes_S = np.empty(len(words_W) + AT_ONCE, dtype=np.uint64)
    minima_P = np.empty(len(multipliers_P), dtype=np.uint32)
    start = 0
    for d in range(len(stops)):
        shingles = _shingles_of(words_W[start : stops[d]], size, hashes_S)
        hashes_S[shingles : shingles + AT_ONCE] = hashes_S[0]  # a repeated one changes no minimum
        _take_minima(hashes_S[: shingles + AT_ONCE], multipliers_P, increments_P, minima_P)
        for b in range(keys_DB.shape[1]):
            key = uint64(b)
            for minimum in minima_P[b * rows : (b + 1) * rows]:
                key = _mixed(key + uint64(FACTOR) + uint64(minimum))
            keys_DB[d, b] = key
        start = stops[d]


@compiled
def _take_minima(hashes_S: Hashes, multipliers_P: Any, increments_P: Any, minima_P: Any) -> None:
    """Write the minimum of each permutation; hashes beyond the last full group of `AT_ONCE` are ignored."""
    minima_P[:] = 0xFFFFFFFF
    for s in range(0, len(hashes_S) - AT_ONCE + 1, AT_ONCE):
        w, x, y, z = (
            uint32(hashes_S[s] >> uint64(32)),
            uint32(hashes_S[s + 1] >> uint64(32)),
            uint32(hashes_S[s + 2] >> uint64(32)),
            uint32(hashes_S[s + 3] >> uint64(32)),
        )
        for p in range(len(minima_P)):
            a, b = multipliers_P[p], increments_P[p]
            one = min(uint32(a * w + b), uint32(a * x + b))
            other = min(uint32(a * y + b), uint32(a * z + b))
            minima_P[p] = min(minima_P[p], min(one, other))


@compiled
def _shingle_all(words_W: Hashes, stops: Stops, size: int, out_S: Hashes) -> None:
    start = end = 0
    for stop in stops:
        end += _shingles_of(words_W[start:stop], size, out_S[end:])
        start = stop


@compiled
def _unique(sorted_S: Hashes, stops_D: Stops) -> tuple[Hashes, Stops]:
    kept_S = np.empty_like(sorted_S)
    kept_stops_D = np.empty_like(stops_D)
    start = end = 0
    for d in range(len(stops_D)):
        for i in range(start, stops_D[d]):
            if i == start or sorted_S[i] != sorted_S[i - 1]:
                kept_S[end] = sorted_S[i]
                end += 1
        kept_stops_D[d] = end
        start = stops_D[d]
    return kept_S[:end], kept_stops_D
