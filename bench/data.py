"""How fast rows reach the trainer, and how fast they are checked, for each layout.

    python -m bench.data [rows] [width] > data.json

The rows are made up and lie in a temporary folder. A first start digests and parses rows of others; our own are only
digested, and not before a step reads from them. A second start reads nothing; what it takes is told in seconds. `rows`
is what `micro_batch_rows` gives one process, to be held against the tokens that a step takes on one core. All rates are
per second of CPU, because neighbours take a share of the machine.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats.lines import Shard
from pipeline.formats.rows import encode_row
from tests.shards import write_rows
from trainer.data import EverystepData, Llm360Data, MobilellmData, TrainingData
from trainer.plain_rows import check_rows
from trainer.verified_rows import VerifiedRows

VOCABULARY, BATCH, SEED = 32000, 16, 1
TOKENS_PER_SECOND_OF_TRAINING = 1000  # one core, the smallest published size
MOST_ROWS = 2000  # asked for, at random steps


def main() -> None:
    num_rows, width = int(sys.argv[1]) if len(sys.argv) > 1 else 8192, int(sys.argv[2]) if len(sys.argv) > 2 else 2049
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as scratch:
        report = {name: measure(name, Path(scratch) / name, num_rows, width) for name in LAYOUTS}
    json.dump({"rows": num_rows, "width": width, "cores": len(os.sched_getaffinity(0)), **report}, sys.stdout, indent=1)
    print()


def measure(name: str, folder: Path, num_rows: int, width: int) -> dict[str, float]:
    draw = np.random.default_rng(SEED)
    layout, write = LAYOUTS[name]
    shards = write(folder, [draw.integers(0, VOCABULARY, width) for _ in range(num_rows)])
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jsonl*"))
    cache = folder / "checked"
    written = tuple(shards or ())
    seconds = []
    for _ in range(2):
        began = cpu_seconds()
        if written:
            VerifiedRows(folder, written, width, VOCABULARY, cache).check_shards(range(len(written)))
        else:
            found = check_rows(folder, files, width, VOCABULARY, cache, name)
        seconds.append(cpu_seconds() - began)
    reading: dict[str, Any] = {
        "width": width,
        "vocabulary": VOCABULARY,
        "seed": SEED,
        "global_batch": BATCH,
        "micro_batch": 1,
    }
    more: dict[str, Any] = {"memory": cache} if written else {"cache": cache}
    rate = rows_per_second(layout(folder=folder, shards=written or found, **reading, **more), num_rows)
    return {
        "first_start_million_tokens_per_cpu_second": round(num_rows * width / seconds[0] / 1e6, 2),
        "second_start_cpu_seconds": round(seconds[1], 4),
        "rows_per_cpu_second": round(rate),
        "times_what_training_takes": round(rate * width / TOKENS_PER_SECOND_OF_TRAINING),
    }


def cpu_seconds() -> float:
    """Of this process and of those it started and that have ended."""
    return sum(os.times()[:4])


def rows_per_second(data: TrainingData, num_rows: int) -> float:
    rows = data.open()
    asked = min(MOST_ROWS, num_rows) // BATCH
    steps = np.random.default_rng(SEED).choice(num_rows // BATCH, asked, replace=False).tolist()
    began = time.process_time()
    for step in steps:
        for number in range(BATCH):
            data.micro_batch_rows(rows, step, number)
    return len(steps) * BATCH / (time.process_time() - began)


def write_chunks(folder: Path, rows: list[np.ndarray]) -> None:
    write_plain(folder / "train_000.jsonl", rows)


def write_nodes(folder: Path, rows: list[np.ndarray]) -> None:
    for node in range(2):
        write_plain(folder / str(node + 1) / "train.jsonl", rows[node::2])


def write_ours(folder: Path, rows: list[np.ndarray]) -> list[Shard]:
    return write_rows(folder, rows, "train")


def write_plain(path: Path, rows: list[np.ndarray]) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(b"".join(map(encode_row, rows)))


LAYOUTS: dict[str, tuple[type[TrainingData], Callable[[Path, list[np.ndarray]], list[Shard] | None]]] = {
    "everystep": (EverystepData, write_ours),
    "llm360": (Llm360Data, write_chunks),
    "mobilellm": (MobilellmData, write_nodes),
}

if __name__ == "__main__":
    main()
