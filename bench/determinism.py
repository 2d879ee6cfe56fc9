"""What determinism costs: the same training loop with and without it, in one class of numerics (native, one thread).

    python -m bench.determinism > determinism.json

Left out in turn, and all together: torch's deterministic algorithms; the tree of gradients (one buffer takes them all);
the norm of the gradient whose bits hold for every number of processes (torch's instead; the update is torch's fused one
in this class anyway). The claim is that all of it costs at most 5 % of a step's CPU seconds.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import ours
from bench.turns import Contender, Turns, alternate, middle, ratios

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.loop import Trainer

WITHOUT = ("nothing", "algorithms", "tree", "norm", "all")


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


def leave_out(trainer: "Trainer", what: str) -> None:
    import torch

    from trainer import loop

    if what in ("algorithms", "all"):
        torch.use_deterministic_algorithms(False)
    if what in ("tree", "all"):
        trainer.sum = OneBuffer(torch.zeros(trainer.flat.size))  # type: ignore[assignment]
    if what in ("norm", "all"):
        module: Any = loop
        module.block_norms = lambda gradient, block: [float(torch.linalg.vector_norm(gradient)) ** 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sibling")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--global-batch", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=1)
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "WITHOUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        folder, what = arguments.serve
        ours.enter("native")
        trainer = ours.open_trainer(Path(folder))
        leave_out(trainer, what)
        Turns().serve(lambda: trainer.train_step().loss)
        return
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        recipe, spec = ours.work(
            Path(name), arguments.model, arguments.global_batch, arguments.micro_batch, arguments.turns + 2
        )
        command = [sys.executable, "-m", "bench.determinism", "--serve", name]
        contenders = {what: Contender([*command, what]) for what in WITHOUT}
        alternate(contenders, arguments.turns, warm_up=2)
    reference = contenders["nothing"]
    tokens = recipe.data.global_batch * spec.context
    report = {
        "model": arguments.model,
        "leaves_of_the_tree": recipe.data.num_leaves,
        "tokens_per_cpu_second": middle([tokens / step["cpu"] for step in reference.steps]),
        "cost_in_percent_of": {
            what: middle([100 * (ratio - 1) for ratio in ratios(contender, reference)])
            for what, contender in contenders.items()
            if contender is not reference
        },
        "last_losses": {what: contender.steps[-1]["loss"] for what, contender in contenders.items()},
    }
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
