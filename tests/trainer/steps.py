"""Digests of whole training steps in the portable class: what other processors must print too.

python -m tests.trainer.steps demo    the recipes of the demo, and Pythia at the like shape
python -m tests.trainer.steps odd     every family at sizes that are no multiple of a vector's width
"""

import json
import sys
from pathlib import Path
from typing import Any

from pipeline.formats.families import build_spec
from pipeline.formats.model import ModelSpec
from tests.trainer.tiny import LLAMA, OPENELM, PYTHIA, SCALING
from trainer import numerics
from trainer.recipe import Recipe

DEMO = ("mobilellm", "mobilellm-ls", "mobillama", "openelm")
ODD = {"vocabulary": 331, "context": 37, "width": 72, "layers": 3}
"""Sizes that are no multiple of a vector's width, and rows that are shorter than a block of queries."""


def main() -> None:
    numerics.enter("portable")
    from trainer.recipe import load_recipe

    demo = {name: load_recipe(name, Path(__file__).parents[2]) for name in DEMO}
    recipe = demo["mobilellm"][0]
    if sys.argv[1] == "odd":
        digests = {family: digest_of_steps(recipe, spec, z_loss=1e-4) for family, spec in odd_specs().items()}
    else:
        digests = {name: digest_of_steps(recipe, spec) for name, (recipe, spec) in demo.items()}
        shape = {"vocabulary": 2048, "context": 256, "width": 128, "layers": 4, "heads": 4}
        digests["pythia"] = digest_of_steps(recipe, build_spec(PYTHIA | shape | {"family": "pythia"}, "pythia"))
    print(json.dumps({"numerics": numerics.describe("portable"), "digests": digests}))


def odd_specs() -> dict[str, ModelSpec]:
    """One model of every family at an odd shape."""
    grouped = LLAMA | {"query_heads": 6, "kv_heads": 2, "ffn_width": 101, "tied_embedding": True}
    mobillama = LLAMA | {"query_heads": 6, "ffn_width": 101, "tied_embedding": False, "shared_ffn": True}
    openelm = OPENELM | {"head_width": 12, "query_heads_per_kv_head": 2, "ffn_divisor": 17, "tied_embedding": True}
    sections: dict[str, dict[str, Any]] = {
        "llama": grouped | {"tied_embedding": False},
        "mobilellm": grouped,
        "mobilellm-ls": grouped,
        "mobillama": mobillama,
        "openelm": openelm,
        "pythia": PYTHIA | {"heads": 3},
        "llama3": grouped | {"rotary_scaling": SCALING | {"original_context": 8}},
        "olmo2": grouped,
        "qwen2": grouped,
        "qwen3": grouped | {"head_width": 10},
        "smollm3": grouped | {"unrotated_every": 2},
    }
    return {family: build_spec(ODD | section | {"family": family}, family) for family, section in sections.items()}


def digest_of_steps(recipe: Recipe, spec: ModelSpec, z_loss: float = 0.0, steps: int = 2) -> str:
    """Weights and moments after some steps on made-up rows (two rows, a micro-batch each)."""
    import torch

    from pipeline.formats.digests import tensors_digest
    from trainer.model import Decoder, initialize
    from trainer.optimizer import BLOCKS, AdamW, FlatParameters, block_norms, clip_factor, learning_rate

    model = Decoder(spec)
    initialize(model, recipe.seed)
    flat = FlatParameters(model)
    optimizer = AdamW(flat, 0, flat.size, recipe.optimizer)
    gradients = torch.zeros(flat.size)
    flat.collect(gradients)
    for step in range(1, steps + 1):
        gradients.zero_()
        for row in (1, 2):
            rows_BT = (torch.arange(spec.context + 1) * 7919 * step * row % spec.vocabulary)[None]
            model.loss(rows_BT, z_loss).backward()
        _, factor = clip_factor(block_norms(gradients, flat.size // BLOCKS), 0.5, recipe.optimizer.clip_norm)
        rate = learning_rate(recipe.schedule, step, recipe.data.global_batch)
        optimizer.update(gradients, factor, rate, step)
    named = flat.named(flat.values) | {f"m.{k}": v for k, v in flat.named(optimizer.first).items()}
    return tensors_digest(named | {f"v.{k}": v for k, v in flat.named(optimizer.second).items()})


if __name__ == "__main__":
    main()
