"""The recipes of a project or a release: what each trains, counted from the model itself.

Reads `recipes/*.yaml`. A config file can say anything about a size; so each model is built, on torch's meta device,
where tensors have shapes and no bytes, and its parameters are counted.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.formats.errors import EverystepError
from pipeline.formats.project import RECIPES
from trainer.description import ModelSpec, tensor_shapes
from trainer.model import Decoder
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
        parameters=count_parameters(spec),
        parameters_if_repeated=count_parameters(replace(spec, ffn_owner=tuple(range(len(spec.layers))))),
        context=spec.context,
        tokens=recipe.schedule.steps * recipe.data.global_batch * spec.context,
        steps=recipe.schedule.steps,
        checkpoints=len(recipe.checkpoint_steps),
    )


def count_parameters(spec: ModelSpec) -> int:
    """Unique parameters of the instantiated model, which must have the tensors that its description promises."""
    with torch.device("meta"):
        model = Decoder(spec)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if shapes != tensor_shapes(spec):
        different = sorted({name for name, _ in shapes.items() ^ tensor_shapes(spec).items()})
        raise EverystepError(f"the model and its description differ in {', '.join(different)}")
    return sum(parameter.numel() for parameter in model.parameters())
