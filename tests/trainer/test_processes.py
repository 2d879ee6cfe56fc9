"""How many processes compute changes nothing, on one machine or under torchrun; torch's own DDP would."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import ROOT, environment
from tests.trainer.runs import (
    LIMIT,
    MODEL,
    are_gone,
    children,
    end,
    make_run,
    num_logged,
    reaches,
    result,
    start,
    train,
)

COMPARE = """
import json
from tests.trainer.job import compare_with_ddp
from trainer.launch import launch
if __name__ == "__main__":
    print(json.dumps(launch(compare_with_ddp, 4, "portable")))
"""


def test_four_processes_write_what_one_writes_with_an_odd_number_of_micro_batches_in_a_leaf(
    tmp_path: Path, reference: Path
) -> None:
    folder = make_run(tmp_path / "run")
    train(folder, processes=4)
    assert result(folder) == result(reference)


@pytest.mark.long
@pytest.mark.parametrize("micro_batches", [4, 8, 20], ids=lambda number: f"{number} micro-batches")
def test_one_two_and_four_processes_write_the_same(tmp_path: Path, micro_batches: int) -> None:
    results = []
    for processes in (1, 2, 4):
        folder = make_run(tmp_path / str(processes), micro_batches=micro_batches)
        train(folder, processes)
        results.append(result(folder))
    assert results[0] == results[1] == results[2]


@pytest.mark.long
def test_four_ranks_of_ddp_give_other_bits_than_one_process_and_four_of_ours_do_not(tmp_path: Path) -> None:
    """The same model and micro-batches; torch divides by a power of two, so only the order of additions differs."""
    script = tmp_path / "job.py"
    script.write_text(COMPARE)
    env = environment(PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=LIMIT)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["ours of four"] == found["ours of one"]
    assert found["ddp of four"] != found["ddp of one"]
    assert 0 < found["largest difference of ddp"] < 1e-6  # rounding, nothing else


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def torchrun(folder: Path, node: int, port: int, each: int, **more: str) -> subprocess.Popen[str]:
    """The command of docs/reproduce.md, for one of two nodes that are this machine."""
    place = ["--master-addr", "127.0.0.1", "--master-port", str(port)]
    nodes = ["--nnodes", "2", "--node-rank", str(node), "--nproc-per-node", str(each)]
    return start(
        folder, 1, "torchrun", *nodes, *place, "-m", "pipeline.stages", "train", MODEL, said=f"said {node}", **more
    )


@pytest.mark.parametrize("each", [1, pytest.param(2, marks=pytest.mark.long)])
def test_two_nodes_under_torchrun_write_what_one_process_writes_and_go_on_after_a_rank_was_killed(
    tmp_path: Path, reference: Path, each: int
) -> None:
    folder = make_run(tmp_path / "run")
    port = free_port()
    nodes = [torchrun(folder, node, port, each) for node in (0, 1)]
    assert reaches(nodes[0], lambda: num_logged(folder) >= 3)
    ranks = [rank for node in nodes for rank in children(node.pid)]
    assert len(ranks) == 2 * each
    os.kill(ranks[-1], signal.SIGKILL)  # the last rank of the other node
    assert [end(node, within=60) for node in nodes] == [1, 1]
    assert are_gone(ranks)
    assert not (folder / "runs").exists()
    port = free_port()
    nodes = [torchrun(folder, node, port, each) for node in (0, 1)]
    assert [end(node) for node in nodes] == [0, 0], (folder / "said 0").read_text()[-6000:]
    assert "goes on from step" in (folder / "said 0").read_text()
    assert result(folder) == result(reference)
