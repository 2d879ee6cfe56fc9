"""The training that others are compared with: one process, never interrupted."""

from pathlib import Path

import pytest

from tests.conftest import Once
from tests.trainer.runs import make_run, train


@pytest.fixture(scope="session")
def reference(once: Once) -> Path:
    """A folder after the stage `train` in one process."""
    return once("run", lambda folder: train(make_run(folder)))
