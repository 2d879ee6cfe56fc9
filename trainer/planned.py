"""The training that a recipe asks for, in the numbers that a plan reckons with. No torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.base.paths import RECIPES
from pipeline.formats.model import ModelSpec, num_parameters, unrolled
from pipeline.plan.training import DeviceMemory, Training
from trainer.memory import Setting, training_memory
from trainer.recipe import Recipe, load_recipe

DEVICES = 8
"""GPUs of one machine."""
PARTS = ("own", "weights", "gradients", "moments", "exchange", "activations", "passing", "copies")


def planned(name: str, folder: Path) -> Training:
    """Describe the training of `recipes/NAME.yaml` in the project, or else in the checkout around it."""
    roots = [root for root in (folder, *folder.resolve().parents) if (root / RECIPES / f"{name}.yaml").is_file()]
    recipe, spec = load_recipe(name, roots[0] if roots else folder)
    steps = recipe.schedule.steps
    begun = recipe.begun_at
    multiples = steps // recipe.digest_every - begun // recipe.digest_every
    stored_multiples = sum(step % recipe.digest_every == 0 and step > begun for step in recipe.checkpoint_steps)
    return Training(
        name=name,
        parameters=num_parameters(spec),
        applied=num_parameters(unrolled(spec)[0]),
        context=spec.context,
        global_batch=recipe.data.global_batch,
        steps=steps - begun,
        tokens=recipe.tokens(steps) - recipe.tokens(begun),
        stored=len(recipe.checkpoint_steps),
        virtual=multiples - stored_multiples,
        is_portable=recipe.numerics == "portable",
        memory=tuple(_memory(recipe, spec)),
    )


def _memory(recipe: Recipe, spec: ModelSpec) -> Iterator[DeviceMemory]:
    """On one device, on as many as a machine has and the recipe allows, with layers recomputed, and in shards."""
    device = "cpu" if recipe.numerics == "portable" else "cuda"
    leaves = recipe.data.num_leaves
    many = min(leaves, DEVICES)
    ways: dict[str, dict[str, Any]] = {"one process": {}}
    if many > 1:
        ways[f"{many} processes"] = {"processes": many}
    ways["one process, recomputed"] = {"recompute": True}
    if many > 1 and device == "cuda":
        ways[f"{many} shards, recomputed"] = {"processes": many, "shards": many, "recompute": True}
    for what, way in ways.items():
        memory = training_memory(spec, Setting.of(recipe, device=device, **way))
        parts = {part: getattr(memory, part) for part in PARTS}
        yield DeviceMemory(what=what, processes=way.get("processes", 1), peak=memory.own + memory.peak, parts=parts)
