"""The machine's matrix-product peak as a contender: fp32, one thread, native kernels.

    python -m bench.peak mkl|onednn

`mkl` is `torch.mm`, which the peers take too; `onednn` what `trainer.matmul` takes for large products.
"""

import sys

from bench.turns import Turns
from trainer import numerics

SIZE = 2048
FLOPS = 2 * SIZE**3


def main() -> None:
    numerics.enter("native")
    import torch

    from trainer.matmul import product

    a, b, c = (torch.ones(SIZE, SIZE) for _ in "abc")
    if sys.argv[1] == "mkl":
        Turns(flops=FLOPS).serve(lambda: float(torch.mm(a, b, out=c)[0, 0]))
    else:
        Turns(flops=FLOPS).serve(lambda: float(product(a, b)[0, 0]))


if __name__ == "__main__":
    main()
