"""Parts on a real Ray cluster of several nodes on loopback, and on Slurm: same bytes, kills are retried."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files, sha256_file
from pipeline.base.yaml import load_yaml
from pipeline.executor.calls import TRIES
from pipeline.executor.ordered_map import WORKERS, ordered_map
from pipeline.formats.canonical import pretty
from tests import parts
from tests.imports import ROOT
from tests.project import run
from tests.servers import slurm

STAGES = [("extract", "tales"), ("filter", "tales"), ("dedup",), ("tokenize",)]
OUTPUTS = ("documents/tales", "filtered/tales", "deduplicated", "tokens")


def choose(project: Path, executor: dict[str, Any]) -> None:
    (project / "params.yaml").write_bytes(pretty(load_yaml(project / "params.yaml") | {"executor": executor}))


def digests(project: Path) -> dict[str, str]:
    """What the stages wrote: every file of their outputs, and their manifests."""
    files = [f"data/{output}/{file}" for output in OUTPUTS for file in list_files(project / "data" / output)]
    files += [f"manifests/{file}" for file in list_files(project / "manifests")]
    return {file: sha256_file(project / file) for file in files}


def emptied_copy(built: Path, folder: Path) -> Path:
    """The built project without what the stages under test write."""
    shutil.copytree(built, folder)
    for output in OUTPUTS:
        shutil.rmtree(folder / "data" / output)
    return folder


def build(project: Path, **environment: Any) -> None:
    for stage in STAGES:
        run(project, sys.executable, "-m", "pipeline.stages", *stage, **environment)
        assert not list((project / ".work" / "parts").glob("*/*")), "no scratch stays behind"


# Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of one processor on loopback, each with processes of its own."""
    from ray.cluster_utils import Cluster

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args=node)
    for _ in range(2):
        nodes.add_node(**node)
    yield nodes
    import ray

    ray.shutdown()
    nodes.shutdown()


@pytest.fixture
def on_ray(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in whose parts go to the cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    choose(tmp_path, {"name": "ray", "ray": {"memory_gb": 1}})
    return tmp_path


def test_stages_on_ray_write_the_bytes_of_local_processes(cluster: Any, tmp_path: Path, built_project: Path) -> None:
    project = emptied_copy(built_project, tmp_path / "project")
    choose(project, {"name": "ray", "ray": {"address": cluster.address, "memory_gb": 1}})
    build(project)
    assert digests(project) == digests(built_project)


def test_parts_of_a_killed_worker_and_of_a_killed_node_are_done_again(cluster: Any, on_ray: Path) -> None:
    stage = parts.start_stage(on_ray, num=3, at_once=3)
    [victim] = parts.begun(on_ray)[0]
    os.kill(victim, signal.SIGKILL)
    parts.until(lambda: len(parts.begun(on_ray)[0]) == 2)
    workers = [pids[-1] for pids in parts.begun(on_ray).values()]
    cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
    parts.until(lambda: not all(parts.is_alive(pid) for pid in workers))
    (on_ray / "begun" / "leave").touch()
    said, complained = stage.communicate(timeout=60)
    assert (stage.returncode, complained) == (0, "")
    assert "0 1 4" in said.splitlines()  # Ray tells of the deaths there too
    assert sum(len(pids) for pids in parts.begun(on_ray).values()) == 3 + 2


def test_a_part_that_kills_every_worker_of_ray_is_named(on_ray: Path) -> None:
    with pytest.raises(EverystepError, match=r"part 3 of 4 \(2\): its worker died 3 times.*"):
        list(ordered_map(partial(parts.die_always, folder=on_ray), range(4)))
    assert len((on_ray / "begun").read_text()) == TRIES


def test_an_exception_on_ray_is_that_of_the_part(on_ray: Path) -> None:
    with pytest.raises(ValueError, match="three is refused"):
        list(ordered_map(parts.refuse_three, range(4)))


def test_no_cluster_at_the_address_is_an_error_that_names_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    choose(tmp_path, {"name": "ray", "ray": {"address": "127.0.0.1:1"}})
    (tmp_path / "stage.py").write_text(
        "from tests.parts import square\nfrom pipeline.executor.ordered_map import WORKERS, ordered_map\n"
        "from pipeline.base.console import run_command\nrun_command(lambda: list(ordered_map(square, [1])), '')\n"
    )
    done = run(tmp_path, sys.executable, "stage.py", check=False, PYTHONPATH=str(ROOT))
    assert done.returncode == 2
    assert "error: params.yaml: executor.ray.address: no Ray cluster answers at 127.0.0.1:1" in done.stderr


# Slurm


def on_slurm(project: Path, **more: Any) -> None:
    choose(project, {"name": "slurm", "slurm": {"partition": "all", "time": "0:10:00", "memory_gb": 1} | more})


def test_script_for_slurm_is_written_before_anything_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(WORKERS, "2")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    on_slurm(tmp_path, partition="cpu,long", qos="low", cpus=3, memory_gb=5)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(EverystepError, match=r"params\.yaml: executor: slurm: this machine has no `sbatch`"):
        list(ordered_map(parts.square, range(4)))
    [script] = (tmp_path / ".work" / "parts").glob("*/*/trove/launch_script.slurm")
    subprocess.run(["/bin/bash", "-n", script], check=True)
    lines = script.read_text().splitlines()
    asked = {"array=0-3%2", "partition=cpu,long", "qos=low", "time=0:10:00", "cpus-per-task=3", "mem-per-cpu=5G"}
    assert {f"#SBATCH --{option}" for option in asked} <= set(lines)
    [start] = [line for line in lines if line.startswith("cd ")]
    assert start.startswith(f"cd {tmp_path} && export PYTHONPATH=") and str(ROOT) in start
    assert lines[-1] == f"srun  -l -n 1 launch_pickled_pipeline {script.parent}/executor.pik"


def test_slurm_without_its_settings_or_in_a_path_with_a_blank_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a blank"
    folder.mkdir()
    monkeypatch.chdir(folder)
    shutil.copy(ROOT / "params.yaml", folder)
    choose(folder, {"name": "slurm"})
    with pytest.raises(EverystepError, match=r"params\.yaml: executor\.slurm: missing; add at least"):
        list(ordered_map(parts.square, [1]))
    on_slurm(folder)
    with pytest.raises(EverystepError, match=r"a blank: a job script cannot hold this path"):
        list(ordered_map(parts.square, [1]))


@pytest.fixture(scope="module")
def slurm_environment() -> Iterator[dict[str, str]]:
    if not slurm.is_installed():
        pytest.skip("needs slurmctld, slurmd, the clients of Slurm, and munge")
    with TemporaryDirectory(prefix="slurm") as folder, slurm.slurm(Path(folder)) as environment:
        yield environment


@pytest.mark.long
def test_stages_on_slurm_write_the_bytes_of_local_processes(
    slurm_environment: dict[str, str], tmp_path: Path, built_project: Path
) -> None:
    project = emptied_copy(built_project, tmp_path / "project")
    on_slurm(project)
    build(project, **slurm_environment)
    assert digests(project) == digests(built_project)


@pytest.fixture
def slurm_project(slurm_environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in whose parts go to Slurm."""
    monkeypatch.chdir(tmp_path)
    for name, value in slurm_environment.items():
        monkeypatch.setenv(name, value)
    shutil.copy(ROOT / "params.yaml", tmp_path)
    on_slurm(tmp_path)
    return tmp_path


@pytest.mark.long
def test_a_part_that_is_killed_on_slurm_is_done_again(slurm_project: Path) -> None:
    stage = parts.start_stage(slurm_project, num=3, at_once=2)
    os.kill(parts.begun(slurm_project)[0][0], signal.SIGKILL)
    (slurm_project / "begun" / "leave").touch()
    said, complained = stage.communicate(timeout=120)
    assert (stage.returncode, said, complained) == (0, "0 1 4\n", "")
    assert len(parts.begun(slurm_project)[0]) == 2


@pytest.mark.long
def test_a_part_that_kills_every_job_is_named_with_its_log(slurm_project: Path) -> None:
    with pytest.raises(EverystepError, match=r"part 3 of 4 \(2\): its worker died 3 times.*slurm_logs") as caught:
        list(ordered_map(partial(parts.die_always, folder=slurm_project), range(4)))
    logs = Path(str(caught.value).split()[-1])
    assert any("Killed" in path.read_text() for path in logs.iterdir())


@pytest.mark.long
def test_jobs_of_a_killed_stage_end_before_it_runs_again(slurm_project: Path) -> None:
    stage = parts.start_stage(slurm_project, num=4, at_once=2)
    workers = [pids[-1] for pids in parts.begun(slurm_project).values()]
    stage.kill()
    stage.communicate()
    assert all(parts.is_alive(pid) for pid in workers)
    (slurm_project / "begun").rename(slurm_project / "before")
    again = parts.start_stage(slurm_project, num=4, at_once=2)
    assert not any(parts.is_alive(pid) for pid in workers)
    (slurm_project / "begun" / "leave").touch()
    assert again.communicate(timeout=60)[0] == "0 1 4 9\n"
