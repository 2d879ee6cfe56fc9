"""The suite for a GPU keeps working: its half for CPUs runs here, the same code on small shapes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.gpu.table import table
from tests.project import ROOT, environment


def suite(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "tests.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)


def test_every_check_that_a_cpu_can_do_passes_and_its_figures_make_a_table(tmp_path: Path) -> None:
    done = suite("--device", "cpu", "--out", str(tmp_path / "figures.json"))
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "figures.json").read_text())
    verdicts = {row["check"]: row["verdict"] for row in report["checks"]}
    names = ["trained", "machine", "replayed", "evaluated", "sampled", "exported", "ours"]
    assert verdicts == dict.fromkeys(names, "passed")
    assert len(done.stdout.splitlines()) == len(verdicts) + 1
    assert f"torch {torch.__version__}" in table(report) and "tokens a second" in table(report)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_machine_without_a_gpu_is_told_so() -> None:
    done = suite()
    assert done.returncode == 2
    assert "finds no GPU on this machine" in done.stderr and "--device cpu" in done.stderr
