"""Sums in a fixed tree: the same bits for any number of processes. Real processes, real gloo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from trainer.parallel import TreeSum, tree_sum

JOB = """
import hashlib, sys
from tests.trainer.job import exchange
from trainer.launch import launch
if __name__ == "__main__":
    print(launch(exchange, int(sys.argv[1]), "portable"))
"""


def parts(count: int) -> list[torch.Tensor]:
    return [torch.randn(1000, generator=torch.Generator().manual_seed(i)) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_sum_of_tensors_that_come_one_by_one_is_the_tree_sum(count: int) -> None:
    tree = TreeSum(1000)
    for _ in range(2):  # the second time in the buffers of the first
        for part in parts(count):
            tree.add(tree.buffer().add_(part))
        assert torch.equal(tree.total(), tree_sum(parts(count)))


def test_subtrees_combine_to_the_whole_tree() -> None:
    halves = [tree_sum(parts(8)[:4]), tree_sum(parts(8)[4:])]
    assert torch.equal(tree_sum(halves), tree_sum(parts(8)))


def test_one_and_four_processes_sum_to_the_same_bits(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB)
    results = []
    for processes in ("1", "4"):
        command = [sys.executable, str(script), processes]
        env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(json.loads(done.stdout))
    assert results[0] == results[1]
