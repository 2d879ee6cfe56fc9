"""The training that others are compared with: one process, never interrupted."""

from pathlib import Path

import pytest

from tests.trainer.runs import make_run, train


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after `trainer.train` in one process. Tests do not change it."""
    folder = make_run(tmp_path_factory.mktemp("reference") / "run")
    train(folder)
    return folder
