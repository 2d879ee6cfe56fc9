"""What training each recipe takes of a device's memory, computed from its description; fp32.

    python -m bench.memory > table.md

On every device: the weights, the buffers of the tree that sums gradients, one more to exchange them where there are
peers, and what a micro-batch leaves for its backward; the moments are divided among the devices. Saving a checkpoint
copies weights and moments, after the step's activations are gone. With `EVERYSTEP_RECOMPUTE=1` only the input of each
layer is kept, and one layer's activations at a time. Not counted: torch itself, and what an allocator leaves unused
between the blocks in use: on the CPU up to a third more (docs/benchmarks.md).

`tests/trainer/test_memory.py` compares both the kept activations and the most that a step allocates with torch's own
count.
"""

import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path

from pipeline.formats.model import LayerSpec, ModelSpec, layer_shapes, num_parameters
from trainer.recipe import Recipe, load_recipe

FLOAT = 4
DEVICES = (1, 8, 32)
LOGITS_ALIVE = 3
"""Blocks of logits at a time: a block, its logarithmic shares, and one of those of the block before."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one device."""

    weights: int
    gradients: int
    exchange: int
    moments: int
    activations: int
    """What a micro-batch keeps for its backward."""
    passing: int
    """The most that comes and goes beside it: a block of logits, or the gradients inside a layer."""
    checkpoint: int
    """The copy of weights and moments of a checkpoint; on the other devices than the first it lives for a moment."""

    @property
    def peak(self) -> int:
        state = self.weights + self.gradients + self.moments
        return state + max(self.activations + self.passing, self.exchange, self.checkpoint)


def memory(recipe: Recipe, spec: ModelSpec, devices: int = 1, recompute: bool = False) -> Memory:
    """One of `devices` equal processes; they cannot be more than the leaves of the recipe's tree."""
    vector = FLOAT * num_parameters(spec)
    leaves = recipe.data.num_leaves // devices
    rows = recipe.data.micro_batch * spec.context
    kept, widest = kept_by_layers(spec, recompute)
    head = spec.vocabulary * spec.width  # the gradient of the logits' matrix is made on the way forward
    logits = LOGITS_ALIVE * min(loss_rows(), rows) * spec.vocabulary
    return Memory(
        weights=vector,
        gradients=vector * leaves.bit_length(),
        exchange=vector if devices > 1 else 0,
        moments=2 * vector // devices,
        activations=FLOAT * (rows * (kept + kept_behind_layers(spec)) + head),
        passing=FLOAT * max(logits, rows * widest + largest_matrix(spec)),
        checkpoint=3 * vector,
    )


def kept_by_layers(spec: ModelSpec, recompute: bool = False) -> tuple[int, int]:
    """Numbers a token: kept by all layers, and beside them the most inside one layer on the way back."""
    layers = [spec.layers[index] for index in spec.applications]
    each = [kept_by_layer(spec.width, layer) for layer in layers]
    inside = max(3 * spec.width + 4 * layer.ffn_width for layer in layers)
    return (spec.width * len(layers), inside + max(each)) if recompute else (sum(each), inside)


def kept_by_layer(width: int, layer: LayerSpec) -> int:
    """Numbers a token that one layer's operators keep for their derivatives, as `trainer/model.py` computes them."""
    heads, pairs = layer.query_heads + layer.kv_heads, layer.query_heads + 2 * layer.kv_heads
    inputs = 1 if layer.residual == "parallel" else 2  # what the two norms read, or the matrices before them
    norms = inputs * width + 2 * kept_by_norm(layer.norm, width)
    attention = (pairs + layer.query_heads) * layer.head_width  # projected, and what attention gives
    if layer.rotary_share or layer.qk_norm:
        attention += heads * layer.head_width  # rotated, or normed, which a rotation does not need
    attention += layer.query_heads  # the logarithm of each softmax's sum
    if layer.qk_norm:
        attention += heads if layer.qk_norm == "head" else 2  # scales; what they norm is kept already
    ffn = (4 if layer.activation == "swiglu" else 2) * layer.ffn_width
    return norms + attention + ffn


def kept_behind_layers(spec: ModelSpec) -> int:
    """Numbers a token: what the last norm reads, and what it gives."""
    return spec.width + kept_by_norm(spec.final_norm, spec.width)


def kept_by_norm(kind: str, width: int) -> int:
    """Numbers a token: the product with the weights, which the next matrix reads, and a scale or mean and scale."""
    return width + (1 if kind == "rms" else 2)


def largest_matrix(spec: ModelSpec) -> int:
    """Its gradient exists once before it is added."""
    return max(prod(shape) for layer in spec.layers for shape in layer_shapes(spec.width, layer).values())


def loss_rows() -> int:
    from trainer.operators import LOSS_ROWS

    return LOSS_ROWS["cpu"]


def table(names: list[str]) -> str:
    """A row a recipe: GiB of one device's peak."""
    counts = " | ".join(f"{count}" for count in DEVICES)
    recomputed = " | ".join(f"{count}, recomputed" for count in DEVICES)
    lines = [f"| recipe | parameters | micro-batch | {counts} | {recomputed} |"]
    lines.append("| --- |" + " ---: |" * (2 + 2 * len(DEVICES)))
    for name in names:
        recipe, spec = load_recipe(name)
        cells = [
            f"{memory(recipe, spec, devices, recompute).peak / 2**30:.1f}"
            if recipe.data.num_leaves % devices == 0
            else "-"
            for recompute in (False, True)
            for devices in DEVICES
        ]
        size = f"{num_parameters(spec) / 1e6:,.1f} M"
        rows = f"{recipe.data.micro_batch} x {spec.context}"
        lines.append(f"| {name} | {size} | {rows} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    names = sys.argv[1:] or sorted(path.stem for path in Path("recipes").glob("*.yaml"))
    by_size = sorted(names, key=lambda name: num_parameters(load_recipe(name)[1]))
    print(table(by_size))


if __name__ == "__main__":
    main()
