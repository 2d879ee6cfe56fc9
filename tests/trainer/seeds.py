"""Trains a model of a release with another seed: python -m tests.trainer.seeds RELEASE MODEL SEED STEPS OUT

The rows and all else are those of the release. Writes the states of its stored steps, up to STEPS, into OUT.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.formats import checkpoints as ck
from pipeline.formats.model import ModelSpec
from trainer import numerics
from trainer.data import Checking, TrainingData, training_data
from trainer.launch import launch
from trainer.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from trainer.parallel import World


def main() -> None:
    release, model, seed, steps, out = sys.argv[1:]
    recipe, spec = load_recipe(model, Path(release))
    recipe = recipe.model_copy(update={"seed": int(seed)})
    numerics.enter(recipe.numerics)
    with TemporaryDirectory() as folder:
        data = training_data(Path(release), recipe, spec, Checking(folder=Path(folder)))
        launch(_train, 1, recipe.numerics, recipe, spec, data, int(steps), Path(out))


def _train(world: "World", recipe: Recipe, spec: ModelSpec, data: TrainingData, steps: int, out: Path) -> None:
    from trainer.loop import Trainer

    trainer = Trainer(world, recipe, spec, data)
    for step in range(steps + 1):
        if step:
            trainer.train_step()
        if step in recipe.checkpoint_steps:
            weights, moments = trainer.state()
            ck.write_tensors(out / f"{step}" / ck.WEIGHTS, weights)
            ck.write_tensors(out / f"{step}" / ck.OPTIMIZER, moments)


if __name__ == "__main__":
    main()
