"""The bounds are never below what datatrove's rule measures, and the rule decides with them as without."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from datatrove.data import Document
from datatrove.pipeline.filters.gopher_repetition_filter import (
    GopherRepetitionFilter,
    find_all_duplicate,
    find_top_duplicate,
    get_n_grams,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks import repetition
from pipeline.blocks.block import Fault
from pipeline.blocks.quality import gopher_repetition, plain_words
from pipeline.blocks.repetition import Counts
from pipeline.blocks.words import split_words
from tests.pipeline.blocks.test_quality import REPETITION

SIZES = range(2, 11)
SOME = [f"w{n}" for n in range(400)]

def bounds(words: list[str], sizes: Sequence[int]) -> tuple[Counts, Counts]:
    characters = np.frombuffer("".join(words).encode("utf-32-le"), dtype=np.uint32)
    return repetition.bounds(characters, np.array([*map(len, words)], dtype=np.int64), sizes)


@given(st.lists(st.text("ab\u00e9\U0001f600", min_size=1, max_size=3), max_size=80))
def test_no_bound_is_below_what_the_rule_measures(words: list[str]) -> None:
    most, repeated = bounds(words, SIZES)
    for n, top, again in zip(SIZES, most, repeated, strict=True):
        grams = get_n_grams(words, n)
        assert top >= (find_top_duplicate(grams) if grams else 0)
        assert sum(map(len, words)) >= again >= find_all_duplicate(words, n)


def test_words_that_are_parted_elsewhere_count_as_the_rule_counts_them() -> None:
    words = ["ab", "c", "d", "e", "f", "x", "a", "bc", "d", "e", "f"]
    assert find_all_duplicate(words, 5) == 6
    assert bounds(words, [5])[1].tolist() == [6]


def test_texts_without_repetition_have_no_bound_worth_measuring() -> None:
    most, repeated = bounds(SOME, SIZES)
    assert repeated.tolist() == [0] * 9
    assert most[0] == len("w100 w101")


@pytest.mark.parametrize("seed", range(300))
def test_the_rule_decides_with_bounds_as_without(seed: int) -> None:
    draw = random.Random(seed)
    words = draw.choices(SOME, k=draw.randint(1, 300))
    for _ in range(draw.randint(0, 12)):
        start = draw.randrange(len(words))
        part = words[start : start + draw.randint(2, 14)]
        words[draw.randrange(len(words)) : 0] = part * draw.randint(1, 4)
    text = "".join(word + draw.choice([" "] * 9 + ["\n", "\n\n", ", "]) for word in words)
    tree = REPETITION.model_dump()
    top, again = enumerate(tree.pop("top_n_grams"), 2), enumerate(tree.pop("dup_n_grams"), 5)
    rule = GopherRepetitionFilter(**tree, top_n_grams=tuple(top), dup_n_grams=tuple(again), language=plain_words())
    verdict, found = rule.filter(Document(text=text, id="")), gopher_repetition(REPETITION)(text)
    if verdict is True:
        assert found is None
    else:
        assert isinstance(found, Fault)
        assert (False, found.reason) == verdict
        assert found.detail == measured(found.reason, text)


def measured(reason: str, text: str) -> str | None:
    """The share that was over, from the library's functions; of lines it is taken from elsewhere."""
    words = split_words(text)
    n = int("".join(filter(str.isdigit, reason)) or 0)
    if reason.startswith("top_"):
        return f"{find_top_duplicate(get_n_grams(words, n)) / len(text):.3f}"
    if reason.startswith("duplicated_"):
        return f"{find_all_duplicate(words, n) / len(text):.3f}"
    other = gopher_repetition(REPETITION.model_copy(update={"top_n_grams": [], "dup_n_grams": []}))(text)
    return other.detail if isinstance(other, Fault) else None
