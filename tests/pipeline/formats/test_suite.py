"""What the models of a suite share, and what siblings by seed may differ in."""

import copy
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats.suite import require_one_suite, siblings_by_seed
from trainer.recipe import load_recipe

ORDER = 20261122


def recipe(name: str, **changes: Any) -> dict[str, Any]:
    """The demo's `mobilellm` under another name, with changes such as `data__seed`."""
    tree = copy.deepcopy(load_recipe("mobilellm")[0].model_dump()) | {"name": name}
    tree["data"]["seed"] = ORDER
    for key, value in changes.items():
        section, _, rest = key.partition("__")
        if rest:
            tree[section][rest] = value
        else:
            tree[section] = value
    return tree


def suite(*recipes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {tree["name"]: tree for tree in recipes}


def test_a_sibling_differs_in_its_seeds_and_in_what_is_stored_of_it() -> None:
    recipes = suite(
        recipe("a"),
        recipe("b", seed=2),
        recipe("c", data__seed=3, checkpoints="every 64"),
        recipe("d", optimizer__beta2=0.99, seed=2),
        recipe("e", optimizer__beta2=0.99),
    )
    assert siblings_by_seed(recipes) == {"b": "a", "c": "a", "e": "d"}
    require_one_suite(recipes, ORDER)


def test_only_a_sibling_has_an_order_of_its_own() -> None:
    recipes = suite(recipe("a"), recipe("b", optimizer__beta2=0.99, data__seed=3))
    with pytest.raises(EverystepError, match=r"recipes/b\.yaml: data\.seed: 3 gives another order than 20261122"):
        require_one_suite(recipes)


def test_a_sibling_of_another_order_needs_the_model_that_it_equals_to_follow_the_order_of_the_suite() -> None:
    recipes = suite(recipe("a"), recipe("b", optimizer__beta2=0.99, data__seed=3))
    recipes["c"] = recipe("c", optimizer__beta2=0.99, data__seed=4)
    with pytest.raises(EverystepError, match=r"recipes/b\.yaml: data\.seed"):
        require_one_suite(recipes)


def test_the_first_model_follows_the_published_order() -> None:
    with pytest.raises(EverystepError, match=r"recipes/a\.yaml: data\.seed: 5 is not the seed of the published order"):
        require_one_suite(suite(recipe("a", data__seed=5), recipe("b", data__seed=5)), ORDER)


@pytest.mark.parametrize("change", [{"data__global_batch": 32}, {"schedule__steps": 7}, {"model__context": 128}])
def test_what_a_suite_shares_is_required_of_siblings_too(change: dict[str, Any]) -> None:
    (key,) = change
    with pytest.raises(EverystepError, match=f"recipes/b.yaml: {key.partition('__')[0]}"):
        require_one_suite(suite(recipe("a"), recipe("b", seed=2, **change)))
