"""`EVERYSTEP_ARTEFACTS`: a fetch with the network closed, and nothing else than the declared bytes."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import Differs, EverystepError, Linked
from pipeline.sources.artefacts import ARTEFACTS, take
from pipeline.sources.declaration import Source
from pipeline.sources.fetch import fetch
from tests.pipeline.sources.declared import declared
from tests.pipeline.sources.test_package import steer_pip

CONTENT = b'{"text":"one"}\n'
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def artefacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of artefacts; no index, address or hub answers."""
    steer_pip(monkeypatch, f"{CLOSED}/simple")
    monkeypatch.setenv("HF_ENDPOINT", CLOSED)
    folder = tmp_path / "artefacts"
    monkeypatch.setenv(ARTEFACTS, str(folder))
    folder.mkdir()
    return folder


def put(folder: Path, name: str, content: bytes = CONTENT, sha256: str = SHA256) -> Path:
    path = folder / sha256 / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    return path


def fetched(tmp_path: Path, source: Source) -> list[dict[str, Any]]:
    reported: list[tuple[int, int | None]] = []
    partial = tmp_path / "partial"
    files = fetch("demo", source, tmp_path / "raw", partial, lambda done, total: reported.append((done, total)))
    assert reported == [(len(CONTENT), len(CONTENT))] and list(partial.iterdir()) == []
    return files


def url(**more: Any) -> Source:
    return declared("url", **{"url": f"{CLOSED}/corpus.jsonl", "sha256": SHA256} | more)


SOURCES = {
    "demo-1.0-py3-none-any.whl": lambda: declared("package", sha256=SHA256),
    "corpus.jsonl": url,
    "rows.jsonl": lambda: declared("huggingface", sha256=SHA256),
}


@pytest.mark.parametrize("name", SOURCES)
def test_each_kind_of_source_comes_without_a_network(tmp_path: Path, artefacts: Path, name: str) -> None:
    put(artefacts, name)
    assert fetched(tmp_path, SOURCES[name]()) == [{"path": name, "bytes": len(CONTENT), "sha256": SHA256}]
    assert (tmp_path / "raw" / name).read_bytes() == CONTENT
    assert (tmp_path / "raw" / name).stat().st_nlink == 1  # a copy: to change one is not to change the other


def test_other_bytes_under_that_digest_are_refused_and_nothing_stays(tmp_path: Path, artefacts: Path) -> None:
    path = put(artefacts, "corpus.jsonl", b"other")
    with pytest.raises(Differs, match=f"source demo: {path}: expected sha256 {SHA256}"):
        fetched(tmp_path, url())
    assert [*(tmp_path / "raw").iterdir()] == [*(tmp_path / "partial").iterdir()] == []


def test_the_network_is_asked_for_what_the_folder_does_not_hold(
    tmp_path: Path, artefacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tmp_path / "corpus.jsonl"
    original.write_bytes(CONTENT)
    source = url(url=original.as_uri())
    put(artefacts, "corpus.jsonl", sha256="0" * 64)
    assert fetch("demo", source, tmp_path / "raw", tmp_path / "partial", lambda done, total: None)
    monkeypatch.delenv(ARTEFACTS)
    assert fetch("demo", source, tmp_path / "again", tmp_path / "partial", lambda done, total: None)


def test_a_source_without_a_digest_is_never_taken_from_the_folder(tmp_path: Path, artefacts: Path) -> None:
    put(artefacts, "rows.jsonl")
    assert not take(None, tmp_path, tmp_path, lambda done, total: None)


def test_what_is_not_one_plain_file_is_refused(
    tmp_path: Path, artefacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(artefacts, "corpus.jsonl")
    put(artefacts, "another.jsonl")
    with pytest.raises(EverystepError, match="one file is expected"):
        fetched(tmp_path, url())
    (path.parent / "another.jsonl").unlink()
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Linked):
        fetched(tmp_path, url())
    path.unlink()
    path.mkdir()
    (path / "deeper").write_bytes(CONTENT)
    with pytest.raises(EverystepError, match="one file is expected"):
        fetched(tmp_path, url())
    monkeypatch.setenv(ARTEFACTS, str(tmp_path / "nowhere"))
    with pytest.raises(EverystepError, match=r"EVERYSTEP_ARTEFACTS: .*nowhere: no such folder"):
        fetched(tmp_path, url())
