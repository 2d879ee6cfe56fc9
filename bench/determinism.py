"""What determinism costs: the same training loop with and without it, in one class of numerics (native, one thread).

    python -m bench.determinism > determinism.json

Left out in turn, and all together: torch's deterministic algorithms; the tree of gradients (one buffer takes them all);
the norm of the gradient whose bits hold for every number of processes (torch's instead; the update is torch's fused one
in this class anyway). The claim is that all of it costs at most 5 % of a step's CPU seconds. One process makes all
steps, one of each kind in turn: two processes of the very same code differ by more than what is measured here.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import ours
from bench.turns import middle

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.loop import Trainer

WITHOUT = ("nothing", "algorithms", "tree", "norm", "all")
WARM_UP = 2


class OneBuffer:
    """In place of `TreeSum`: every micro-batch adds into the same vector."""

    def __init__(self, vector: "Tensor") -> None:
        self._vector, self._begun = vector, False

    def buffer(self) -> "Tensor":
        if not self._begun:
            self._vector.zero_()
        self._begun = True
        return self._vector

    def add(self, tensor: "Tensor") -> None:
        pass

    def total(self) -> "Tensor":
        self._begun = False
        return self._vector


@contextmanager
def left_out(what: str, trainer: "Trainer", buffer: OneBuffer) -> Iterator[None]:
    import torch

    from trainer import loop

    module: Any = loop
    kept = trainer.sum, module.block_norms
    if what in ("algorithms", "all"):
        torch.use_deterministic_algorithms(False)
    if what in ("tree", "all"):
        trainer.sum = buffer  # type: ignore[assignment]
    if what in ("norm", "all"):
        module.block_norms = lambda gradient, block: [float(torch.linalg.vector_norm(gradient)) ** 2]
    yield
    torch.use_deterministic_algorithms(True)
    trainer.sum, module.block_norms = kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sibling")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--global-batch", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=1)
    arguments = parser.parse_args()
    ours.enter("native")
    import torch

    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        turns = WARM_UP + arguments.turns
        batches = arguments.global_batch, arguments.micro_batch
        recipe, spec = ours.work(Path(name), arguments.model, *batches, turns * len(WITHOUT))
        trainer = ours.open_trainer(Path(name))
        buffer = OneBuffer(torch.zeros(trainer.flat.size))
        seconds: dict[str, list[float]] = {what: [] for what in WITHOUT}
        for _ in range(turns):
            for what in WITHOUT:
                with left_out(what, trainer, buffer):
                    began = time.process_time()
                    trainer.train_step()
                    seconds[what].append(time.process_time() - began)
    counted = {what: steps[WARM_UP:] for what, steps in seconds.items()}
    tokens = recipe.data.global_batch * spec.context
    report = {
        "model": arguments.model,
        "leaves_of_the_tree": recipe.data.num_leaves,
        "tokens_per_cpu_second": middle([tokens / step for step in counted["nothing"]]),
        "cost_in_percent_of": {
            what: middle([100 * (a / b - 1) for a, b in zip(counted["nothing"], steps, strict=True)])
            for what, steps in counted.items()
            if what != "nothing"
        },
    }
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
