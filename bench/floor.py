"""A training step's matrix products and nothing else, as a contender: what no trainer with these shapes can pass.

    python -m bench.floor FOLDER

The shapes of the work in FOLDER (`bench.ours.work`), micro-batch by micro-batch: each matrix of each layer and of the
logits three times (forward, derivative of the input, derivative of the weight), and attention's fused kernel with its
derivative. fp32, one thread; each product by the library that the trainer takes for it.
"""

import sys
from pathlib import Path

from bench.ours import open_work
from bench.turns import Turns
from pipeline.formats.model import ModelSpec, unrolled
from trainer import numerics


def matrices(spec: ModelSpec) -> list[tuple[int, int]]:
    """(outputs, inputs) of every product with the batch, shared ones as often as they are applied."""
    shapes = [(spec.vocabulary, spec.width)]
    for layer in unrolled(spec)[0].layers:
        heads = layer.query_heads + 2 * layer.kv_heads
        up = 2 if layer.activation == "swiglu" else 1
        shapes += [(heads * layer.head_width, spec.width), (spec.width, layer.query_heads * layer.head_width)]
        shapes += [(up * layer.ffn_width, spec.width), (spec.width, layer.ffn_width)]
    return shapes


def main() -> None:
    numerics.enter("native")
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from trainer.matmul import product

    recipe, spec, _ = open_work(Path(sys.argv[1]))
    B, T = recipe.data.micro_batch, spec.context
    inputs = {width: torch.randn(B * T, width) for shape in matrices(spec) for width in shape}
    weights = {shape: torch.randn(shape) for shape in matrices(spec)}
    heads = [
        [torch.randn(B, n, T, layer.head_width, requires_grad=True) for n in (layer.query_heads, *[layer.kv_heads] * 2)]
        for layer in unrolled(spec)[0].layers
    ]

    def step() -> float:
        for _ in range(recipe.data.num_micro_batches):
            for outputs, width in matrices(spec):
                product(inputs[width], weights[outputs, width].t())
                product(inputs[outputs], weights[outputs, width])
                product(inputs[outputs].t(), inputs[width])
            for query, key, value in heads:
                y = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
                torch.autograd.grad(y, (query, key, value), y)
        return 0.0

    Turns(parameters=0).serve(step)


if __name__ == "__main__":
    main()
