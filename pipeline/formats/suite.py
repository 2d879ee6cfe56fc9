"""A suite: models that read the same rows in the same order, so that they can be compared step by step."""

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import Json

SHARED = (
    "parent.step",
    "parent.tokens",
    "parent.first_sample",
    "data",
    "schedule.steps",
    "model.context",
    "model.vocabulary",
)


def require_one_suite(recipes: dict[str, dict[str, Json]]) -> None:
    """Refuse recipes (by name, as trees) that disagree about what a suite shares."""
    first = next(iter(recipes))
    for key in SHARED:
        wanted = _lookup(recipes[first], key)
        for name, recipe in recipes.items():
            found = _lookup(recipe, key)
            if found != wanted:
                raise EverystepError(
                    f"recipes/{name}.yaml: {key}: {found} differs from {wanted} in recipes/{first}.yaml; "
                    "the models of a suite read the same rows in the same order"
                )


def _lookup(tree: dict[str, Json], key: str) -> Json:
    found: Json = tree
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found
