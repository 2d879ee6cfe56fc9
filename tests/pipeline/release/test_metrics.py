"""Metrics from log-likelihoods, by hand."""

import math
from typing import Any

import numpy as np
import pytest

from pipeline.formats.tasks import Choice, Item, Task, ask
from pipeline.release.metrics import (
    Answers,
    accuracy,
    accuracy_per_character,
    bits_per_byte,
    exponential,
    perplexity,
    scores_of,
)


def answers(*log_likelihoods: float, gold: int = 0, size: int = 4) -> Answers:
    number = len(log_likelihoods)
    return Answers([*log_likelihoods], [False] * number, [size] * number, [*range(1, number + 1)], gold)


def test_the_likeliest_choice_counts_and_of_equal_ones_the_first() -> None:
    items = [answers(-1, -2), answers(-1, -1), answers(-2, -1), answers(-3, -2, gold=1)]
    assert list(accuracy(items)) == [0.75, pytest.approx(0.25)]
    assert accuracy([answers(-1, -2)]) == (1.0, None)


def test_per_character_a_longer_choice_may_win() -> None:
    assert accuracy([answers(-2, -3)]).value == 1
    assert accuracy_per_character([answers(-2, -3)]).value == 0


def test_bits_per_byte_are_those_of_the_right_choices_together() -> None:
    found = bits_per_byte([answers(-4 * math.log(2)), answers(-12 * math.log(2), size=12)])
    assert found.value == pytest.approx(1.0)
    assert found.standard_error == pytest.approx(0.0, abs=1e-12)


def test_the_exponential_is_that_of_the_c_library_to_its_last_bits() -> None:
    x = np.linspace(-700, 700, 10001)
    np.testing.assert_allclose(exponential(x), np.exp(x), rtol=2e-15)


def test_perplexity_of_equal_items_has_no_error() -> None:
    assert list(perplexity([answers(-2.0)] * 5)) == [pytest.approx(math.exp(2)), pytest.approx(0.0, abs=1e-12)]


def rows(task: str, values: list[list[float | None]]) -> list[dict[str, Any]]:
    """Rows of items of two choices, of which the first is right."""
    return [
        {
            "revision": "r",
            "task": task,
            "item": str(number),
            "choice": place,
            "log_likelihood": value,
            "greedy": None if value is None else False,
            "gold": place == 0,
            "bytes": 4,
            "characters": 3,
        }
        for number, item in enumerate(values)
        for place, value in enumerate(item)
    ]


def task() -> Task:
    choices = [Choice(context="a", continuation=" b"), Choice(context="a", continuation=" c")]
    _, made = ask("t", [Item(id="0", choices=choices, gold=0)], 9, {}, definition={}, metrics=("acc",), delimiter=" ")
    return made


def test_an_item_that_is_too_long_is_counted_and_in_no_metric() -> None:
    found = list(scores_of(rows("t", [[-1, -2], [None, None], [-1, -2], [-2, -1]]), {"t": task()}, {"r": 7}))
    assert [(line.metric, line.items, line.too_long, line.step) for line in found] == [
        ("acc", 3, 1, 7),
        ("bits_per_byte", 3, 1, 7),
    ]
    assert found[0].value == pytest.approx(2 / 3)
    assert found[0].within_noise is True
    assert found[1].chance is None


def test_without_any_item_there_is_no_value() -> None:
    (accuracy, bits) = scores_of(rows("t", [[None, None]]), {"t": task()}, {"r": 7})
    assert (accuracy.value, accuracy.standard_error, accuracy.items, accuracy.too_long) == (None, None, 0, 1)
    assert bits.value is None
