import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.blocks.duplicates import (
    Duplicate,
    DuplicateRules,
    band_hashes,
    find_duplicates,
    fingerprint,
    jaccard,
    shingles,
    words_of,
)

RULES = DuplicateRules(shingle_words=5, bands=14, rows=8, min_similarity=0.8)
FINE = DuplicateRules(shingle_words=2, bands=32, rows=1, min_similarity=0.5)
WORDS = 500
TEXTS = st.lists(st.lists(st.sampled_from("abcdE"), max_size=8).map(" ".join), max_size=14)


def dedup(texts: list[str], rules: DuplicateRules, bands: NDArray[np.uint64] | None = None) -> list[Duplicate]:
    """Duplicates among texts in rank order; with `bands` all zero, every pair is measured."""
    words = [words_of(text) for text in texts]
    if bands is None:
        bands = np.array([band_hashes(each, rules) for each in words], dtype=np.uint64).reshape(-1, rules.bands)
    return list(
        find_duplicates(
            map(fingerprint, words), bands, lambda i: shingles(words[i], rules.shingle_words), rules.min_similarity
        )
    )


def every_pair(texts: list[str]) -> NDArray[np.uint64]:
    return np.zeros((len(texts), 1), dtype=np.uint64)


def similarity(left: str, right: str, rules: DuplicateRules) -> float:
    """Jaccard, spelt out by lists."""
    one, other = (
        {tuple(words[i : i + rules.shingle_words]) for i in range(max(1, len(words) - rules.shingle_words + 1))}
        for words in (left.lower().split(), right.lower().split())
    )
    return round(sum(shingle in other for shingle in one) / len(one.union(other)), 6)


def by_brute_force(texts: list[str], rules: DuplicateRules) -> dict[int, tuple[int, float]]:
    """removed -> (kept, similarity), from the definition: compare with everything that stays."""
    removed: dict[int, tuple[int, float]] = {}
    for rank, text in enumerate(texts):
        staying = [other for other in range(rank) if other not in removed]
        measured = [(similarity(text, texts[other], rules), -other) for other in staying]
        best = max(measured, default=(0.0, 0))
        if best[0] >= rules.min_similarity:
            removed[rank] = (-best[1], best[0])
    return removed


@given(TEXTS, st.sampled_from([0.3, 0.5, 0.8, 1.0]))
def test_when_every_pair_is_proposed_the_definition_decides(texts: list[str], threshold: float) -> None:
    rules = FINE.model_copy(update={"min_similarity": threshold})
    found = dedup(texts, rules, every_pair(texts))
    assert {d.removed: (d.kept, d.similarity) for d in found} == by_brute_force(texts, rules)


@given(TEXTS)
def test_what_is_removed_names_one_that_stays_and_their_true_similarity(texts: list[str]) -> None:
    found = dedup(texts, FINE)
    removed = [duplicate.removed for duplicate in found]
    assert removed == sorted(set(removed))
    for duplicate in found:
        assert duplicate.kept not in removed
        assert duplicate.kept < duplicate.removed
        assert duplicate.similarity == similarity(texts[duplicate.removed], texts[duplicate.kept], FINE)
        assert duplicate.similarity >= FINE.min_similarity
        assert duplicate.exact == (words_of(texts[duplicate.removed]) == words_of(texts[duplicate.kept]))


@given(TEXTS)
def test_exact_copies_never_both_stay(texts: list[str]) -> None:
    removed = {duplicate.removed for duplicate in dedup(texts, RULES)}
    staying = [tuple(words_of(text)) for rank, text in enumerate(texts) if rank not in removed]
    assert len(set(staying)) == len(staying)


@given(TEXTS, st.randoms())
def test_order_of_files_changes_nothing_once_documents_are_ranked(texts: list[str], shuffler: random.Random) -> None:
    """Bands and fingerprints are of one text alone, so computing them in another order and ranking is the same."""
    order = list(range(len(texts)))
    shuffler.shuffle(order)
    signed = {rank: band_hashes(words_of(texts[rank]), FINE) for rank in order}
    bands = np.array([signed[rank] for rank in range(len(texts))], dtype=np.uint64).reshape(-1, FINE.bands)
    assert dedup(texts, FINE, bands) == dedup(texts, FINE)


def numbered(start: int, count: int = 20) -> str:
    return " ".join(f"w{n}" for n in range(start, start + count))


def test_nothing_falls_by_a_chain_of_similarities() -> None:
    """B is like A, C is like B but not like A: C stays, since B, the only reason against it, is gone."""
    rules = RULES.model_copy(update={"shingle_words": 1, "min_similarity": 0.6})
    a, b, c = numbered(0), numbered(4), numbered(8)
    assert similarity(a, b, rules) >= 0.6 > similarity(a, c, rules)
    assert similarity(b, c, rules) >= 0.6
    found = dedup([a, b, c], rules, every_pair([a, b, c]))
    assert [(d.removed, d.kept) for d in found] == [(1, 0)]
    assert [(d.removed, d.kept) for d in dedup([b, a, c], rules, every_pair([a, b, c]))] == [(1, 0), (2, 0)]


def test_an_exact_copy_of_a_removed_document_names_what_stayed_for_that() -> None:
    rules = RULES.model_copy(update={"shingle_words": 1, "min_similarity": 0.6})
    a, b = numbered(0), numbered(4)
    found = dedup([a, b, b.upper(), a.upper()], rules, every_pair([a] * 4))
    near = similarity(a, b, rules)
    assert found == [
        Duplicate(removed=1, kept=0, similarity=near, exact=False),
        Duplicate(removed=2, kept=0, similarity=near, exact=False),
        Duplicate(removed=3, kept=0, similarity=1.0, exact=True),
    ]


def test_the_most_similar_is_named_and_the_earliest_of_equals() -> None:
    rules = RULES.model_copy(update={"shingle_words": 1, "min_similarity": 0.2})
    texts = ["a b c d", "e f g h", "a b e f", "i j k l", "a b c e"]
    found = {d.removed: (d.kept, d.similarity) for d in dedup(texts, rules, every_pair(texts))}
    assert found[2] == (0, 0.333333)
    assert found[4] == (0, 0.6)


@pytest.mark.parametrize("threshold", [0.0, 1e-6])
def test_nothing_is_removed_for_a_document_that_does_not_exist(threshold: float) -> None:
    rules = RULES.model_copy(update={"min_similarity": threshold})
    assert dedup(["a", "b", "", "c"], rules, np.arange(4, dtype=np.uint64).reshape(4, 1)) == []


def test_no_documents_have_no_duplicates() -> None:
    assert dedup([], RULES) == []
    assert [d.removed for d in dedup(["", "  \n"], RULES)] == [1]


def planted(share: float, seed: int) -> tuple[str, str]:
    """A text of different words, and a copy with this share of them replaced, evenly spread."""
    words = [f"{seed}w{n}" for n in range(WORDS)]
    every = round(1 / share)
    changed = [f"{seed}x{n}" if n % every == every // 2 else word for n, word in enumerate(words)]
    return " ".join(words), " ".join(changed)


@pytest.mark.parametrize(
    ("percent", "expected", "removed_at_80", "removed_at_50"),
    [
        (1, (496 - 25) / (496 + 25), True, True),
        (5, (496 - 125) / (496 + 125), False, True),
        (10, 246 / 746, False, False),
        (20, 0.0, False, False),
    ],
)
def test_planted_copies_are_found_by_what_their_similarity_is(
    percent: int, expected: float, removed_at_80: bool, removed_at_50: bool
) -> None:
    """A changed word breaks the five shingles that hold it; so a share of 1% costs about 10% of similarity."""
    pairs = [planted(percent / 100, seed) for seed in range(20)]
    texts = [text for pair in pairs for text in pair]
    assert all(similarity(*pair, RULES) == round(expected, 6) for pair in pairs)
    half = DuplicateRules(shingle_words=5, bands=40, rows=3, min_similarity=0.5)
    for rules, is_removed in ((RULES, removed_at_80), (half, removed_at_50)):
        wanted = [(2 * n + 1, 2 * n, round(expected, 6)) for n in range(20)] if is_removed else []
        assert [(d.removed, d.kept, d.similarity) for d in dedup(texts, rules)] == wanted


@given(st.lists(st.text(max_size=4), max_size=9), st.integers(1, 5))
def test_shingles_are_runs_of_words(words: list[str], size: int) -> None:
    found = shingles(words, size)
    assert 1 <= len(found) <= max(1, len(words) - size + 1)
    assert jaccard(found, found) == 1.0


@given(st.lists(st.text("abß İ\t\n", max_size=5), max_size=6))
def test_folding_ignores_case_and_blanks(words: list[str]) -> None:
    text = " ".join(words)
    assert fingerprint(words_of(text)) == fingerprint(words_of(f"\n{text}\t ".replace(" ", "\u3000 ")))
    assert words_of("ONE Two") == words_of("one\n two")


def test_band_hashes_depend_on_the_words_alone() -> None:
    words = words_of(planted(0.1, 1)[0])
    hashes = band_hashes(words, RULES)
    assert hashes.shape == (RULES.bands,)
    assert hashes.dtype == np.uint64
    assert np.array_equal(band_hashes(list(words), RULES), hashes)
    assert not (band_hashes(words[::-1], RULES) == hashes).any(), "no shingle is the same backward"
