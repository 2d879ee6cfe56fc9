"""A small release, and two people who may sign it."""

from pathlib import Path

import pytest

from pipeline.release.release import Release
from pipeline.signing.keys import PrivateKey
from tests.pipeline.signing.signed import make_key, make_release


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release.open(make_release(tmp_path / "release"))


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    return make_key(tmp_path / "ours")[0]


@pytest.fixture
def other(tmp_path: Path) -> PrivateKey:
    return make_key(tmp_path / "theirs")[0]
