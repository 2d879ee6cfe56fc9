"""A suite: models that read the same rows in the same order, so that they can be compared step by step.

Among them may be *siblings by seed*: models that equal another one in all but their seeds. `seed` decides the initial
weights and `data.seed` the order, so two siblings show how much a result owes to chance: the noise below which a
difference between two models says nothing. Only a sibling may read the rows in another order than the suite's.
"""

from collections import defaultdict

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import Json, canonical

SHARED = (
    "parent.step",
    "parent.tokens",
    "parent.first_sample",
    "data",
    "schedule.steps",
    "model.context",
    "model.vocabulary",
)
OWN = ("name", "seed", "checkpoints", "digest_every")
"""Keys in which siblings by seed may differ, beside `data.seed`."""

Recipes = dict[str, dict[str, Json]]


def require_one_suite(recipes: Recipes, order_seed: int | None = None) -> None:
    """Refuse recipes (by name, as trees) that disagree about what a suite shares, or if none follows the order of
    `order_seed`, the seed of the published one."""
    first = next(iter(recipes))
    if order_seed is not None and (found := _lookup(recipes[first], "data.seed")) != order_seed:
        raise EverystepError(
            f"recipes/{first}.yaml: data.seed: {found} is not the seed of the published order, {order_seed} "
            "(params.yaml: tokenize.seed)"
        )
    siblings = siblings_by_seed(recipes)
    for key in SHARED:
        wanted = _shared(recipes[first], key)
        for name, recipe in recipes.items():
            if (found := _shared(recipe, key)) != wanted:
                raise EverystepError(
                    f"recipes/{name}.yaml: {key}: {found} differs from {wanted} in recipes/{first}.yaml; "
                    "the models of a suite read the same rows in the same order"
                )
    for name, recipe in recipes.items():
        seed, wanted = _lookup(recipe, "data.seed"), _lookup(recipes[first], "data.seed")
        if seed != wanted and name not in siblings:
            raise EverystepError(
                f"recipes/{name}.yaml: data.seed: {seed} gives another order than {wanted} in recipes/{first}.yaml; "
                "only a model that equals another one of the suite in all but its seeds may have an order of its own"
            )


def siblings_by_seed(recipes: Recipes) -> dict[str, str]:
    """Name, for each recipe that equals an earlier one in all but its seeds, the first that it equals."""
    return {name: group[0] for group in groups_by_seed(recipes) for name in group[1:]}


def groups_by_seed(recipes: Recipes, agree: tuple[str, ...] = ()) -> list[list[str]]:
    """Group the recipes that equal each other in all but their seeds, and agree in these of their seeds; without those
    that no other equals."""
    groups: defaultdict[bytes, list[str]] = defaultdict(list)
    for name, recipe in recipes.items():
        groups[canonical([_without_seeds(recipe), *(_lookup(recipe, seed) for seed in agree)])].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _without_seeds(recipe: dict[str, Json]) -> dict[str, Json]:
    return {key: _shared(recipe, key) for key in sorted(recipe.keys() - set(OWN))}


def _shared(recipe: dict[str, Json], key: str) -> Json:
    """What a recipe says at a key that siblings share: of `data`, all but the seed."""
    found = _lookup(recipe, key)
    if key == "data" and isinstance(found, dict):
        return {name: value for name, value in found.items() if name != "seed"}
    return found


def _lookup(tree: dict[str, Json], key: str) -> Json:
    found: Json = tree
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
