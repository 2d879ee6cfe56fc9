"""How much faster two processes train than one: the same steps, the same bits.

    python -m bench.processes > processes.json

The claim is 1.8 times by the wall clock, on a machine with two idle processors. Where others work too, only the CPU
seconds say something: how much more of them two processes take together for one step.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import ours
from bench.turns import Contender, Turns, alternate, middle, ratios

if TYPE_CHECKING:
    from trainer.parallel import World


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sibling")
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--global-batch", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "PROCESSES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        from trainer.launch import launch

        folder, processes = arguments.serve
        launch(serve, int(processes), "native", Path(folder))
        return
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        recipe, spec = ours.work(
            Path(name), arguments.model, arguments.global_batch, arguments.micro_batch, arguments.turns + 2
        )
        command = [sys.executable, "-m", "bench.processes", "--serve", name]
        one, more = Contender([*command, "1"]), Contender([*command, str(arguments.processes)])
        alternate({"one": one, "more": more}, arguments.turns, warm_up=2)
    if [step["loss"] for step in one.steps] != [step["loss"] for step in more.steps]:
        raise SystemExit("the losses differ: these are not the same steps")
    tokens = recipe.data.global_batch * spec.context
    report = {
        "model": arguments.model,
        "processes": arguments.processes,
        "times_as_fast_by_the_wall": middle(ratios(more, one, "wall")),
        "times_the_cpu_seconds": middle(ratios(one, more)),
        "tokens_per_wall_second": {
            "one": middle([tokens / step["wall"] for step in one.steps]),
            "more": middle([tokens / step["wall"] for step in more.steps]),
        },
    }
    json.dump(report, sys.stdout, indent=1)
    print()


def serve(world: "World", folder: Path) -> None:
    """Rank 0 takes the turns; the others wait for its word before each step."""
    trainer = ours.open_trainer(folder, world)
    turns = Turns() if world.rank == 0 else None
    while world.gather_floats([float(turns is None or turns.wait())])[0]:
        began = time.process_time()
        loss = trainer.train_step().loss
        spent = world.gather_floats([time.process_time() - began])
        if turns is not None:
            turns.done(loss, cpu_elsewhere=sum(spent[1:]))


if __name__ == "__main__":
    main()
