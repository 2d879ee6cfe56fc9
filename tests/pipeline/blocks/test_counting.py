"""Models that count runs: probabilities by brute force, ties, and that a choice is as likely as its tokens."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks.counting import CountedRuns, accuracies, bits_per_byte
from pipeline.formats.tasks import Choice, Item
from tests.pipeline.formats.second_reader import counted

VOCABULARY, ORDER = 4, 3
ROWS = st.integers(2, 5).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=width, max_size=width), max_size=6)
)


@given(ROWS.filter(bool), st.lists(st.integers(0, VOCABULARY - 1), max_size=4))
def test_probabilities_are_those_of_the_formula_and_sum_to_one(rows: list[list[int]], text: list[int]) -> None:
    counts = CountedRuns(np.array(rows, dtype=np.uint32), VOCABULARY, ORDER)
    before = np.array([([-1] * ORDER + text)[-(ORDER - 1) :]] * VOCABULARY)
    found = counts.probabilities(before, np.arange(VOCABULARY))
    exact = [[counted(rows, VOCABULARY, text, w, n) for w in range(VOCABULARY)] for n in range(1, ORDER + 1)]
    assert found == pytest.approx(np.array(exact, dtype=float), rel=1e-15)
    assert found.sum(axis=1) == pytest.approx(1)
    # Numbers that are equal as fractions may differ in their last bit.
    for likeliest, each in zip(counts.most_likely(before[0]).tolist(), exact, strict=True):
        assert float(each[likeliest]) == pytest.approx(float(max(each)))


def test_rows_without_a_history_have_the_probability_of_single_tokens() -> None:
    counts = CountedRuns(np.zeros((0, 5), dtype=np.uint32), VOCABULARY, ORDER)
    assert counts.probabilities(np.array([[1, 2]]), np.array([3])).tolist() == [[1 / VOCABULARY]] * ORDER


def ids_of(texts: object) -> list[list[int]]:
    """Each letter a token."""
    return [[ord(letter) - ord("a") for letter in text] for text in texts]  # type: ignore[attr-defined]


def item(id: str, gold: int, context: str, *continuations: str) -> Item:
    return Item(id=id, gold=gold, choices=[Choice(context=context, continuation=each) for each in continuations])


def test_a_run_that_was_counted_is_preferred_and_single_tokens_cannot_tell_an_order() -> None:
    counts = CountedRuns(np.array([[0, 1, 2, 3], [0, 1, 2, 3]], dtype=np.uint32), VOCABULARY, ORDER)
    right, wrong = item("1", 1, "a", "cb", "bc"), item("2", 0, "a", "cb", "bc")
    assert accuracies(counts, [right, right], ids_of) == [(0.0, 0.0), (1.0, 0.0), (1.0, 0.0)]
    assert accuracies(counts, [wrong], ids_of) == [(1.0, 0.0), (0.0, 0.0), (0.0, 0.0)]  # of equal ones the first
    (_, (share, error), _) = accuracies(counts, [right, wrong, right], ids_of)
    assert (share, error) == (round(2 / 3, 6), round(math.sqrt(2 / 9 / 2), 6))


def test_an_item_of_one_choice_is_right_if_every_token_is_the_likeliest() -> None:
    counts = CountedRuns(np.array([[0, 1, 2, 3], [0, 1, 2, 3]], dtype=np.uint32), VOCABULARY, ORDER)
    assert [share for share, _ in accuracies(counts, [item("1", 0, "a", "bcd")], ids_of)] == [0, 1, 1]
    assert [share for share, _ in accuracies(counts, [item("1", 0, "a", "bcc")], ids_of)] == [0, 0, 0]


def test_bits_per_byte_are_those_of_all_tokens_but_the_first() -> None:
    counts = CountedRuns(np.zeros((0, 3), dtype=np.uint32), VOCABULARY, 2)
    blocks = [np.array([[0, 1, 2]], dtype=np.uint32), np.array([[3, 3, 3]], dtype=np.uint32)]
    assert bits_per_byte(counts, blocks, np.array([9, 5, 5, 3])) == [0.5, 0.5]
