"""A process that is stopped, or cut off by the network, ends the others: they name it, and the next start goes on."""

import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pipeline.base.errors import Differs, EverystepError
from tests.trainer.runs import MODEL, are_gone, children, end, make_run, num_logged, reaches, result, start, train
from tests.trainer.test_processes import free_port, torchrun
from trainer.launch import SHARDS
from trainer.parallel import open_store
from trainer.watch import PATIENCE, Watch, patience

HOST = platform.node()
SHORT = {PATIENCE: "4"}
DOING = r"at (?:work|step \d+)"
"""What a process did when it was last heard: steps here are so short that it may not have told of its first one."""
WITHIN = 60
"""Seconds in which all must have ended, on a busy machine."""


def watch(rank: int, size: int, store: TCPStore, said: list[str]) -> Watch:
    return Watch(rank, size, store.clone(), lambda told, code: said.append(told))  # type: ignore[attr-defined]


@contextmanager
def silenced(other: Watch) -> Iterator[None]:
    """A watch that says nothing any more afterwards, as that of a process that was stopped or killed."""
    other.__enter__()
    yield
    other._over.set()


def soon(said: list[str]) -> list[str]:
    until = time.monotonic() + WITHIN
    while not said and time.monotonic() < until:
        time.sleep(0.05)
    return said


def test_one_that_falls_silent_is_named_by_all_others_with_what_it_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "3")
    store = open_store()
    said: list[list[str]] = [[], [], []]
    with watch(0, 3, store, said[0]) as first, watch(1, 3, store, said[1]):
        third = watch(2, 3, store, said[2])
        third.doing = "step 7"
        with silenced(third):
            first.doing = "step 8"
            time.sleep(5)  # longer than the patience: nobody is given up
            assert said == [[], [], []]
        for named in said[:2]:
            expected = (
                f"process 2 of 3 on {HOST}, at step 7, has not answered for 3 seconds; run the same command again"
            )
            assert soon(named)[0].startswith(expected)


def test_one_that_never_came_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "1")
    monkeypatch.setattr("trainer.watch.START", 1.0)
    said: list[str] = []
    with watch(0, 2, open_store(), said):
        assert soon(said)[0].startswith("process 1 of 2, from which nothing was heard, has not answered")


def test_what_failed_in_one_process_is_told_to_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "1")
    store = open_store()
    said: list[list[str]] = [[], []]
    with watch(0, 2, store, said[0]):
        with pytest.raises(MemoryError), watch(1, 2, store, said[1]) as failing:
            failing.doing = "step 3"
            raise MemoryError("out of memory")
        assert soon(said[0]) == [f"process 1 of 2 on {HOST} failed at step 3: MemoryError: out of memory"]


def test_bytes_that_differ_in_one_process_end_the_others_with_that_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "4")
    store = open_store()
    ended: list[int] = []
    first = Watch(0, 2, store.clone(), lambda told, code: ended.append(code))  # type: ignore[attr-defined]
    with pytest.raises(Differs), first:
        with pytest.raises(Differs), watch(1, 2, store, []):
            raise Differs("a.safetensors: other bytes")
        until = time.monotonic() + WITHIN
        while not ended and time.monotonic() < until:
            time.sleep(0.05)
        raise RuntimeError("Connection closed by peer")
    assert ended == [Differs.exit_code]


def test_one_that_is_done_may_be_silent_for_as_long_as_the_others_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process writes the last checkpoint when the others have ended."""
    monkeypatch.setenv(PATIENCE, "2")
    store = open_store()
    said: list[list[str]] = [[], []]
    with watch(0, 2, store, said[0]):
        with watch(1, 2, store, said[1]):
            time.sleep(0.5)
        time.sleep(4)
    assert said == [[], []]


def test_an_exchange_that_failed_because_another_ended_names_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, "4")
    store = open_store()
    named = pytest.raises(EverystepError, match=f"process 1 of 2 on {HOST}, at work, ended or cannot be reached")
    with named, watch(0, 2, store, []) as first:
        with silenced(watch(1, 2, store, [])):
            while 1 not in first._beats:
                time.sleep(0.05)
        raise RuntimeError("Connection closed by peer")


@pytest.mark.parametrize("asked", ["0", "-3", "soon", "inf", "nan"])
def test_a_patience_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv(PATIENCE, asked)
    with pytest.raises(EverystepError, match=f"{PATIENCE}={asked}: give a number of seconds, at least 1"):
        patience()


def peers_of(process: int) -> list[int]:
    return [child for child in children(process) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.long
@pytest.mark.parametrize("shards", ["1", "2"])
def test_a_stopped_peer_ends_the_training_and_the_next_start_goes_on(
    tmp_path: Path, reference: Path, shards: str
) -> None:
    folder = make_run(tmp_path / "run", numerics="portable" if shards == "1" else "native")
    process = start(folder, 2, **SHORT, **{SHARDS: shards})
    assert reaches(process, lambda: num_logged(folder) >= 3)
    (peer,), family = peers_of(process.pid), children(process.pid)
    os.kill(peer, signal.SIGSTOP)
    assert end(process, within=WITHIN) == 2
    said = (folder / "said").read_text()
    assert re.search(rf"error: process 1 of 2 on {HOST}, {DOING}, has not answered for 4 seconds; run", said), said
    assert "Traceback" not in said
    assert are_gone(family)
    assert "goes on from step" in train(folder, 2, **{SHARDS: shards})
    if shards == "1":
        assert result(folder) == result(reference)


@pytest.mark.long
def test_peers_of_a_stopped_first_process_end_and_say_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, 4, **SHORT)
    assert reaches(process, lambda: num_logged(folder) >= 3)
    peers = peers_of(process.pid)
    os.kill(process.pid, signal.SIGSTOP)
    try:
        assert are_gone(peers, within=WITHIN)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert end(process, within=WITHIN) == 2
    said = (folder / "said").read_text()
    assert len(re.findall(rf"error: process 0 of 4 on {HOST}, {DOING}, has not answered", said)) == 3, said


@pytest.mark.long
def test_peers_of_a_killed_first_process_say_so(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, 2)
    assert reaches(process, lambda: num_logged(folder) >= 3)
    peers = peers_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    end(process)
    assert are_gone(peers, within=WITHIN)
    assert "error: process 0 of 2 was killed; run the same command again" in (folder / "said").read_text()


@pytest.mark.long
def test_a_slow_process_is_named_and_changes_nothing(tmp_path: Path, reference: Path) -> None:
    """It is stopped for less than the patience. One that is stopped with all others is not even late."""
    folder = make_run(tmp_path / "run")
    process = start(folder, 2, **{PATIENCE: "12"})
    assert reaches(process, lambda: num_logged(folder) >= 3)
    os.kill(peers_of(process.pid)[0], signal.SIGSTOP)
    time.sleep(6)
    os.kill(peers_of(process.pid)[0], signal.SIGCONT)
    assert end(process) == 0
    said = (folder / "said").read_text()
    assert re.search(rf"note: the others wait for process 1 of 2 on {HOST}, {DOING}, which still computes", said)
    assert result(folder) == result(reference)


@pytest.mark.long
def test_a_stop_of_all_is_no_silence(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, 2, **SHORT)
    assert reaches(process, lambda: num_logged(folder) >= 3)
    os.killpg(process.pid, signal.SIGSTOP)
    time.sleep(8)
    os.killpg(process.pid, signal.SIGCONT)
    assert end(process) == 0, (folder / "said").read_text()


@pytest.mark.long
@pytest.mark.parametrize("shards", ["1", "2"])
@pytest.mark.parametrize("stopped", [0, 1])
def test_a_stopped_rank_of_two_nodes_ends_the_others(tmp_path: Path, stopped: int, shards: str) -> None:
    folder = make_run(tmp_path / "run", numerics="native")
    port = free_port()
    nodes = [torchrun(folder, node, port, 1, **SHORT, **{SHARDS: shards}) for node in (0, 1)]
    assert reaches(nodes[0], lambda: num_logged(folder) >= 3)
    ranks = [children(node.pid)[0] for node in nodes]
    os.kill(ranks[stopped], signal.SIGSTOP)
    other = 1 - stopped
    assert end(nodes[other], within=WITHIN) == 1  # torchrun's own code
    said = (folder / f"said {other}").read_text()
    assert re.search(rf"error: process {stopped} of 2 on {HOST}, {DOING}, has not answered for 4 seconds", said), said
    os.kill(ranks[stopped], signal.SIGCONT)
    end(nodes[stopped], within=2 * WITHIN)
    assert are_gone(ranks)


@contextmanager
def two_hosts() -> Iterator[list[list[str]]]:
    """Two network namespaces with a cable between them, 10.77.0.1 and 10.77.0.2: what starts a command in each."""
    names = [f"everystep{os.getpid()}{end}" for end in "ab"]
    with ExitStack() as stack:
        for name in names:
            ip("netns", "add", name)
            stack.callback(ip, "netns", "del", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, 1):
            ip("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
        yield [["ip", "netns", "exec", name] for name in names]


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def can_make_networks() -> bool:
    try:
        with two_hosts():
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@pytest.mark.long
def test_a_network_that_stalls_ends_both_hosts_and_the_next_start_goes_on(tmp_path: Path) -> None:
    if not can_make_networks():
        pytest.skip("needs the right to make network namespaces (root, iproute2)")
    folder = make_run(tmp_path / "run", numerics="native")
    place = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    place += ["--master-addr", "10.77.0.1", "--master-port", "29555"]
    job = ["-m", "pipeline.stages", "train", MODEL]
    with two_hosts() as hosts:
        nodes = []
        for number, host in enumerate(hosts):
            command = [*host, sys.executable, *place, "--node-rank", str(number), *job]
            variables = SHORT | {"GLOO_SOCKET_IFNAME": "cable"}
            nodes.append(start(folder, 1, *command, said=f"said {number}", **variables))
        assert reaches(nodes[0], lambda: num_logged(folder) >= 3)
        ip("-n", hosts[0][-1], "link", "set", "cable", "down")
        codes = [end(node, within=120) for node in nodes]
    assert 0 not in codes
    for number in (0, 1):
        said = (folder / f"said {number}").read_text()
        assert re.search(rf"error: process {1 - number} of 2 on \S+, {DOING}, has not answered", said), said
    assert "goes on from step" in train(folder)
