"""Our trainer as a contender on the device that it chooses: python -m tests.gpu.ours FOLDER OUT [--compiled]

The work is that of `bench.ours`; the number of processes is `EVERYSTEP_PROCESSES`. When there are no more turns, the
digest of the weights goes to the file OUT.
"""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from bench.ours import open_trainer
from bench.turns import Turns
from trainer.launch import PROCESSES, launch

if TYPE_CHECKING:
    from trainer.parallel import World


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    processes = int(os.environ.get(PROCESSES, "1"))
    launch(serve, processes, "native", arguments.folder, arguments.out, arguments.compiled)


def serve(world: "World", folder: Path, out: Path, compiled: bool) -> None:
    """Rank 0 takes the turns; the others wait for its word before each step."""
    import torch

    trainer = open_trainer(folder, world, compiled)
    turns = Turns(world=type(world).__name__, numerics=trainer.numerics()) if world.rank == 0 else None
    while world.gather_floats([float(turns is None or turns.wait())])[0]:
        loss = trainer.train_step().loss
        memory = 0.0
        if world.device.type == "cuda":
            torch.cuda.synchronize()
            memory = float(torch.cuda.max_memory_allocated())
        if turns is not None:
            turns.done(loss, memory=memory)
    if world.rank == 0:
        out.write_text(trainer.weights_digest())


if __name__ == "__main__":
    main()
