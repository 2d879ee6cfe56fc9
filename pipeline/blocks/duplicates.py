"""Exact and near duplicates: what makes two texts the same, and the evidence for it.

Exact: equal after lower-casing and folding of white space. Near: Jaccard similarity of the sets of word
n-grams (shingles) at or above a threshold. MinHash with banding (Broder 1997; Leskovec et al., Mining of
Massive Datasets, section 3.4) only proposes pairs; every decision is measured on the texts themselves.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.formats.yaml import Section

SEED = 1


class DuplicateRules(Section):
    """MinHash with `bands` x `rows` permutations over shingles of `shingle_words` words."""

    shingle_words: int
    bands: int
    rows: int
    min_similarity: float


@dataclass(frozen=True)
class Duplicate:
    """Document `removed` repeats document `kept` (both by rank); `exact` after folding."""

    removed: int
    kept: int
    similarity: float
    exact: bool


def words_of(text: str) -> list[str]:
    """Lower-cased runs of non-blank characters."""
    return text.lower().split()


def fingerprint(words: list[str]) -> bytes:
    """16 bytes that are equal exactly when two texts are exact duplicates."""
    return hashlib.sha256(" ".join(words).encode()).digest()[:16]


def shingles(words: list[str], size: int) -> set[str]:
    """The set of word n-grams; a text of fewer words is one shingle."""
    return {" ".join(words[i : i + size]) for i in range(max(len(words) - size + 1, 1))}


def jaccard(left: set[str], right: set[str]) -> float:
    """|A and B| / |A or B|, rounded to six digits."""
    common = len(left & right)
    return round(common / (len(left) + len(right) - common), 6)


def band_hashes(words: list[str], rules: DuplicateRules) -> NDArray[np.uint64]:
    """One hash for each band of the MinHash signature, shape (bands,)."""
    from rensa import RMinHash

    minhash = RMinHash(num_perm=rules.bands * rules.rows, seed=SEED)
    minhash.update(list(shingles(words, rules.shingle_words)))
    signature = np.array(minhash.digest(), dtype="<u4").reshape(rules.bands, rules.rows)
    return np.array([xxhash.xxh3_64_intdigest(band.tobytes()) for band in signature], dtype=np.uint64)


def find_duplicates(
    fingerprints: Iterable[bytes],
    bands: NDArray[np.uint64],
    shingles_of: Callable[[int], set[str]],
    min_similarity: float,
) -> Iterator[Duplicate]:
    """Duplicates among documents that come in rank order: the earlier rank stays.

    A document is removed only for a document that itself stays, so nothing falls by a chain of
    similarities. Among several that stay, the most similar one is named, the earliest of equals.
    `bands` has shape (documents, bands); `shingles_of(rank)` fetches a text again for the measurement.
    """
    stays: dict[bytes, tuple[int, float, bool]] = {}  # fingerprint -> who stayed for it, how similar, exact
    buckets: list[dict[int, list[int]]] = [{} for _ in range(bands.shape[1])]
    for rank, mark in enumerate(fingerprints):
        if mark in stays:
            kept, similarity, exact = stays[mark]
            yield Duplicate(removed=rank, kept=kept, similarity=similarity, exact=exact)
            continue
        keys = bands[rank].tolist()
        proposed = sorted({kept for bucket, key in zip(buckets, keys, strict=True) for kept in bucket.get(key, ())})
        kept, similarity = _most_similar(rank, proposed, shingles_of)
        if kept >= 0 and similarity >= min_similarity:
            stays[mark] = kept, similarity, False
            yield Duplicate(removed=rank, kept=kept, similarity=similarity, exact=False)
            continue
        stays[mark] = rank, 1.0, True
        for bucket, key in zip(buckets, keys, strict=True):
            bucket.setdefault(key, []).append(rank)


def _most_similar(rank: int, proposed: list[int], shingles_of: Callable[[int], set[str]]) -> tuple[int, float]:
    best, best_similarity = -1, 0.0
    if proposed:
        ours = shingles_of(rank)
        for other in proposed:
            similarity = jaccard(ours, shingles_of(other))
            if similarity > best_similarity:
                best, best_similarity = other, similarity
    return best, best_similarity
