"""Fixtures that several rooms use: the small corpora, and the small project built once for the session."""

from pathlib import Path

import pytest

from tests.project import commit, make_corpora, make_project, repro


@pytest.fixture(scope="session")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpora(tmp_path_factory.mktemp("world") / "corpora")


@pytest.fixture(scope="session")
def built_project(tmp_path_factory: pytest.TempPathFactory, corpora: Path) -> Path:
    """The small project after `dvc repro`, with its lock and manifests committed. Tests do not change it."""
    folder = make_project(tmp_path_factory.mktemp("reference") / "project", corpora)
    repro(folder)
    commit(folder, "built")
    return folder
