"""The recipes of a project or a release: what each trains, with parameters counted from the shapes of its tensors.

Reads `recipes/*.yaml`. A config file may claim any size; the shapes are those of the model that is trained
(tests/trainer/test_recipes.py builds it for every recipe and compares). Needs no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import EverystepError
from pipeline.base.paths import RECIPES
from pipeline.formats.model import num_parameters, num_parameters_if_repeated
from trainer.recipe import load_recipe


@dataclass(frozen=True, kw_only=True)
class RecipeSummary:
    """One recipe in numbers. `parameters` are unique; `parameters_if_repeated` counts a shared FFN once a layer.

    `tokens` counts the targets of the whole training, `checkpoints` the published states, including step 0.
    """

    name: str
    family: str
    layers_stored: int
    layers_applied: int
    parameters: int
    parameters_if_repeated: int
    context: int
    tokens: int
    steps: int
    checkpoints: int


def list_recipes(folder: Path) -> list[RecipeSummary]:
    """Summarize every recipe in `folder`, by family and size; a wrong one is an error."""
    names = sorted(path.stem for path in (folder / RECIPES).glob("*.yaml"))
    if not names:
        raise EverystepError(f"{folder / RECIPES}: no recipes; name the folder of a project or of a release")
    entries = [describe(folder, name) for name in names]
    return sorted(entries, key=lambda entry: (entry.family, entry.parameters, entry.name))


def describe(folder: Path, name: str) -> RecipeSummary:
    """Summarize what the recipe `name` trains."""
    recipe, spec = load_recipe(name, folder)
    return RecipeSummary(
        name=name,
        family=recipe.model["family"],
        layers_stored=len(spec.layers),
        layers_applied=len(spec.applications),
        parameters=num_parameters(spec),
        parameters_if_repeated=num_parameters_if_repeated(spec),
        context=spec.context,
        tokens=recipe.tokens(recipe.schedule.steps),
        steps=recipe.schedule.steps,
        checkpoints=len(recipe.checkpoint_steps),
    )
