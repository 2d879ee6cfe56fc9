"""A hub for series of others, and a reader whom nobody knows."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.series import hub as reader
from pipeline.series import links, read, tree
from tests.servers.hub import Hub, Manners, environment, running_hub


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "HF_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for module in (reader, links, read, tree):
        monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def manners() -> Manners:
    return Manners()


@pytest.fixture
def hub(manners: Manners, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, asked without a token."""
    from huggingface_hub import constants, hf_api

    with running_hub(manners) as hub:
        for name, value in environment(hub.url, str(tmp_path / "hub-home")).items():
            monkeypatch.setenv(name, value)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield hub
