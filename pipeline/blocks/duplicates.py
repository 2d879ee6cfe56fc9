"""Exact and near duplicates: which texts repeat another, and the evidence for it.

Exact duplicates are equal after folding (`shingles.fold`). Near duplicates have a Jaccard similarity of their sets of
word n-grams at or above a threshold. MinHash with banding (Broder 1997) only proposes pairs; every removal is measured
on the whole sets.

A document is identified by its *rank*, its place in the order of preference: of duplicates the lowest rank stays. Only
documents that share a band with another have a rank at all.

In each band a document is compared with at most `MAX_COMPARED` documents of its key: those of lower rank that stay,
nearest rank first. So the work grows with the number of documents and not with its square, even if all of them begin
with the same page header. The cost: in a band in which thousands share only the header, a near duplicate further away
is missed. Any other band can still find it, and exact duplicates are found without bands.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.yaml import Section
from pipeline.blocks.shingles import compiled, similarity

SEED = 1
MAX_COMPARED = 128
"""Limit of comparisons per document and band; the largest group of the default release is smaller."""
BLOCK = 1024
"""Documents that are compared before the shingles of the next ones are read."""
Flags = NDArray[np.bool_]
Keys = NDArray[np.uint64]
Links = NDArray[np.int32]
Ranks = NDArray[np.int64]


class DuplicateRules(Section):
    """Parameters of MinHash with `bands` x `rows` permutations over shingles of `shingle_words` words."""

    shingle_words: int
    bands: int
    rows: int
    min_similarity: float


class Duplicates(NamedTuple):
    """Duplicates, ascending: document `removed` repeats document `kept` (both by rank); `exact` after folding."""

    removed: Ranks
    kept: Ranks
    similarity: NDArray[np.float64]
    exact: Flags


class Sets(NamedTuple):
    """Sorted sets of shingles, concatenated: that of a rank is `hashes[starts[rank]:stops[rank]]`."""

    hashes: Keys
    starts: Ranks
    stops: Ranks


class Verdicts(NamedTuple):
    """Per document: the rank kept in its place (its own if it stays), the similarity to that document, the last rank
    that was compared with it, and whether its key has more documents than it was compared with."""

    kept: Ranks
    similarity: NDArray[np.float64]
    met: Ranks
    cut_short: Flags


def shared(keys: Keys) -> Flags:
    """Flag the keys that occur more than once."""
    order = np.argsort(keys)
    equal = keys[order[1:]] == keys[order[:-1]]
    found: Flags = np.zeros(len(keys), dtype=bool)
    found[order[1:][equal]] = True
    found[order[:-1][equal]] = True
    return found


def first_copies(fingerprints: Keys) -> Ranks:
    """Find for each rank the lowest rank with the same fingerprint: its own, if it is the first.

    `fingerprints` has shape (2, documents): 16 bytes each.
    """
    order = np.lexsort(fingerprints)  # stable, so a group's first is its lowest rank
    begins = np.ones(len(order), dtype=bool)
    begins[1:] = (fingerprints[:, order[1:]] != fingerprints[:, order[:-1]]).any(axis=0)
    copies: Ranks = np.empty_like(order)
    copies[order] = order[begins][np.cumsum(begins) - 1]
    return copies


def linked(copies: Ranks, keys_of_bands: Iterable[Keys], bands: int) -> Links:
    """Link each document to the previous rank with the same key in a band, -1 if there is none: (documents, bands).

    Only first copies are linked. Links have 32 bits, because more ranks would not fit in memory anyway.
    """
    first = np.flatnonzero(copies == np.arange(len(copies)))
    links = np.full((len(copies), bands), -1, dtype=np.int32)
    for band, keys in enumerate(keys_of_bands):
        order = first[np.argsort(keys[first], kind="stable")]
        equal = keys[order[1:]] == keys[order[:-1]]
        links[order[1:][equal], band] = order[:-1][equal]
    return links


def linked_ranks(links: Links) -> Ranks:
    """List the ranks that are linked with another, ascending: those whose shingles are needed."""
    found: Flags = np.zeros(len(links), dtype=bool)
    for band in links.T:
        found |= band >= 0
        found[band[band >= 0]] = True
    return np.flatnonzero(found)


def find_duplicates(
    copies: Ranks,
    links: Links,
    read_sets: Callable[[Ranks], Sets],
    min_similarity: float,
    advance: Callable[[int], None],
) -> tuple[Duplicates, int]:
    """Find all duplicates, and count the documents that stay after they were compared with only part of their key.

    `read_sets` gives the shingles of some ranks; those of a block, and of the documents that it may be compared with,
    are in memory at a time. `advance` is called with the number of documents compared.
    """
    verdicts = all_stay(len(copies))
    ranks = linked_ranks(links)
    for start in range(0, len(ranks), BLOCK):
        block = ranks[start : start + BLOCK]
        judge(block, links, read_sets(reached(block, links, verdicts)), min_similarity, verdicts)
        advance(len(block))
    stays = verdicts.kept == np.arange(len(copies))
    return with_copies(copies, verdicts), int((verdicts.cut_short & stays).sum())


def all_stay(number: int) -> Verdicts:
    """Start with verdicts by which every document stays."""
    return Verdicts(np.arange(number), np.full(number, -1.0), np.full(number, -1), np.zeros(number, dtype=np.bool_))


def reached(ranks: Ranks, links: Links, verdicts: Verdicts) -> Ranks:
    """List `ranks`, ascending, and all lower ones that `judge` may compare them with."""
    return np.flatnonzero(_reached(ranks, links, verdicts.kept, MAX_COMPARED))


def judge(ranks: Ranks, links: Links, sets: Sets, min_similarity: float, verdicts: Verdicts) -> int:
    """Judge `ranks`, ascending, after all lower ones: a document is removed only if it is similar to one of lower rank
    that itself stays. Updates `verdicts` and returns the number of pairs compared.

    So no document is removed through a chain of similarities. Of several that stay, the most similar one is named, the
    lowest of equals. Links lead past removed documents, so a cluster costs its size, not its square.
    """
    kept, similarities, met, cut_short = verdicts
    return _judge(ranks, links, *sets, min_similarity, MAX_COMPARED, kept, similarities, met, cut_short)


def with_copies(copies: Ranks, verdicts: Verdicts) -> Duplicates:
    """List all duplicates: a further copy of a text stays or is removed like the first one."""
    kept = verdicts.kept[copies]
    exact = kept == copies
    found = np.where(exact, 1.0, verdicts.similarity[copies])
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
                if other >= ranks[0]:  # one of `ranks`: the rest is reached from there
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
                other = links[rank, band] = links[other, band]  # this one stays: `other` was led past removed ones
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
    """Compute the similarity, or 0 if the quotient of the sizes, which rounds alike, is below `minimum`."""
    shorter, longer = min(len(left), len(right)), max(len(left), len(right))
    return similarity(left, right) if shorter / longer >= minimum else 0.0
