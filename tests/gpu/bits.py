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

from pipeline.formats import checkpoints as ck
from pipeline.base.paths import RUNS, WORK
from tests.gpu.setting import Figures, Setting
from tests.project import ROOT
from trainer.launch import PROCESSES
from tests.trainer.runs import MODEL, end, killed, make_run, result, start, train

NATIVE = {"numerics": "native", "precision": "bfloat16"}


def trained(setting: Setting) -> Figures:
    """One training by the stage, of which the checks below read the checkpoints."""
    folder = make_run(setting.scratch / "run", **NATIVE)
    _finished(setting, {folder: start(folder, 1)})
    record = ck.read_record(ck.find_checkpoints(folder / RUNS / MODEL)[-1][1])
    assert setting.on_gpu == record.numerics.products.startswith("CUDA"), f"it ran on {record.numerics.capability}"
    return {"weights_digest": record.weights_digest, "loss": record.loss, "numerics": record.numerics.to_json()}


def again(setting: Setting) -> Figures:
    """A second time, killed and resumed, and in two processes on one device: every file the same."""
    folders = {name: setting.scratch / name for name in ("again", "resumed", "processes")}
    for folder in folders.values():
        make_run(folder, **NATIVE)
    running = {folders["again"]: start(folders["again"], 1), folders["processes"]: start(folders["processes"], 2)}
    found = folders["resumed"] / WORK / "train" / MODEL
    was_killed = killed(folders["resumed"], 1, lambda: any(found.glob("*/step000004-*")))
    _finished(setting, running | {folders["resumed"]: start(folders["resumed"], 1)})
    return _same(setting.scratch / "run", folders) | {"killed": was_killed}


def compiled(setting: Setting) -> Figures:
    """A compiled training twice, each with a compiler's cache of its own."""
    folders = {name: make_run(setting.scratch / name, **NATIVE, compiled=True) for name in ("compiled", "recompiled")}
    _finished(setting, {folder: start(folder, 1) for folder in folders.values()})
    return _same(folders["compiled"], {"recompiled": folders["recompiled"]})


def portable(setting: Setting) -> Figures:
    """The class `portable` computes on the processor, whatever else the machine has."""
    folder = make_run(setting.scratch / "portable")
    train(folder)
    record = ck.read_record(ck.find_checkpoints(folder / RUNS / MODEL)[-1][1])
    assert record.numerics.capability == "AVX2"
    return {"weights_digest": record.weights_digest, "products": record.numerics.products}


def in_one_process(setting: Setting, name: str) -> Figures:
    """The check `name` of `tests.gpu.jobs`, which all run when the first is asked for."""
    printed, said = setting.scratch / "jobs.jsonl", setting.scratch / "jobs.said"
    if not printed.exists():
        command = (sys.executable, "-m", "tests.gpu.jobs", str(setting.scratch), setting.device)
        with said.open("w") as errors, printed.open("w") as out:
            process = Popen(
                [*command, ",".join(setting.families)],
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


def _finished(setting: Setting, running: dict[Path, "Popen[str]"]) -> None:
    """Wait for trainings; the first that failed is reported with what it said, once all have ended."""
    codes = {folder: end(process, setting.limit) for folder, process in running.items()}
    for folder, code in codes.items():
        assert code == 0, f"{folder.name}: {(folder / 'said').read_text()[-3000:]}"


def _same(first: Path, others: dict[str, Path]) -> Figures:
    """Compare every file of trainings with those of the first."""
    expected = result(first)
    different: dict[str, list[str]] = {}
    for name, folder in others.items():
        found = result(folder)
        different[name] = sorted(file for file in expected.keys() | found.keys() if expected.get(file) != found.get(file))
    assert not any(different.values()), f"other bytes than the first: { {name: files[:4] for name, files in different.items() if files} }"
    return dict.fromkeys(others, "same bytes") | {"files": len(expected)}


Check = Callable[[Setting], Figures]
ON_BOTH: dict[str, Check] = {"trained": trained} | {
    name: partial(in_one_process, name=name) for name in ("machine", "replayed", "evaluated", "sampled", "exported")
}
"""Checks that a CPU does too, on small shapes; the others are tested on CPUs elsewhere (`tests/trainer`)."""
ON_GPU: dict[str, Check] = {"again": again, "compiled": compiled, "portable": portable}
