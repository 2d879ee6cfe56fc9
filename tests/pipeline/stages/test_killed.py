"""A stage that is killed at any instant, and run again at once, writes the bytes of an undisturbed one.

`tests/pipeline/build/test_reproduce.py` kills whole builds with all their processes. Here only the stage dies, as when
memory runs out: its workers are left to end by themselves.
"""

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.files import list_files, sha256_file
from tests.project import ROOT, environment, run

STAGES = {
    ("fetch", "tales"): "raw/tales",
    ("extract", "tales"): "documents/tales",
    ("filter", "tales"): "filtered/tales",
    ("dedup",): "deduplicated",
    ("tokenizer",): "tokenizer",
    ("tokenize",): "tokens",
}


def digests(project: Path) -> dict[str, str]:
    return {
        f"{folder}/{file}": sha256_file(project / folder / file)
        for folder in ("data", "manifests")
        for file in list_files(project / folder)
    }


@pytest.mark.parametrize("wanted", [pytest.param(1, id="once"), pytest.param(6, id="often", marks=pytest.mark.long)])
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[0])
def test_a_killed_stage_writes_the_same_bytes_when_it_runs_again(
    tmp_path: Path, built_project: Path, stage: tuple[str, ...], wanted: int
) -> None:
    project = tmp_path / "project"
    for folder in ("data", "manifests"):
        shutil.copytree(built_project / folder, project / folder)
    shutil.copy(built_project / "params.yaml", project)
    command = [sys.executable, "-m", "pipeline.stages", *stage]
    two: dict[str, Any] = {"PYTHONPATH": str(ROOT), "EVERYSTEP_WORKERS": "2"}
    began = time.monotonic()
    run(project, *command, **two)
    takes = time.monotonic() - began
    draw = random.Random(stage[0])
    kills = 0
    for _ in range(4 * wanted):
        shutil.rmtree(project / "data" / STAGES[stage])
        running = subprocess.Popen(command, cwd=project, env=environment(**two), stderr=subprocess.PIPE)
        time.sleep(draw.uniform(0.2, 0.9) * takes)
        running.send_signal(signal.SIGKILL)
        if running.wait() == -signal.SIGKILL:
            kills += 1
        else:  # it was faster this time
            takes /= 2
        run(project, *command, **two)
        assert digests(project) == digests(built_project)
        if kills == wanted:
            break
    assert kills
