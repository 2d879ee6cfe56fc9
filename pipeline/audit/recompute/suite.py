"""Suite: each model was trained by the recipe beside it, and the recipes are those of one suite."""

from collections.abc import Iterator

from pipeline.base.errors import EverystepError
from pipeline.base.paths import RECIPES
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import canonical
from pipeline.formats.manifests import Tokens, Trained
from pipeline.formats.suite import require_one_suite
from pipeline.release.release import Release


def suite_faults(release: Release) -> Iterator[str]:
    """Each recipe that is not the model's, or differs from the others in what a suite shares."""
    recipes = {name: load_yaml(release.file(RECIPES / f"{name}.yaml")) for name in release.models()}
    tokens = release.manifest(Tokens)
    for name, recipe in recipes.items():
        trained = release.manifest(Trained, name)
        parameters = trained.parameters.to_json()
        for key in sorted(recipe.keys() | parameters.keys()):
            if canonical(recipe.get(key)) != canonical(parameters.get(key)):
                yield f"{trained.path}: parameters: {key} is not that of {RECIPES / name}.yaml"
        if recipe.get("name") != name:
            yield f"{RECIPES / name}.yaml: name: is not {name}"
        for key, value in (("context", tokens.width - 1), ("vocabulary", tokens.vocabulary)):
            if trained.model.get(key) != value:
                yield f"{trained.path}: model: {key} is {trained.model.get(key)}, {tokens.path} has {value}"
    try:
        require_one_suite(recipes, tokens.parameters.seed)
    except EverystepError as error:
        yield str(error)
