"""Exact and near duplicates: what makes two texts the same, and the evidence for it.

Exact: equal after folding (`shingles.fold`). Near: Jaccard similarity of the sets of word n-grams at or above a
threshold. MinHash with banding (Broder 1997) only proposes pairs; every removal is measured on the whole sets.

Documents are known by their *rank*, their place in the order of preference: of duplicates the lowest stays. Only those
that share a band with another have a rank at all.

In each band a document is compared with at most `MAX_COMPARED` documents of its key: those before it that stay, nearest
rank first. So the work grows with the documents and not with their square, even if all of them begin with one page
header. What that costs: in a band in which thousands share the header and nothing else, a near duplicate further away
is not seen. It is still found by any other band, and exact duplicates are found without bands.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.yaml import Section
from pipeline.blocks.shingles import compiled, similarity

SEED = 1
MAX_COMPARED = 128
"""Documents of one key of a band; the largest group of the default release has fewer."""
Flags = NDArray[np.bool_]
Keys = NDArray[np.uint64]
Links = NDArray[np.int32]
Ranks = NDArray[np.int64]


class DuplicateRules(Section):
    """MinHash with `bands` x `rows` permutations over shingles of `shingle_words` words."""

    shingle_words: int
    bands: int
    rows: int
    min_similarity: float


class Duplicates(NamedTuple):
    """Arrays over what is removed, ascending: document `removed` repeats document `kept` (both by rank); `exact` after
    folding."""

    removed: Ranks
    kept: Ranks
    similarity: NDArray[np.float64]
    exact: Flags


class Sets(NamedTuple):
    """Sorted sets of shingles, one behind the other: that of a rank is `hashes[starts[rank]:stops[rank]]`."""

    hashes: Keys
    starts: Ranks
    stops: Ranks


class Judged(NamedTuple):
    """Per document: the rank kept in its place (its own if it stays), the similarity to that document, the last rank
    that was compared with it, and whether its key has more documents than it was compared with."""

    kept: Ranks
    similarity: NDArray[np.float64]
    met: Ranks
    cut_short: Flags


def shared(keys: Keys) -> Flags:
    """Which of the keys stand there more than once."""
    order = np.argsort(keys)
    equal = keys[order[1:]] == keys[order[:-1]]
    found: Flags = np.zeros(len(keys), dtype=bool)
    found[order[1:][equal]] = True
    found[order[:-1][equal]] = True
    return found


def first_copies(fingerprints: Keys) -> Ranks:
    """For each rank the lowest rank with the same fingerprint: its own, if it is the first.

    `fingerprints` has shape (2, documents): 16 bytes each.
    """
    order = np.lexsort(fingerprints)  # stable, so a group's first is its lowest rank
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (fingerprints[:, order[1:]] != fingerprints[:, order[:-1]]).any(axis=0)
    copies: Ranks = np.empty_like(order)
    copies[order] = order[begins][np.cumsum(begins) - 1]
    return copies


def linked(copies: Ranks, keys_of_bands: Iterable[Keys], bands: int) -> Links:
    """Shape (documents, bands): the rank before, with the same key in a band; -1 where there is none.

    Only first copies are linked. 32 bits, because ranks beyond them would not fit in memory either.
    """
    first = np.flatnonzero(copies == np.arange(len(copies)))
    links = np.full((len(copies), bands), -1, dtype=np.int32)
    for band, keys in enumerate(keys_of_bands):
        order = first[np.argsort(keys[first], kind="stable")]
        equal = keys[order[1:]] == keys[order[:-1]]
        links[order[1:][equal], band] = order[:-1][equal]
    return links


def members(links: Links) -> Ranks:
    """Those that are linked with another, ascending: the ones whose shingles are needed."""
    found: Flags = np.zeros(len(links), dtype=bool)
    for band in links.T:
        found |= band >= 0
        found[band[band >= 0]] = True
    return np.flatnonzero(found)


def all_stay(number: int) -> Judged:
    return Judged(np.arange(number), np.full(number, -1.0), np.full(number, -1), np.zeros(number, dtype=np.bool_))


def reached(ranks: Ranks, links: Links, judged: Judged) -> Ranks:
    """`ranks`, ascending, and all lower ones that `judge` may compare them with."""
    return np.flatnonzero(_reached(ranks, links, judged.kept, MAX_COMPARED))


def judge(ranks: Ranks, links: Links, sets: Sets, min_similarity: float, judged: Judged) -> int:
    """Near duplicates among `ranks`, ascending, when all lower ones are judged: a document falls only for a similar one
    of lower rank that itself stays. Returns how many pairs were compared.

    So nothing falls by a chain of similarities. Among several that stay, the most similar one is named, the lowest
    of equals. Links lead past documents that fell, so a cluster costs its size, not its square.
    """
    kept, similarities, met, cut_short = judged
    return _judge(ranks, links, *sets, min_similarity, MAX_COMPARED, kept, similarities, met, cut_short)


def with_copies(copies: Ranks, judged: Judged) -> Duplicates:
    """All duplicates: a further copy of a text stays or falls as the first one does."""
    kept = judged.kept[copies]
    exact = kept == copies
    found = np.where(exact, 1.0, judged.similarity[copies])
    removed = np.flatnonzero(kept != np.arange(len(kept)))
    return Duplicates(removed, kept[removed], found[removed], exact[removed])


@compiled
def _reached(ranks: Ranks, links: Links, kept: Ranks, most: int) -> Flags:
    found = np.zeros(len(kept), dtype=np.bool_)
    for rank in ranks:
        found[rank] = True
        for band in range(links.shape[1]):
            other = links[rank, band]
            stay = 0
            while other >= 0 and stay < most:
                found[other] |= kept[other] == other
                if other >= ranks[0]:  # one of them: it goes on from there itself
                    break
                stay += kept[other] == other
                other = links[other, band]
    return found


@compiled
def _judge(
    ranks: Ranks,
    links: Links,
    hashes: Keys,
    starts: Ranks,
    stops: Ranks,
    min_similarity: float,
    max_compared: int,
    kept: Ranks,
    most: NDArray[np.float64],
    met: Ranks,
    cut_short: Flags,
) -> int:
    compared = 0
    for rank in ranks:
        best = -1.0
        named = rank
        for band in range(links.shape[1]):
            other = links[rank, band]
            if other >= 0 and kept[other] != other:
                other = links[rank, band] = links[other, band]  # which stays: `other` was led past all before it
            stay = 0
            while other >= 0 and stay < max_compared:
                stay += 1
                if met[other] != rank:
                    met[other] = rank
                    compared += 1
                    value = _similarity_above(
                        hashes[starts[rank] : stops[rank]], hashes[starts[other] : stops[other]], min_similarity
                    )
                    if value > best or (value == best and other < named):
                        best = value
                        named = other
                other = links[other, band]
            cut_short[rank] |= other >= 0
        most[rank] = best
        if best >= min_similarity:
            kept[rank] = named
    return compared


@compiled
def _similarity_above(left: Keys, right: Keys, minimum: float) -> float:
    """The similarity, or 0 where the sizes say that it is below `minimum`: as a quotient, which rounds alike."""
    shorter, longer = min(len(left), len(right)), max(len(left), len(right))
    return similarity(left, right) if shorter / longer >= minimum else 0.0
