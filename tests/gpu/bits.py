"""The same bits again, and what readers do with a checkpoint: small trainings by the real stage, on the device.

The trainings of one check run at the same time, since each leaves most of a GPU idle.
"""

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from threading import Lock
from typing import Any

from pipeline.base.paths import RUNS, WORK
from pipeline.formats import checkpoints as ck
from tests.gpu.setting import Figures, Setting
from tests.project import ROOT
from tests.trainer.runs import MODEL, end, killed, make_run, result, start, train
from trainer.launch import PROCESSES, SHARDS

NATIVE: dict[str, Any] = {"numerics": "native", "precision": "bfloat16"}
_making = Lock()


def trained(setting: Setting) -> Figures:
    """One training by the stage, of which the checks below read the checkpoints."""
    folder = _made(setting.scratch / "run", **NATIVE)
    _finished(setting, {folder: start(folder, 1)})
    record = ck.read_record(ck.find_checkpoints(folder / RUNS / MODEL)[-1][1])
    assert setting.on_gpu == record.numerics.products.startswith("CUDA"), f"it ran on {record.numerics.capability}"
    return {"weights_digest": record.weights_digest, "loss": record.loss, "numerics": record.numerics.to_json()}


def again(setting: Setting) -> Figures:
    """A second time, killed and resumed, and in two processes on one device: every file the same."""
    folders = {name: setting.scratch / name for name in ("again", "resumed", "processes")}
    for folder in folders.values():
        _made(folder, **NATIVE)
    running = {folders["again"]: start(folders["again"], 1), folders["processes"]: start(folders["processes"], 2)}
    found = folders["resumed"] / WORK / "train" / MODEL
    was_killed = killed(folders["resumed"], 1, lambda: any(found.glob("*/step000004-*")))
    _finished(setting, running | {folders["resumed"]: start(folders["resumed"], 1)})
    return _same(setting.scratch / "run", folders) | {"killed": was_killed}


def sharded(setting: Setting) -> Figures:
    """Two shards on one device, twice: the same bytes, and losses of the unsharded training within rounding."""
    folders = {name: _made(setting.scratch / name, **NATIVE) for name in ("sharded", "sharded again")}
    _finished(setting, {folder: start(folder, 2, **{SHARDS: "2"}) for folder in folders.values()})
    record = ck.read_record(ck.find_checkpoints(folders["sharded"] / RUNS / MODEL)[-1][1])
    whole = ck.read_record(ck.find_checkpoints(setting.scratch / "run" / RUNS / MODEL)[-1][1])
    assert record.numerics.shards == 2 and record.loss is not None and whole.loss is not None
    distance = abs(record.loss - whole.loss)
    assert distance < 0.01, f"loss {record.loss}, and {whole.loss} in one process"
    same = _same(folders["sharded"], {"sharded again": folders["sharded again"]})
    return same | {"distance_of_the_last_loss": distance}


def compiled(setting: Setting) -> Figures:
    """A compiled training twice, each with a compiler's cache of its own."""
    folders = {name: _made(setting.scratch / name, **NATIVE, compiled=True) for name in ("compiled", "recompiled")}
    _finished(setting, {folder: start(folder, 1) for folder in folders.values()})
    return _same(folders["compiled"], {"recompiled": folders["recompiled"]})


def portable(setting: Setting) -> Figures:
    """The class `portable` computes on the processor, whatever else the machine has."""
    folder = _made(setting.scratch / "portable")
    train(folder)
    record = ck.read_record(ck.find_checkpoints(folder / RUNS / MODEL)[-1][1])
    assert record.numerics.capability == "AVX2"
    return {"weights_digest": record.weights_digest, "products": record.numerics.products}


def in_one_process(setting: Setting, name: str, names: list[str]) -> Figures:
    """The check `name` of `tests.gpu.jobs`. All of `names` run in one process, when the first is asked for."""
    printed, said = (setting.scratch / f"{names[0]}.{kind}" for kind in ("jsonl", "said"))
    if not printed.exists():
        families = ",".join(setting.families)
        command = [sys.executable, "-m", "tests.gpu.jobs", str(setting.scratch), setting.device, families, *names]
        with said.open("w") as errors, printed.open("w") as out:
            process = Popen(
                command,
                cwd=ROOT,
                env=os.environ | {PROCESSES: "1"},
                stdout=out,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        with suppress(TimeoutExpired):  # the checks that were reached have their line
            end(process, setting.limit)
    for line in map(json.loads, printed.read_text().splitlines()):
        if line["check"] == name:
            assert "fault" not in line, line["fault"]
            figures: Figures = line["figures"]
            return figures
    raise AssertionError(f"the process of the checks ended before this one: {said.read_text()[-2500:]}")


def _made(folder: Path, **more: Any) -> Path:
    """Make the folder of a training. One at a time: the writers of rows work in the current folder, of which there is
    one."""
    with _making:
        return make_run(folder, **more)


def _finished(setting: Setting, running: dict[Path, "Popen[str]"]) -> None:
    """Wait for trainings; the first that failed is reported with what it said, once all have ended."""
    codes = {folder: end(process, setting.limit) for folder, process in running.items()}
    for folder, code in codes.items():
        assert code == 0, f"{folder.name}: {(folder / 'said').read_text()[-3000:]}"


def _same(first: Path, others: dict[str, Path]) -> Figures:
    """Compare every file of trainings with those of the first."""
    expected = result(first)
    for name, folder in others.items():
        found = result(folder)
        names = sorted(file for file in expected.keys() | found.keys() if expected.get(file) != found.get(file))
        assert not names, f"{name}: other bytes than in {first.name}: {', '.join(names[:4])}"
    return dict.fromkeys(others, "same bytes") | {"files": len(expected)}


Checks = dict[str, Callable[[Setting], Figures]]


def jobs(*names: str) -> Checks:
    return {name: partial(in_one_process, name=name, names=list(names)) for name in names}


READERS = ("replayed", "evaluated", "sampled", "exported")
ON_GPU: list[list[Checks]] = [
    [{"trained": trained}, jobs("machine")],
    [jobs(*READERS), {"again": again}, {"sharded": sharded}, {"compiled": compiled}, {"portable": portable}],
]
"""One list after another; what is in one runs at the same time."""
ON_CPU: list[list[Checks]] = [[{"trained": trained} | jobs("machine", *READERS)]]
"""On small shapes, in few processes; the others are tested on CPUs elsewhere (`tests/trainer`)."""
