"""How long saving a checkpoint stops training, and how long it goes on behind it.

    python -m bench.checkpoint > checkpoint.json

Training stops for a copy of weights and moments; a thread digests and writes them. Wall seconds, and bytes a second.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench import ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["sibling", "mobilellm-125m"])
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    ours.enter("native")
    json.dump({model: measure(model, arguments.turns) for model in arguments.models}, sys.stdout, indent=1)
    print()


def measure(model: str, turns: int) -> dict[str, float]:
    """Medians over `turns` checkpoints of step 0."""
    from trainer.checkpoint import Writer

    with tempfile.TemporaryDirectory(prefix="everystep-bench-", dir=Path.cwd()) as name:
        folder = Path(name)
        ours.work(folder, model, global_batch=1, micro_batch=1, steps=1)
        trainer = ours.open_trainer(folder)
        copied, stopped, behind = [], [], []
        with Writer(folder / "run", trainer.recipe, trainer.spec, trainer.numerics(), None) as writer:
            for _ in range(turns):
                began = time.perf_counter()
                state = trainer.state()
                copied.append(time.perf_counter() - began)
                writer.save(0, 0, None, *state)
                returned = time.perf_counter()
                writer.wait()
                stopped.append(returned - began)
                behind.append(time.perf_counter() - returned)
                shutil.rmtree(folder / "run")
    num_bytes = sum(array.nbytes for part in state for array in part.values())
    copying, stopping, writing = map(statistics.median, (copied, stopped, behind))
    return {
        "megabytes": round(num_bytes / 1e6, 1),
        "training_stopped_seconds": round(stopping, 3),
        "of_which_copying": round(copying, 3),
        "written_behind_seconds": round(writing, 3),
        "megabytes_per_second_behind": round(num_bytes / 1e6 / writing, 1),
    }


if __name__ == "__main__":
    main()
