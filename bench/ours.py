"""Our trainer as a contender, and the work that all contenders get: a model's first weights and rows.

python -m bench.ours FOLDER [--numerics CLASS] [--compiled]
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.turns import Turns
from pipeline.formats.families import build_spec
from pipeline.formats.lines import Shard
from pipeline.formats.model import ModelSpec, num_parameters
from tests.shards import write_rows
from trainer import numerics
from trainer.data import EverystepData, TrainingData
from trainer.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from trainer.loop import Trainer
    from trainer.parallel import World

SIBLING: dict[str, Any] = {
    "family": "mobilellm",
    "vocabulary": 16384,
    "context": 256,
    "width": 256,
    "layers": 10,
    "query_heads": 4,
    "kv_heads": 2,
    "ffn_width": 704,
    "tied_embedding": True,
    "rotary_base": 10000.0,
    "norm_epsilon": 1e-5,
    "initial_std": 0.02,
}
"""A MobileLLM of 11.6 million parameters, named `sibling`."""
CAPPED = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
STEPS = 4096  # never reached


def work(
    folder: Path,
    model: str,
    global_batch: int,
    micro_batch: int,
    steps: int,
    precision: str = "float32",
    document: int | None = None,
    **keys: Any,
) -> tuple[Recipe, ModelSpec]:
    """Write into `folder` what a contender reads: `work.json` and rows that can be learned from; `keys` of the model's
    section are not as its recipe has them.

    The rows: word frequencies by Zipf's law; and a third of the tokens follow from the one before. With `document`,
    every so many tokens on average one is the vocabulary's last id, which is nowhere else.
    """
    tree = load_recipe("mobilellm" if model == "sibling" else model)[0].model_dump()
    if model == "sibling":
        tree["model"] = dict(SIBLING)
    tree["model"] |= keys
    spec = build_spec(tree["model"], model)
    tree |= {"name": "bench", "numerics": "native", "precision": precision, "compiled": False}
    tree |= {"checkpoints": f"every {STEPS}", "digest_every": STEPS}
    tree["data"] |= {"width": spec.context + 1, "global_batch": global_batch, "micro_batch": micro_batch}
    tree["schedule"] |= {"shape": "wsd", "start": 0.0, "peak": 1e-3, "peak_batch": None, "warmup_steps": 0}
    tree["schedule"] |= {"decay_steps": 1, "steps": STEPS}
    recipe = Recipe.model_validate(tree)
    generator = np.random.default_rng(1)
    rows = (generator.zipf(1.2, (steps * global_batch, spec.context + 1)) - 1) % spec.vocabulary
    follows = generator.random(rows.shape) < 1 / 3
    for column in range(1, rows.shape[1]):
        rows[:, column] = np.where(
            follows[:, column], (rows[:, column - 1] * 31 + 7) % spec.vocabulary, rows[:, column]
        )
    if document is not None:
        end = spec.vocabulary - 1
        rows = np.where(generator.random(rows.shape) < 1 / document, end, np.minimum(rows, end - 1))
    shards = [shard.to_json() for shard in write_rows(folder, rows, "train")]
    (folder / "work.json").write_text(
        json.dumps({"recipe": recipe.model_dump(), "spec": spec.to_json(), "shards": shards})
    )
    return recipe, spec


def open_work(folder: Path) -> tuple[Recipe, ModelSpec, TrainingData]:
    tree = json.loads((folder / "work.json").read_text())
    recipe, spec = Recipe.model_validate(tree["recipe"]), ModelSpec.from_json(tree["spec"])
    data = EverystepData(
        folder=folder,
        shards=tuple(Shard(**shard) for shard in tree["shards"]),
        vocabulary=spec.vocabulary,
        section=recipe.data,
    )
    return recipe, spec, data


def enter(name: str) -> None:
    """A numerics class, or one of two for comparison: `native-avx2`, native kernels with AVX2's vectors;
    `mkl-compatible`, the portable class with torch's own portable products."""
    numerics.CLASSES["native-avx2"] = CAPPED
    numerics.CLASSES["mkl-compatible"] = numerics.CLASSES["portable"]
    numerics.enter(name)


def open_trainer(folder: Path, world: "World | None" = None, compiled: bool = False) -> "Trainer":
    from trainer.parallel import World
    from trainer.sharded import trainer_of

    recipe, spec, data = open_work(folder)
    return trainer_of(world or World(0, 1), recipe.model_copy(update={"compiled": compiled}), spec, data)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--numerics", default="native")
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    enter(arguments.numerics)
    trainer = open_trainer(arguments.folder, compiled=arguments.compiled)
    Turns(parameters=num_parameters(trainer.spec)).serve(lambda: trainer.train_step().loss)


if __name__ == "__main__":
    main()
