"""Parts on processes of this machine: their order, their exceptions, their deaths; and the choice of an executor."""

import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.yaml import load_yaml
from pipeline.executor.calls import TRIES, Call, do_part, leftovers
from pipeline.executor.ordered_map import EXECUTOR, WORKERS, chosen_executor, ordered_map
from pipeline.formats.canonical import pretty
from tests import parts
from tests.imports import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `params.yaml` to work in, and two workers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(WORKERS, "2")
    choose(tmp_path)
    return tmp_path


def choose(project: Path, **more: Any) -> None:
    (project / "params.yaml").write_bytes(pretty(load_yaml(ROOT / "params.yaml") | more))


@pytest.mark.parametrize("workers", ["1", "2", "5"])
def test_results_come_in_the_order_of_the_parts(project: Path, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv(WORKERS, workers)
    assert list(ordered_map(parts.square, range(7))) == [n * n for n in range(7)]
    assert list(ordered_map(parts.square, [])) == []


def test_one_worker_is_the_stage_itself(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(ordered_map(parts.pid_of_worker, [1])) == {os.getpid()}
    assert os.getpid() not in set(ordered_map(parts.pid_of_worker, [1, 2]))


def test_an_exception_of_a_part_ends_the_map_after_the_parts_before_it(project: Path) -> None:
    results = ordered_map(parts.refuse_three, range(9))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three is refused") as caught:
        next(results)
    assert "in a worker" in caught.value.__notes__[0] and "refuse_three" in caught.value.__notes__[0]


def test_a_killed_worker_is_replaced_and_its_part_done_again(project: Path) -> None:
    assert list(ordered_map(partial(parts.die_once, folder=project), range(5))) == [n * n for n in range(5)]
    assert (project / "2-begun").exists()


def test_a_part_that_kills_every_worker_is_named_after_so_many_tries(project: Path) -> None:
    with pytest.raises(EverystepError, match=r"part 3 of 5 \(2\): its worker died 3 times"):
        list(ordered_map(partial(parts.die_always, folder=project), range(5)))
    assert len((project / "begun").read_text()) == TRIES


def test_who_stops_early_leaves_no_process(project: Path) -> None:
    results = ordered_map(parts.pid_of_worker, range(50))
    worker = next(results)
    results.close()  # type: ignore[attr-defined]
    assert not parts.is_alive(worker)


def test_workers_of_a_killed_stage_end_with_it(project: Path) -> None:
    stage = parts.start_stage(project, num=8, at_once=2)
    workers = [pids[-1] for pids in parts.begun(project).values()]
    assert all(parts.is_alive(pid) for pid in workers)
    stage.kill()
    stage.communicate()
    parts.until(lambda: not any(parts.is_alive(pid) for pid in workers), seconds=10)


def test_ctrl_c_ends_a_stage_at_once_with_one_line(project: Path) -> None:
    stage = parts.start_stage(project, num=8, at_once=2)
    workers = [pids[-1] for pids in parts.begun(project).values()]
    for pid in [*workers, stage.pid]:  # a terminal sends it to all of them
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)
    said = stage.communicate(timeout=10)[1]
    assert (stage.returncode, said) == (130, "interrupted; run the same command again\n")
    assert not any(parts.is_alive(pid) for pid in workers)


# Who runs the parts


@pytest.mark.parametrize(
    ("section", "name", "workers"),
    [(None, "local", 2), ("ray", "ray", 2), ({"name": "ray", "workers": 3}, "ray", 2), ({"workers": 3}, "local", 2)],
)
def test_executor_is_a_word_or_a_section_or_local(project: Path, section: Any, name: str, workers: int) -> None:
    choose(project, **({} if section is None else {"executor": section}))
    settings = chosen_executor()
    assert (settings.name, settings.workers) == (name, workers)


def test_environment_goes_before_params(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose(project, executor={"name": "slurm", "workers": 3, "slurm": {"partition": "cpu", "time": "1:00:00"}})
    monkeypatch.delenv(WORKERS)
    assert (chosen_executor().name, chosen_executor().workers) == ("slurm", 3)
    monkeypatch.setenv(EXECUTOR, "local")
    monkeypatch.setenv(WORKERS, "4")
    assert (chosen_executor().name, chosen_executor().workers) == ("local", 4)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("dask", "params.yaml: executor.name: input should be 'local', 'ray' or 'slurm', got 'dask'"),
        ({"worker": 2}, "params.yaml: executor.worker: unknown key"),
        ({"workers": 0}, "params.yaml: executor.workers: input should be greater than 0, got 0"),
        ({"slurm": {"time": "1:00:00"}}, "params.yaml: executor.slurm.partition: missing"),
        ({"slurm": {"partition": "a\n#SBATCH --x", "time": "1"}}, "params.yaml: executor.slurm.partition"),
        ({"slurm": {"partition": "a", "time": "1; rm -rf x"}}, "params.yaml: executor.slurm.time"),
    ],
)
def test_a_wrong_executor_is_refused_by_its_key(project: Path, section: Any, message: str) -> None:
    choose(project, executor=section)
    with pytest.raises(EverystepError) as caught:
        list(ordered_map(parts.square, [1]))
    assert message in str(caught.value)


@pytest.mark.parametrize(("variable", "value"), [(EXECUTOR, "dask"), (WORKERS, "0"), (WORKERS, "two")])
def test_a_wrong_variable_is_refused_by_its_name(
    project: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(EverystepError, match=f"{variable}={value}: set"):
        list(ordered_map(parts.square, [1]))


# The files of a call


def test_a_part_is_done_once_and_read_once(project: Path) -> None:
    call = Call(partial(parts.die_once, folder=project), [0, 1])
    assert call.missing() == [0, 1]
    do_part(call.folder, 1)
    assert call.missing() == [0]
    assert call.take(1).result() == 1
    do_part(call.folder, 1)  # a late retry
    assert call.missing() == [0]
    assert [path.read_bytes() for path in (call.folder / "results").iterdir()] == [b""]


def test_calls_of_other_processes_are_swept_away_and_own_ones_are_not(project: Path) -> None:
    call = Call(parts.square, [1])
    other = call.folder.with_name("0123-left-behind")
    other.mkdir()
    assert [path.name for path in leftovers()] == [other.name]
    assert list(ordered_map(parts.square, [1])) == [1]
    assert leftovers() == [] and call.folder.exists() and not other.exists()
