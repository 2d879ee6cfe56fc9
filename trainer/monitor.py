"""Monitoring: a record of each run with speed and host, and curves on TensorBoard. Never hashed, never released."""

import os
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.console import note, run_command
from pipeline.base.errors import EverystepError, how_to_install
from pipeline.base.paths import RUNS, WORK
from pipeline.formats import log
from pipeline.formats.canonical import Json, canonical
from pipeline.formats.log import Entry

if TYPE_CHECKING:
    from trainer.loop import Trainer

RECORDS = WORK / "records"
TENSORBOARD = "EVERYSTEP_TENSORBOARD"


@contextmanager
def run_record(path: Path, trainer: "Trainer") -> Iterator[None]:
    """Append a line about this stretch of training, finished or interrupted: when, where, how fast, how much memory."""
    began, cpu, first_step, first_token = time.time(), time.process_time(), trainer.step, trainer.tokens
    ended = "complete"
    try:
        yield
    except BaseException as error:
        ended = type(error).__name__
        raise
    finally:
        seconds = time.time() - began
        tokens = trainer.tokens - first_token
        line: dict[str, Json] = {
            "began": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
            "host": platform.node(),
            "processor": _processor(),
            "processes": trainer.world.size,
            "steps": [first_step, trainer.step],
            "tokens": tokens,
            "ended": ended,
            "seconds": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds, 1),
            "cpu_seconds_of_rank_0": round(time.process_time() - cpu, 3),
            "peak_memory_of_rank_0": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "numerics": trainer.numerics(),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(canonical(line) + b"\n")


@contextmanager
def board(name: str, kept: Iterable[Entry], quiet: bool = False) -> Iterator[Callable[[Entry], None]]:
    """Give a function that draws an entry on TensorBoard, in the folder `EVERYSTEP_TENSORBOARD`, or does nothing.

    A resumed run is drawn again from the entries that its log `kept`. So no step is missing because a kill took it from
    the last writer's buffers, and none appears twice: TensorBoard drops what was drawn before, from `purge_step` on.
    """
    folder = os.environ.get(TENSORBOARD)
    if quiet or not folder:
        yield lambda entry: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise EverystepError(f"{TENSORBOARD}: needs tensorboard; {how_to_install('tensorboard')}") from error
    with SummaryWriter(Path(folder) / name, purge_step=1) as writer:

        def show(entry: Entry) -> None:
            for key in ("loss", "gradient_norm", "learning_rate"):
                writer.add_scalar(key, getattr(entry, key), entry.step)

        for entry in kept:
            show(entry)
        yield show


def draw_complete() -> None:
    """Draw the complete runs that have no curves yet, from their logs: DVC does not start those again."""
    folder = os.environ.get(TENSORBOARD)
    if not folder:
        raise EverystepError(f"{TENSORBOARD}: not set; set it to the folder of the curves, such as boards")
    for path in sorted(RUNS.glob(f"*/{log.JSONL}")):
        name = path.parent.name
        if not any((Path(folder) / name).glob("events.*")):
            with board(name, log.read(path)):
                note(f"{name}: its training was complete, so its curves on {folder} are drawn from its log")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    run_command(draw_complete, "")
