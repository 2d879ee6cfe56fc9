"""Every published recipe takes one real step, as far as this machine can hold it; the table is in docs/proofs.md.

`tests/trainer/first_step.py` says what is done, in which process. What neither memory nor disk can hold takes the step
on tensors without values. `FIRST_STEP_GIB` is the most memory to use, where others need the rest.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pipeline.formats.model import num_parameters_if_repeated, unrolled
from tests.project import ROOT
from tests.trainer.first_step import GIB, VECTORS, Work
from tests.trainer.test_recipes import PUBLISHED
from trainer.fits import ROOM
from trainer.recipe import load_recipe

SPARED = 8 * GIB
"""Disk that is left to others."""
LARGEST_DIFFERENCE = 1e-4
"""Of logits, in units of their standard deviation: what other orders of additions may do in float32."""
COMPUTED = 0.05
"""Share by which `trainer.memory` may be off what the tensors of a step are."""


def run(part: str, folder: Path, name: str, *given: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.trainer.first_step", part, str(folder), name, *given]
    env = os.environ | {"PYTHONPATH": str(ROOT), ROOM: "0"}  # the trainer would refuse what is in files, or nowhere
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-6000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def memory_free() -> int:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = 1024 * int(fields["MemAvailable"].split()[0]) - GIB
    return min(free, int(float(os.environ.get("FIRST_STEP_GIB", "1e9")) * GIB))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for _, name in sorted((count, name) for name, count in PUBLISHED.items())])
def test_a_recipe_takes_a_step(name: str, record_property: Callable[[str, object], None]) -> None:
    recipe, spec = load_recipe(name, ROOT)
    with TemporaryDirectory(prefix="everystep-step-") as scratch:
        folder = Path(scratch)
        wanted = Work.of(recipe, spec)
        work = wanted.placed(spec, memory_free(), shutil.disk_usage(folder).free - SPARED)
        row = without_values(folder, name) if work is None else with_values(folder, name, work)
    record_property("row", f"| {name} | {PUBLISHED[name]:,} | {row} |")
    record_property("said", "with values" if work else "on tensors without values: not enough memory and disk")


def with_values(folder: Path, name: str, work: Work) -> str:
    recipe, spec = load_recipe(name, ROOT)
    step = run("step", folder, name, json.dumps(work.__dict__))
    loaded = run("load", folder, name)
    assert step["parameters"] == PUBLISHED[name]
    assert loaded["parameters"] == num_parameters_if_repeated(unrolled(spec)[0])
    assert step["rate"] == step["declared_rate"]
    assert math.isfinite(step["gradient_norm"]) and step["gradient_norm"] > 0
    assert abs(step["before"] - math.log(spec.vocabulary)) < 1, "first weights know nothing"
    assert step["after"] < step["before"]
    close = 1e-5 if work.precision == "float32" else 1e-2
    normalizer = recipe.loss.z_loss * (math.log(spec.vocabulary) + 1) ** 2
    assert step["loss"] == pytest.approx(step["before"], rel=close, abs=normalizer)
    assert loaded["agree"] and loaded["difference"] <= LARGEST_DIFFERENCE * loaded["deviation"]
    memory = max(step["memory"], loaded["memory"])
    files = sum(count for vector, count in VECTORS.items() if vector not in work.in_memory) * 4 * PUBLISHED[name]
    cells = [
        f"{work.rows} x {work.context}",
        work.precision,
        f"{memory / GIB:.1f}" + (f" + {files / GIB:.1f} in files" if files else ""),
        f"{step['first']:.0f} + {step['step']:.0f} + {step['write']:.0f}",
        f"{step['before']:.6f}",
        f"{step['after']:.6f}",
        f"{loaded['class']}: {loaded['difference']:.1e} of {loaded['deviation']:.2f}",
    ]
    return " | ".join(cells)


def without_values(folder: Path, name: str) -> str:
    found = run("shapes", folder, name)
    assert found["parameters"] == PUBLISHED[name]
    vectors = 16 * PUBLISHED[name]
    assert vectors <= found["vectors"] < 1.001 * vectors
    assert found["most"] == pytest.approx(found["computed"], rel=COMPUTED)
    cells = [
        f"{found['rows']} x {found['context']}",
        load_recipe(name, ROOT)[0].precision,
        f"{found['most'] / GIB:.0f} needed",
        f"{found['step']:.0f}",
        "on tensors without values",
        f"checkpoint of {found['checkpoint'] / GIB:.0f} GiB",
        f"{found['class']}: the same names and shapes",
    ]
    return " | ".join(cells)
