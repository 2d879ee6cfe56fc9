"""Fixtures that several rooms use: the small corpora, and the small project built once for the session."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.base.paths import CACHE
from tests.project import commit, make_corpora, make_project, repro

for variable in ("MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS"):
    os.environ.pop(variable, None)  # a make that a test starts must not think it belongs to `make test`

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what tests rebuild out of the cache of whoever runs them."""
    os.environ[CACHE] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """`once(name, build)`: a folder that `build` filled, one for all workers of the session. Tests do not change it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def filled(name: str, build: Callable[[Path], object]) -> Path:
        folder, done = shared / name, shared / f"{name}.done"
        with (shared / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                build(folder)
                done.touch()
        return folder

    return filled


@pytest.fixture(scope="session")
def corpora(once: Once) -> Path:
    return once("corpora", make_corpora)


@pytest.fixture(scope="session")
def built_project(once: Once, corpora: Path) -> Path:
    """The small project after `dvc repro` with one worker and one process, its lock and manifests committed."""

    def build(folder: Path) -> None:
        make_project(folder, corpora)
        repro(folder, EVERYSTEP_WORKERS="1", EVERYSTEP_PROCESSES="1")
        commit(folder, "built")

    return once("project", build)
