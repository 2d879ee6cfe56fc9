"""Other minor versions of Python write the same data: the small project, as far as it needs no torch.

Most indexes serve the CPU build of torch for some versions of Python only, so the models are left out here.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.project import make_project, run

OTHERS = ("3.12", "3.13")


def starts(version: str) -> bool:
    """Whether `python3.12` is on PATH and runs: a shim may stand for a version that is not chosen."""
    program = shutil.which(f"python{version}")
    return program is not None and subprocess.run([program, "-c", ""], capture_output=True).returncode == 0


VERSIONS = [
    pytest.param(version, marks=pytest.mark.skipif(not starts(version), reason=f"no python{version} on PATH"))
    for version in OTHERS
]


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("version", VERSIONS)
def test_another_python_writes_the_same_data_manifests(
    version: str, built_project: Path, corpora: Path, tmp_path: Path
) -> None:
    project = make_project(tmp_path / "project", corpora)
    run(tmp_path, f"python{version}", "-m", "venv", "venv")
    programs = tmp_path / "venv" / "bin"
    run(project, str(programs / "pip"), "install", "--quiet", "--constraint", "constraints.txt", ".[build]")
    run(project, str(programs / "dvc"), "repro", "tokenize", PATH=f"{programs}{os.pathsep}{os.environ['PATH']}")
    found = {path.relative_to(project): path.read_bytes() for path in (project / "manifests").rglob("*.json")}
    assert len(found) > 10
    assert found == {path: (built_project / path).read_bytes() for path in found}
