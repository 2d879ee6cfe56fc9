"""The same bytes again, and again after kills, in a second folder with other numbers of workers and processes.

`built_project` was built undisturbed by one worker and one process.
"""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.imports import ROOT
from tests.project import built, killed_repro, make_project, repro, run

OTHERWISE: dict[str, Any] = {"OMP_NUM_THREADS": "4", "MKL_CBWR": "AVX512"}
"""What a caller may set that would change bits, if the stages did not set it themselves."""


def test_two_workers_and_processes_in_another_folder_build_the_same_bytes_though_killed(
    tmp_path: Path, corpora: Path, built_project: Path
) -> None:
    other = make_project(tmp_path / "elsewhere", corpora)
    two: dict[str, Any] = {"EVERYSTEP_WORKERS": "2", "EVERYSTEP_PROCESSES": "2"} | OTHERWISE
    draw = random.Random(5)
    assert all(killed_repro(other, draw.uniform(1, 12), **two) for _ in range(2))
    repro(other, **two)
    assert built(other) == built(built_project)


@pytest.mark.long
def test_three_workers_and_four_processes_build_the_same_bytes(
    tmp_path: Path, corpora: Path, built_project: Path
) -> None:
    other = make_project(tmp_path / "elsewhere", corpora)
    repro(other, EVERYSTEP_WORKERS="3", EVERYSTEP_PROCESSES="4", **OTHERWISE)
    assert built(other) == built(built_project)


@pytest.mark.long
def test_kills_at_random_instants_change_nothing(tmp_path: Path, corpora: Path, built_project: Path) -> None:
    project = make_project(tmp_path / "killed", corpora)
    draw = random.Random(3)
    kills = 0
    while kills < 8 and killed_repro(project, draw.uniform(1, 12)):
        kills += 1
    repro(project)
    assert kills > 2
    assert built(project) == built(built_project)


def test_second_repro_has_nothing_to_do(built_project: Path) -> None:
    assert "Data and pipelines are up to date" in repro(built_project).stdout


def test_bare_clone_agrees_with_its_lock_without_any_data(tmp_path: Path, built_project: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(built_project), "clone")
    done = repro(tmp_path / "clone", "--allow-missing", "--dry")
    assert "Running stage" not in done.stdout
    assert not (tmp_path / "clone" / "data").exists()


@pytest.mark.parametrize(
    ("file", "stage"), [("trainer/optimizer.py", "train@mobilellm"), ("constraints.txt", "fetch@letters")]
)
def test_changed_code_or_library_runs_what_depends_on_it(
    tmp_path: Path, built_project: Path, file: str, stage: str
) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(built_project), "clone")
    with (tmp_path / "clone" / file).open("a") as changed:
        changed.write("# changed\n")
    done = repro(tmp_path / "clone", "--allow-missing", "--dry", check=False)
    # A dry run without data prints the first stage that it would run, or that it lacks the data to run it.
    said = done.stdout + done.stderr
    assert f"Running stage '{stage}'" in said or f"failed to reproduce '{stage}'" in said


def test_a_clone_has_the_committed_bytes_whatever_git_does_to_ends_of_lines(tmp_path: Path) -> None:
    """Code and pins are dependencies of the stages: other line ends would be another release."""
    setting = ("-c", "core.autocrlf=true", "-c", "core.eol=crlf")
    run(tmp_path, "git", *setting, "clone", "--quiet", "--config", "core.autocrlf=true", str(ROOT), "clone")
    listed = run(tmp_path / "clone", "git", "ls-files", "-z", "--stage").stdout.rstrip("\0").split("\0")
    blobs = {path: entry.split()[1] for entry, _, path in (line.partition("\t") for line in listed)}
    found = run(tmp_path / "clone", "git", "hash-object", "--no-filters", "--", *blobs).stdout.split()
    assert dict(zip(blobs, found, strict=True)) == blobs
    run(tmp_path / "clone", "git", "diff", "--exit-code")
