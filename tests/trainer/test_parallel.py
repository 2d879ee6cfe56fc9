"""Sums in a fixed tree: the same bits for any number of processes. Real processes, real gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.parallel import TreeSum, tree_sum

JOB = """
import json, sys
from tests.trainer import job
from trainer.launch import launch
if __name__ == "__main__":
    print(json.dumps(launch(getattr(job, sys.argv[1]), int(sys.argv[2]), "portable")))
"""


def parts(count: int) -> list[torch.Tensor]:
    return [torch.randn(1000, generator=torch.Generator().manual_seed(i)) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_sum_of_tensors_that_come_one_by_one_is_the_tree_sum(count: int) -> None:
    root = torch.zeros(1000)
    tree = TreeSum(root)
    for _ in range(2):  # the second time in the buffers of the first
        for part in parts(count):
            tree.add(tree.buffer().add_(part))
        assert torch.equal(tree.total(), tree_sum(parts(count)))


def test_subtrees_combine_to_the_whole_tree() -> None:
    halves = [tree_sum(parts(8)[:4]), tree_sum(parts(8)[4:])]
    assert torch.equal(tree_sum(halves), tree_sum(parts(8)))


def run_job(folder: Path, name: str, processes: int) -> Any:
    script = folder / "job.py"
    script.write_text(JOB)
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), name, str(processes)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def test_one_and_four_processes_sum_to_the_same_bits(tmp_path: Path) -> None:
    alone = run_job(tmp_path, "exchange", 1)
    assert alone == run_job(tmp_path, "exchange", 4)
    assert alone == run_job(tmp_path, "staged_exchange", 4)


def test_processes_of_one_host_have_their_weights_in_one_memory_that_no_kill_leaves_behind(tmp_path: Path) -> None:
    found = run_job(tmp_path, "common_memory", 4)
    assert found["weights"] == [1, 2, 3, 4]
    assert found["mapped"] == ["/memfd:everystep (deleted)"]
