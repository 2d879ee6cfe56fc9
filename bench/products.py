"""Matrix products of a training step, by every library that might give portable bits at native speed.

    python -m bench.products > products.json
    python -m bench.products --digests                                        # here
    python -m bench.products --digests --under qemu-x86_64 -cpu Haswell       # on another processor: the same?

The products are those of one micro-batch, forward and both gradients: x W^T, G W, G^T x. `native` and `native-avx2`
are MKL's, as torch calls it; `mkl-compatible` and `mkl-avx2-strict` its two reproducible settings; `onednn` oneDNN
capped to AVX2; `openblas` numpy's with a fixed core type, which the class `portable` has (docs/decisions.md).
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.ours import CAPPED, SIBLING
from bench.turns import Contender, Turns, alternate, middle, ratios
from trainer.numerics import CLASSES, ONE_THREAD

if TYPE_CHECKING:
    from torch import Tensor

CANDIDATES: dict[str, dict[str, str]] = {
    "native": {},
    "native-avx2": CAPPED,
    "openblas": CLASSES["portable"],
    "onednn": CLASSES["portable"],
    "mkl-compatible": CLASSES["portable"],
    "mkl-avx2-strict": CLASSES["portable"] | {"MKL_CBWR": "AVX2,STRICT"},
}
ROWS = 512
SHAPES = {  # (outputs, inputs) of the matrices of a layer and of the logits
    "mobilellm": [(256, 128), (128, 128), (512, 128), (128, 256), (2048, 128)],
    "sibling": [(512, 256), (256, 256), (1408, 256), (256, 704), (SIBLING["vocabulary"], 256)],
}
ODD = [(101, 72), (331, 37), (64, 256), (96, 1000)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--digests", action="store_true", help="of small products, instead of times")
    parser.add_argument("--under", nargs=argparse.REMAINDER, default=[], help="an emulator and its options")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(*arguments.serve)
        return
    command = [*arguments.under, sys.executable, "-m", "bench.products", "--serve"]
    if arguments.digests:
        # One process for all three: each library reads its own variables.
        environment = clean() | CANDIDATES["mkl-avx2-strict"]
        found = subprocess.run([*command, "digests"], env=environment, check=True, capture_output=True, text=True)
        report = json.loads(found.stdout)
    else:
        report = {model: compare(command, model, arguments.turns) for model in SHAPES}
    json.dump(report, sys.stdout, indent=1)
    print()


def compare(command: list[str], model: str, turns: int) -> dict[str, Any]:
    contenders = {
        name: Contender([*command, model, name], clean() | environment) for name, environment in CANDIDATES.items()
    }
    alternate(contenders, turns, warm_up=2)
    flops = next(iter(contenders.values())).facts["flops"]
    return {
        name: {
            "gflops_per_cpu_second": middle([flops / step["cpu"] / 1e9 for step in contender.steps]),
            "times_the_cpu_seconds_of_native_avx2": middle(ratios(contenders["native-avx2"], contender)),
        }
        for name, contender in contenders.items()
    }


def clean() -> dict[str, str]:
    """This environment without what steers the libraries, one thread."""
    steered = {key for environment in CANDIDATES.values() for key in environment}
    return {key: value for key, value in os.environ.items() if key not in steered} | ONE_THREAD


def serve(model: str, candidate: str = "") -> None:
    import torch

    torch.set_num_threads(1)
    if model == "digests":
        print(json.dumps(digests()))
        return
    operands = [operands_of(outputs, inputs, ROWS) for outputs, inputs in SHAPES[model]]
    product = library(candidate)
    repeats = 8 if model == "mobilellm" else 1

    def step() -> float:
        for _ in range(repeats):
            for matrices in operands:
                three_products(product, *matrices)
        return 0.0

    Turns(flops=repeats * sum(6 * ROWS * outputs * inputs for outputs, inputs in SHAPES[model])).serve(step)


def library(candidate: str) -> "Callable[[Tensor, Tensor], Tensor]":
    import numpy as np
    import torch

    def openblas(a: "Tensor", b: "Tensor") -> "Tensor":
        return torch.from_numpy(np.matmul(a.numpy(), b.numpy()))

    def onednn(a: "Tensor", b: "Tensor") -> "Tensor":
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), None, "none", [], "")  # type: ignore[no-any-return]

    known = {"openblas": openblas, "onednn": onednn}
    return known.get(candidate, torch.mm)


def operands_of(outputs: int, inputs: int, rows: int) -> "tuple[Tensor, Tensor, Tensor]":
    """x, W and a gradient G, from integers, so that they are the same everywhere."""
    import torch

    def made_up(*shape: int) -> "Tensor":
        numbers = torch.arange(shape[0] * shape[1], dtype=torch.int64) * 7919 % 65521
        return (numbers.float() / 65521 - 0.5).view(shape)

    return made_up(rows, inputs), made_up(outputs, inputs), made_up(rows, outputs)


def three_products(product: "Callable[[Tensor, Tensor], Tensor]", x: "Tensor", w: "Tensor", g: "Tensor") -> Any:
    return product(x, w.t()), product(g, w), product(g.t(), x)


def digests() -> dict[str, str]:
    """Small shapes, because an emulator is slow."""
    found = {}
    for candidate in ("openblas", "onednn", "mkl-avx2-strict"):
        digest = hashlib.sha256()
        for shape in [*SHAPES["mobilellm"], *SHAPES["sibling"][:2], *ODD]:
            for result in three_products(library(candidate), *operands_of(*shape, rows=96)):
                digest.update(result.contiguous().numpy().tobytes())
        found[candidate] = digest.hexdigest()
    return found


if __name__ == "__main__":
    main()
