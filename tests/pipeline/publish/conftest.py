"""A release to publish, and a machine on which nobody is known to any store."""

import hashlib
import os
from pathlib import Path

import pytest

from pipeline.base.files import write_bytes
from pipeline.formats.canonical import pretty
from pipeline.formats.release import ROOT, SUMS, ListedFile, Root
from pipeline.publish import hub, upload
from pipeline.stores import download


@pytest.fixture
def released(built_project: Path) -> Path:
    return built_project / "release"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A few files with their root manifest: all that an upload asks of a release."""
    return _sealed(tmp_path / "small", b"a notice\n")


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another release of the same name."""
    return _sealed(tmp_path / "other", b"another notice\n")


def _sealed(folder: Path, notice: bytes) -> Path:
    files = {"NOTICE": notice, "README.md": b"a card\n", "data/a.txt": b"a" * 5000, "data/b/c.txt": b"c" * 70000}
    for path, content in files.items():
        write_bytes(folder / path, content)
    sha256 = {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}
    listed = {path: ListedFile(kind="file", digest=digest) for path, digest in sha256.items()}
    root = pretty(Root(format="everystep/release/3", name="small", version="1", files=listed).to_json())
    write_bytes(folder / ROOT, root)
    sums = sha256 | {ROOT: hashlib.sha256(root).hexdigest()}
    write_bytes(folder / SUMS, "".join(f"{sums[path]}  {path}\n" for path in sorted(sums)).encode())
    return folder


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith(("AWS_", "HF_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for module in (download, hub, upload):
        monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.01)
