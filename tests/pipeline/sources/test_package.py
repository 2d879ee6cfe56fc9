import hashlib
from pathlib import Path

import pytest

from pipeline.base.errors import EverystepError
from pipeline.sources.fetch import fetch
from tests.pipeline.sources.declared import declared
from tests.servers.index import serve_index, wheel

WHEEL = wheel("demo", "1.0", {"demo/texts/a.txt": b"A text.\n", "demo/__init__.py": b"raise SystemExit('executed')\n"})
NAME = "demo-1.0-py3-none-any.whl"
SHA256 = hashlib.sha256(WHEEL).hexdigest()


def steer_pip(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)


def test_wheel_comes_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[int, int | None]] = []
    with serve_index({NAME: WHEEL}) as index:
        steer_pip(monkeypatch, index)
        monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "missing.txt"))  # must not steer us
        files = fetch(
            "demo",
            declared("package", sha256=SHA256),
            tmp_path / "raw",
            tmp_path / "partial",
            lambda done, total: reported.append((done, total)),
        )
    assert files == [{"path": NAME, "bytes": len(WHEEL), "sha256": SHA256}]
    assert (tmp_path / "raw" / NAME).read_bytes() == WHEEL
    assert reported[-1] == (len(WHEEL), len(WHEEL))
    assert list((tmp_path / "partial").iterdir()) == []


@pytest.mark.parametrize("honest", [True, False])
def test_other_bytes_than_declared_are_refused_and_nothing_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, honest: bool
) -> None:
    with serve_index({NAME: WHEEL}, honest=honest) as index:
        steer_pip(monkeypatch, index)
        with pytest.raises(EverystepError) as caught:
            fetch("demo", declared("package"), tmp_path / "raw", tmp_path / "partial", lambda done, total: None)
    assert str(caught.value).startswith("source demo: demo==1.0: pip could not download")
    assert SHA256 in str(caught.value) or honest
    assert list((tmp_path / "raw").iterdir()) == []


def test_version_that_the_index_lacks_is_an_error_with_what_pip_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve_index({NAME: WHEEL}) as index:
        steer_pip(monkeypatch, index)
        with pytest.raises(EverystepError, match=r"(?s)demo==2\.0: pip could not.*No matching distribution"):
            fetch(
                "demo",
                declared("package", version="2.0"),
                tmp_path / "raw",
                tmp_path / "partial",
                lambda done, total: None,
            )


def test_folder_that_holds_something_is_not_fetched_into(tmp_path: Path) -> None:
    (tmp_path / "left.txt").write_text("from before")
    with pytest.raises(EverystepError, match="must be empty"):
        fetch("demo", declared("package"), tmp_path, tmp_path / "partial", lambda done, total: None)
