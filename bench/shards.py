"""What sharding saves and costs: memory of a process and tokens a second, for 1, 2 and 4 shards.

    python -m bench.shards > shards.json

One process for each shard. `state` is what a process holds of weights, gradients and moments, counted; `growth` is the
most that the largest process grew by, from before the model was built. On fewer processors than shards, only CPU
seconds compare.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench import ours
from bench.turns import Contender, Turns, alternate, middle, ratios
from trainer.launch import PROCESSES, SHARDS

if TYPE_CHECKING:
    from trainer.parallel import World

NUMBERS = (1, 2, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sibling")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--global-batch", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--serve", nargs=2, metavar=("FOLDER", "SHARDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        from trainer.launch import launch

        folder, shards = arguments.serve
        launch(serve, int(shards), "native", Path(folder))
        return
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        recipe, spec = ours.work(
            Path(name), arguments.model, arguments.global_batch, arguments.micro_batch, arguments.turns + 1
        )
        contenders = {
            str(number): Contender(
                [sys.executable, "-m", "bench.shards", "--serve", name, str(number)],
                {SHARDS: str(number), PROCESSES: str(number)},
            )
            for number in NUMBERS
        }
        alternate(contenders, arguments.turns, warm_up=1)
    tokens = recipe.data.global_batch * spec.context
    report = {
        number: {
            "state_mb_a_process": contender.steps[-1]["state"] / 1e6,
            "growth_mb_a_process": contender.steps[-1]["growth"] / 1e6,
            "tokens_per_wall_second": middle([tokens / step["wall"] for step in contender.steps]),
            "times_the_cpu_seconds_of_one": middle(ratios(contenders["1"], contender)),
            "last_loss": contender.steps[-1]["loss"],
        }
        for number, contender in contenders.items()
    }
    json.dump(report, sys.stdout, indent=1)
    print()


def serve(world: "World", folder: Path) -> None:
    """Rank 0 takes the turns; the others wait for its word before each step."""
    before = _peak()
    trainer = ours.open_trainer(folder, world)
    turns = Turns() if world.rank == 0 else None
    while world.gather_floats([float(turns is None or turns.wait())])[0]:
        began = time.process_time()
        loss = trainer.train_step().loss
        spent = world.gather_floats([time.process_time() - began])
        growth = max(world.gather_floats([float(_peak() - before)]))
        state = max(world.gather_floats([float(trainer.bytes_held())]))
        if turns is not None:
            turns.done(loss, cpu_elsewhere=sum(spent[1:]), growth=growth, state=state)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
