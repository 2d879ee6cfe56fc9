"""The recipes of a project or a release: what each trains, counted from the shapes of the model's tensors.

Reads `recipes/*.yaml`. A config file can say anything about a size; the shapes are those of the model that is trained
(tests/trainer/test_recipes.py builds it for every recipe and compares). Needs no torch.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import EverystepError
from pipeline.base.paths import RECIPES
from pipeline.formats.model import num_parameters, num_parameters_if_repeated
from trainer.recipe import load_recipe


@dataclass(frozen=True, kw_only=True)
class Entry:
    """`parameters` are unique; `parameters_if_repeated` are those of files that repeat a shared FFN for each layer.

    `tokens` are the targets of the whole training, `checkpoints` the published states, step 0 among them.
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


def list_recipes(folder: Path) -> list[Entry]:
    """Every recipe below `folder`, by family and size; a wrong one is an error."""
    names = sorted(path.stem for path in (folder / RECIPES).glob("*.yaml"))
    if not names:
        raise EverystepError(f"{folder / RECIPES}: no recipes; name the folder of a project or of a release")
    entries = [describe(folder, name) for name in names]
    return sorted(entries, key=lambda entry: (entry.family, entry.parameters, entry.name))


def describe(folder: Path, name: str) -> Entry:
    """What the recipe `name` trains."""
    recipe, spec = load_recipe(name, folder)
    return Entry(
        name=name,
        family=recipe.model["family"],
        layers_stored=len(spec.layers),
        layers_applied=len(spec.applications),
        parameters=num_parameters(spec),
        parameters_if_repeated=num_parameters_if_repeated(spec),
        context=spec.context,
        tokens=recipe.schedule.steps * recipe.data.global_batch * spec.context,
        steps=recipe.schedule.steps,
        checkpoints=len(recipe.checkpoint_steps),
    )
