"""Digests of whole training steps in the portable class: what other processors must print too.

python -m tests.trainer.steps
"""

import json
from pathlib import Path

from trainer import numerics

FAMILIES = ("mobilellm", "mobilellm-ls", "mobillama", "openelm")


def main() -> None:
    numerics.enter("portable")
    digests = {name: digest_of_steps(name) for name in FAMILIES}
    print(json.dumps({"numerics": numerics.describe("portable"), "digests": digests}))


def digest_of_steps(name: str, steps: int = 2) -> str:
    """Weights and moments after some steps of the demo's recipe on made-up rows (one row a micro-batch)."""
    import torch

    from pipeline.formats.digests import tensors_digest
    from trainer.loop import mean_loss
    from trainer.model import Decoder, initialize
    from trainer.optimizer import BLOCKS, AdamW, FlatParameters, block_norms, clip_factor, learning_rate
    from trainer.recipe import load_recipe

    recipe, spec = load_recipe(name, Path(__file__).parents[2])
    model = Decoder(spec)
    initialize(model, recipe.seed)
    flat = FlatParameters(model)
    optimizer = AdamW(flat, 0, flat.size, recipe.optimizer)
    for step in range(1, steps + 1):
        rows_BT = (torch.arange(spec.context + 1) * 7919 * step % spec.vocabulary)[None]
        flat.gradients.zero_()
        mean_loss(model, rows_BT).backward()  # type: ignore[no-untyped-call]
        _, factor = clip_factor(block_norms(flat.gradients, flat.size // BLOCKS), recipe.optimizer.clip_norm)
        optimizer.update(flat.gradients.mul(factor), learning_rate(recipe.schedule, step), step)
    named = flat.named(flat.values) | {f"m.{k}": v for k, v in flat.named(optimizer.first).items()}
    return tensors_digest(named | {f"v.{k}": v for k, v in flat.named(optimizer.second).items()})


if __name__ == "__main__":
    main()
