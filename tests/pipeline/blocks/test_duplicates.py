import hashlib
import itertools
import random
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.blocks import duplicates, shingles
from pipeline.blocks.duplicates import (
    MAX_COMPARED,
    SEED,
    DuplicateRules,
    Sets,
    Verdicts,
    all_stay,
    first_copies,
    judge,
    linked,
    linked_ranks,
    reached,
    shared,
    with_copies,
)
from pipeline.blocks.shingles import band_keys, fingerprints, fold, fold_all, shingle_hashes, shingle_sets
from tests.project import ROOT, run

RULES = DuplicateRules(shingle_words=5, bands=14, rows=8, min_similarity=0.8)
FINE = DuplicateRules(shingle_words=2, bands=32, rows=1, min_similarity=0.5)
WORDS = 500
Keys = NDArray[np.uint64]
TEXTS = st.lists(st.lists(st.sampled_from("abcdE"), max_size=8).map(" ".join), max_size=14)


def sets_of(texts: list[str], size: int) -> list[NDArray[np.uint64]]:
    sets, stops = shingle_sets(fold_all(texts), size)
    return np.split(sets, stops[:-1]) if texts else []


def keys_of(texts: list[str], rules: DuplicateRules) -> NDArray[np.uint64]:
    return band_keys(fold_all(texts), rules.shingle_words, rules.bands, rules.rows, SEED)


class Duplicate(NamedTuple):
    removed: int
    kept: int
    similarity: float
    exact: bool


def dedup(texts: list[str], rules: DuplicateRules, bands: Keys | None = None, block: int = 3) -> list[Duplicate]:
    """Duplicates among texts in rank order, judged `block` at a time on what they reach; with `bands` all zero, every
    pair is measured."""
    bands = keys_of(texts, rules) if bands is None else bands
    folded = fold_all(texts)
    copies = first_copies(fingerprints(folded))
    links = linked(copies, bands.T, bands.shape[1])
    hashes, stops = shingle_sets(folded, rules.shingle_words)
    starts = np.append(0, stops)[:-1]
    verdicts = all_stay(len(texts))
    met = linked_ranks(links)
    for ranks in np.split(met, range(block, len(met), block)) if len(met) else []:
        unread = np.setdiff1d(np.arange(len(texts)), reached(ranks, links, verdicts))
        sets = Sets(hashes, starts.copy(), stops.copy())
        sets.starts[unread] = sets.stops[unread] = -1  # slices of them are empty: as similar as nothing
        judge(ranks, links, sets, rules.min_similarity, verdicts)
    removed, kept, similarities, exact = with_copies(copies, verdicts)
    rounded = [round(value, 6) for value in similarities.tolist()]
    return [*map(Duplicate, removed.tolist(), kept.tolist(), rounded, exact.tolist())]


def words_of(text: str) -> list[str]:
    return text.lower().split()


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
    signed = {rank: keys_of([texts[rank]], FINE) for rank in order}
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


def test_a_similarity_at_the_threshold_is_enough_however_it_rounds() -> None:
    """0.55 x 100 is more than 55 in floating point, 55 / 100 is 0.55."""
    rules = RULES.model_copy(update={"shingle_words": 1, "min_similarity": 0.55})
    texts = [" ".join(f"w{number}" for number in range(count)) for count in (100, 55)]
    assert [(d.kept, d.similarity) for d in dedup(texts, rules, every_pair(texts))] == [(0, 0.55)]


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


@given(st.lists(st.text(max_size=12), max_size=9), st.integers(1, 5))
def test_shingles_are_runs_of_words_whoever_stands_beside_them(texts: list[str], size: int) -> None:
    """A hash for a run of words: as many, as often equal as the runs of the definition."""
    hashes, stops = shingle_hashes(fold_all(texts), size)
    meaning: dict[int, tuple[str, ...]] = {}
    for text, found in zip(texts, np.split(hashes, stops[:-1]) if texts else [], strict=True):
        words = words_of(text)
        runs = [tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))]
        assert len(found) == len(runs)
        for words_of_run, number in zip(runs, found.tolist(), strict=True):
            assert meaning.setdefault(number, words_of_run) == words_of_run
    assert len(set(meaning.values())) == len(meaning), "one run of words has two hashes"


@given(TEXTS, st.integers(1, 4))
def test_similarity_is_that_of_the_words(texts: list[str], size: int) -> None:
    rules = FINE.model_copy(update={"shingle_words": size})
    sets = sets_of(texts, size)
    for i, j in itertools.combinations(range(len(texts)), 2):
        assert round(shingles.similarity(sets[i], sets[j]), 6) == similarity(texts[i], texts[j], rules)


@given(st.lists(st.text() | st.text(st.characters(max_codepoint=128)), max_size=9))
def test_texts_fold_together_as_alone(texts: list[str]) -> None:
    folded = fold_all(texts)
    stops = folded.stops.tolist()
    assert [folded.content[a:b].tobytes() for a, b in zip([0, *stops], stops, strict=False)] == [*map(fold, texts)]


@given(st.lists(st.text("abß İ\t\n", max_size=5), max_size=6))
def test_folding_ignores_case_and_blanks(words: list[str]) -> None:
    text = " ".join(words)
    assert fold(text) == fold(f"\n{text}\t ".replace(" ", "\u3000 "))
    assert fold("ONE  Two\u2028") == fold("one\n two") == b"one two"


def test_band_keys_are_of_one_text_alone() -> None:
    texts = [planted(0.1, 1)[0], "", "one", planted(0.1, 2)[0]]
    together = keys_of(texts, RULES)
    assert together.shape == (4, RULES.bands)
    assert np.array_equal(together, np.concatenate([keys_of([text], RULES) for text in texts]))
    backward = keys_of([" ".join(texts[0].split()[::-1])], RULES)
    assert not (backward == together[0]).any(), "no shingle is the same backward"


def test_band_keys_are_written_down() -> None:
    """Kept signatures of an older build must meet those of a newer one: the keys are part of the format."""
    keys = keys_of(["the quick brown fox jumps over the lazy dog"], RULES)
    assert hashlib.sha256(keys.tobytes()).hexdigest()[:16] == "602c9551703be7bc"


@pytest.mark.parametrize("similar", [0.6, 0.75, 0.9])
def test_texts_meet_as_often_as_theory_says(similar: float) -> None:
    """P(some band agrees) = 1 - (1 - s^rows)^bands; 400 pairs, so a standard error of at most 2.5 %."""
    draw = random.Random(1)
    met = pairs = 400
    size = 300
    shared = round(size * 2 * similar / (1 + similar))
    for _ in range(pairs):
        words = [str(draw.getrandbits(40)) for _ in range(2 * size - shared)]
        left, right = " ".join(words[:size]), " ".join(words[size - shared :])
        keys = keys_of([left, right], RULES.model_copy(update={"shingle_words": 1}))
        met -= not (keys[0] == keys[1]).any()
    expected = 1 - (1 - similar**RULES.rows) ** RULES.bands
    assert abs(met / pairs - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5 + 0.005


@given(st.lists(st.integers(0, 9), max_size=12))
def test_what_is_shared_stands_there_more_than_once(keys: list[int]) -> None:
    assert shared(np.array(keys, dtype=np.uint64)).tolist() == [keys.count(key) > 1 for key in keys]


def test_documents_that_meet_nobody_are_never_looked_at() -> None:
    bands = np.array([[5, 6, 5, 7], [1, 1, 2, 3]], dtype=np.uint64)
    links = linked(np.arange(4), bands, 2)
    assert links.tolist() == [[-1, -1], [-1, 0], [0, -1], [-1, -1]]
    assert linked_ranks(links).tolist() == [0, 1, 2]
    assert linked_ranks(linked(np.array([0, 0, 2, 3]), bands, 2)).tolist() == [0, 2], "a further copy is met by nobody"


def headed(number: int, size: int = 60) -> list[str]:
    """Texts that begin with the same words, too few to make them similar, and end with words of their own."""
    header = " ".join(f"h{word}" for word in range(size))
    return [f"{header} " + " ".join(f"t{text}w{word}" for word in range(size // 4)) for text in range(number)]


def compared(texts: list[str], rules: DuplicateRules) -> tuple[int, Verdicts]:
    """How many pairs were compared, and what came of it."""
    folded = fold_all(texts)
    links = linked(np.arange(len(texts)), keys_of(texts, rules).T, rules.bands)
    hashes, stops = shingle_sets(folded, rules.shingle_words)
    verdicts = all_stay(len(texts))
    sets = Sets(hashes, np.append(0, stops)[:-1], stops)
    return judge(np.arange(len(texts)), links, sets, rules.min_similarity, verdicts), verdicts


def test_documents_that_share_a_header_are_compared_a_bounded_number_of_times() -> None:
    for number in (1000, 2000):
        pairs, verdicts = compared(headed(number), RULES)
        assert (verdicts.kept == np.arange(number)).all()
        assert pairs <= number * RULES.bands * MAX_COMPARED
        assert pairs / number < 3 * MAX_COMPARED, "each band shares most of what it meets with the others"
        assert verdicts.cut_short.sum() > number / 2


def test_a_near_duplicate_among_thousands_that_share_a_header_is_found_by_another_band() -> None:
    texts = headed(2000)
    copies = [texts[0].replace("t0w14", "changed"), texts[7].replace("t7w14", "changed")]
    _, verdicts = compared([*texts, *copies], RULES)
    assert verdicts.kept[2000:].tolist() == [0, 7]


@pytest.mark.parametrize("block", [1, 2, 3, 50])
@pytest.mark.parametrize("fallen", [0, 5])
def test_the_nearest_documents_that_stay_are_compared_up_to_the_bound(
    block: int, fallen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies that fell count for nothing; and what is compared was read, however documents are put in blocks."""
    monkeypatch.setattr(duplicates, "MAX_COMPARED", 4)
    text, copy = planted(0.01, 0)
    others = [planted(0.01, seed) for seed in range(1, 5)]
    near = [others[0][0], *[f"{others[0][1]} more{number}" for number in range(fallen)], others[1][0], others[2][0]]
    within, beyond = [text, *near, copy], [text, *near, others[3][0], copy]
    assert [(d.removed, d.kept) for d in dedup(within, RULES, every_pair(within), block)][-1] == (4 + fallen, 0)
    assert len(dedup(beyond, RULES, every_pair(beyond), block)) == fallen


def test_a_cluster_costs_its_size_not_its_square() -> None:
    """All meet in all of 14 bands and fall for the first: a square would be some hours of steps."""
    number = 300_000
    links = np.repeat(np.arange(-1, number - 1, dtype=np.int32)[:, None], 14, axis=1)
    sets = Sets(np.array([7], dtype=np.uint64), np.zeros(number, dtype=np.int64), np.ones(number, dtype=np.int64))
    verdicts = all_stay(number)
    assert judge(np.arange(number), links, sets, 0.8, verdicts) == number - 1, "pairs compared"
    assert not verdicts.kept.any()
    assert set(verdicts.similarity[1:].tolist()) == {1.0}
    assert not links[1:].any(), "each is led to the one that stayed"


def test_machine_code_of_other_sources_is_not_used(tmp_path: Path) -> None:
    """numba looks at the file of a loop and not at those of the loops that it calls."""
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-c", "import numba, pipeline.blocks.shingles; print(numba.config.CACHE_DIR)"]
    before = run(tmp_path, *command, PYTHONPATH=str(tmp_path)).stdout
    assert before.startswith(str(tmp_path / "pipeline" / "blocks" / "__pycache__"))
    for name in ("shingles.py", "duplicates.py", "repetition.py"):
        path = tmp_path / "pipeline" / "blocks" / name
        path.write_text(path.read_text() + "# changed\n")
        after = run(tmp_path, *command, PYTHONPATH=str(tmp_path)).stdout
        assert after != before
        before = after
