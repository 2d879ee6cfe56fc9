"""Real trainings without DVC: a folder with made-up rows and one tiny recipe, in which the stage `train` runs."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.paths import RECIPES, TOKENS, WORK
from pipeline.formats.canonical import pretty
from pipeline.formats.manifests import Tokens
from tests.project import ROOT, environment, recipe
from tests.shards import write_rows
from tests.stubs import write_stub

MODEL = "mobilellm"
STEPS = 12
LIMIT = 300
"""Seconds after which whatever still runs is stuck."""


def make_run(folder: Path, micro_batches: int = 12, **more: Any) -> Path:
    """A folder ready for `train`; `more` are keys of the recipe. Twelve micro-batches: four leaves of three each."""
    (folder / RECIPES).mkdir(parents=True)
    tree = recipe(MODEL)
    tree |= {
        "data": tree["data"] | {"global_batch": 2 * micro_batches, "micro_batch": 2},
        "schedule": tree["schedule"] | {"steps": STEPS, "warmup_steps": 2, "decay_steps": STEPS - 2},
        "digest_every": 3,
    }
    (folder / RECIPES / f"{MODEL}.yaml").write_bytes(pretty(tree | more))
    rows = np.random.default_rng(7).integers(0, 320, (100, 33))
    with contextlib.chdir(folder):
        shards = write_rows(TOKENS, rows, "train")
        seed = {"seed": tree["data"]["seed"]}
        write_stub(Tokens, parameters=seed, outputs={"train": shards}, width=33, vocabulary=320)
    return folder


def start(folder: Path, processes: int, *command: str, said: str = "said", **more: str) -> subprocess.Popen[str]:
    """Start a training as the leader of a process group of its own; stderr goes to the file `said`. `more` are
    variables of its environment."""
    with (folder / said).open("w") as file:
        return subprocess.Popen(
            command or (sys.executable, "-m", "pipeline.stages", "train", MODEL),
            cwd=folder,
            env=environment(
                PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
                EVERYSTEP_PROCESSES=str(processes),
                TORCHINDUCTOR_CACHE_DIR=str(folder / "compiled"),  # every run compiles for itself
                **more,
            ),
            stdout=subprocess.DEVNULL,
            stderr=file,
            text=True,
            start_new_session=True,
        )


def train(folder: Path, processes: int = 1, **more: str) -> str:
    """Train to the end; what was said on stderr."""
    code = end(start(folder, processes, **more))
    said = (folder / "said").read_text()
    assert code == 0, said[-6000:]
    return said


def end(process: subprocess.Popen[str], within: float = LIMIT) -> int:
    """Wait for its end; the exit code. One that is stuck is killed with its group."""
    try:
        return process.wait(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise


def killed(folder: Path, processes: int, instant: Callable[[], bool], wait: float = 0.0, **more: str) -> bool:
    """Train, and kill the whole group `wait` seconds after `instant()`. False: it came to its end before."""
    process = start(folder, processes, **more)
    running = reaches(process, instant)
    if running and wait:
        time.sleep(wait)
        running = process.poll() is None
    if running:
        os.killpg(process.pid, signal.SIGKILL)
    code = end(process)
    assert running or code == 0, (folder / "said").read_text()[-6000:]
    return running


def reaches(process: subprocess.Popen[str], instant: Callable[[], bool]) -> bool:
    """Wait for an instant; False: the process ended before."""
    until = time.monotonic() + LIMIT
    while process.poll() is None:
        if instant():
            return True
        assert time.monotonic() < until, "nothing happens"
        time.sleep(0.001)
    return False


def num_logged(folder: Path) -> int:
    """Steps in the log of the training under way."""
    logs = list((folder / WORK / "train" / MODEL).glob("*/log.jsonl"))
    return logs[0].read_bytes().count(b"\n") if logs else 0


def half_written(folder: Path) -> list[Path]:
    """Checkpoints that are being written, or were when a kill came."""
    return list((folder / WORK / "train" / MODEL).glob("*/.step*.partial"))


def result(folder: Path) -> dict[str, bytes]:
    """All that a training leaves: each file of each checkpoint, the log in both forms, the manifest."""
    paths = [path for part in ("runs", "manifests") for path in (folder / part).rglob("*") if path.is_file()]
    assert any(path.name == "model.safetensors" for path in paths)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def are_gone(processes: list[int], within: float = 30) -> bool:
    """Whether these processes end within some seconds; one that waits to be reaped has ended."""
    until = time.monotonic() + within
    while any(map(_runs, processes)) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(map(_runs, processes))


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except FileNotFoundError:
        return False
