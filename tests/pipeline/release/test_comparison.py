"""Comparison: what differs, what is within the noise of seeds or items, and which models are siblings."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.yaml import load_yaml
from pipeline.formats.families import FAMILIES
from pipeline.formats.manifests import RecipeParameters
from pipeline.formats.scores import Score
from pipeline.release.comparison import (
    PAPERS_ORDER,
    Column,
    Siblings,
    answer_columns,
    average,
    column,
    columns,
    is_within_noise,
    other_columns,
    siblings,
)
from pipeline.release.references import REFERENCES
from tests.project import ROOT

values = st.floats(0, 1)
errors = st.floats(0, 0.1)


ALONE = Siblings(seeds=[], weights=[], orders=[])


def alike(*groups: list[str]) -> Siblings:
    return Siblings(seeds=[*groups], weights=[], orders=[])


def recipe(**changes: Any) -> RecipeParameters:
    """The demo's first recipe with some keys changed; `order` is the seed of the order."""
    tree = load_yaml(ROOT / "recipes/mobilellm.yaml")
    tree["data"] |= {"seed": changes.pop("order")} if "order" in changes else {}
    return RecipeParameters.from_json(tree | changes, "recipe")


def score(task: str, value: float, metric: str = "acc", error: float = 0.01) -> Score:
    said: dict[str, Any] = {"value": value, "standard_error": error, "items": 100, "chance": 0.25}
    return Score(revision="last", step=1, task=task, metric=metric, too_long=0, within_noise=None, **said)


def test_siblings_differ_in_seeds_names_and_what_decides_no_weight_and_in_nothing_else() -> None:
    recipes = {
        "one": recipe(),
        "other_weights": recipe(name="other_weights", seed=2),
        "other_order": recipe(name="other_order", order=3, checkpoints="every 8"),
        "shorter": recipe(schedule=recipe().schedule.to_json() | {"steps": 64}),
        "deeper": recipe(model=recipe().model | {"layers": 9}, seed=2),
    }
    found = siblings(recipes)
    assert found.seeds == [["one", "other_weights", "other_order"]]
    assert (found.weights, found.orders) == ([["one", "other_weights"]], [["one", "other_order"]])
    assert siblings({"one": recipe()}) == ALONE


@given(values, values, errors, errors, st.none() | values)
def test_noise_is_the_same_both_ways_and_grows_with_its_causes(
    one: float, other: float, error: float, more: float, deviation: float | None
) -> None:
    pair = (one, error), (other, error)
    assert is_within_noise(*pair, deviation) == is_within_noise(*pair[::-1], deviation)
    assert is_within_noise(pair[0], pair[0], deviation)
    if is_within_noise(*pair, deviation):
        assert is_within_noise((one, error + more), (other, error), deviation)
        assert is_within_noise(*pair, (deviation or 0) + more)


def of(measured: dict[str, tuple[float, float]], groups: Siblings = ALONE, **more: Any) -> Column:
    return column("x", "X", "acc", measured, groups, items=10, **more)


def test_a_difference_counts_once_neither_seeds_nor_items_explain_it() -> None:
    measured = {"a": (0.50, 0.001), "b": (0.47, 0.001), "c": (0.445, 0.001), "d": (0.41, 0.001)}
    assert [cell.leads for cell in of(measured).cells.values()] == [True, False, False, False]
    by_seeds = of(measured, alike(["c", "d"]))
    assert list(by_seeds.deviation) == [pytest.approx(0.035 / math.sqrt(2)), None, None]
    assert [cell.leads for cell in by_seeds.cells.values()] == [True, True, True, False]  # up to 0.07 is noise
    assert not of(measured, alike(["a", "d"])).differs and by_seeds.differs
    pooled = of(measured, alike(["a", "b"], ["c", "d"])).deviation.seeds
    assert pooled == pytest.approx(math.sqrt((0.03**2 + 0.035**2) / 4))


def test_small_is_best_where_small_is_better() -> None:
    losses = of({"a": (2.5, 0.01), "b": (2.9, 0.01)}, smaller_is_better=True)
    assert losses.cells["a"].leads and not losses.cells["b"].leads


def test_what_guessing_would_do_as_well_is_near_chance() -> None:
    cells = of({"a": (0.26, 0.01), "b": (0.28, 0.01)}, chance=0.25).cells
    assert cells["a"].near_chance and not cells["b"].near_chance
    assert not of({"a": (0.25, 0.01)}).cells["a"].near_chance


def test_columns_are_those_of_the_papers_in_their_order_with_the_normed_metric_where_there_is_one() -> None:
    lines = [score(task, 0.3) for task in [*reversed(PAPERS_ORDER), "sciq", "mine"]]
    lines += [score("hellaswag", 0.4, "acc_norm"), score("sciq", 2.0, "bits_per_byte")]
    scores = {"a": lines, "b": lines}
    found = columns(scores, ALONE)
    assert [each.heading for each in found] == [*PAPERS_ORDER.values()]
    assert [each.metric for each in found] == ["acc"] * 5 + ["acc_norm"] + ["acc"] * 2
    assert [each.heading for each in other_columns(scores, ALONE)] == ["SciQ", "mine"]
    assert [(each.name, each.cells["b"].value) for each in answer_columns(scores, ALONE)] == [("sciq", 2.0)]
    assert columns({"a": lines, "b": []}, ALONE) == []


def test_a_score_that_no_item_gave_makes_no_column() -> None:
    none = score("boolq", 0.0).model_copy(update={"value": None, "standard_error": None})
    assert columns({"a": [score("boolq", 0.5)], "b": [none]}, ALONE) == []


def test_the_average_is_the_plain_mean_with_the_error_of_a_mean() -> None:
    scores = {"a": [score("arc_easy", 0.2, error=0.03), score("arc_challenge", 0.4, error=0.04)]}
    mean = average(columns(scores, ALONE), ALONE)
    assert mean.cells["a"].value == pytest.approx(0.3) and mean.cells["a"].standard_error == pytest.approx(0.025)
    assert (mean.chance, mean.items) == (0.25, 200)


def test_every_family_has_a_reference() -> None:
    assert REFERENCES.keys() == FAMILIES.keys()
