"""The static web server of the tests: ranges, counts and faults."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.project import run
from tests.servers.faults import ALWAYS
from tests.servers.web import Web, serve_folder

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served/below").mkdir(parents=True)
    (tmp_path / "served/below/a file").write_bytes(CONTENT)
    (tmp_path / "served/small").write_bytes(b"small")
    return tmp_path / "served"


@pytest.fixture
def web(folder: Path) -> Iterator[Web]:
    with serve_folder(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_files_are_served_whole_and_by_ranges(web: Web) -> None:
    address = f"{web.url}/below/a%20file"
    assert httpx2.get(address).content == CONTENT
    web.counted.clear()
    answer = httpx2.get(address, headers={"Range": "bytes=1000-1009"})
    assert (answer.status_code, answer.content) == (206, CONTENT[1000:1010])
    assert answer.headers["Content-Range"] == f"bytes 1000-1009/{len(CONTENT)}"
    assert (web.counted.by_kind(), web.counted.sent("file")) == ({"file": 1}, 10)
    assert httpx2.head(address).headers["Content-Length"] == str(len(CONTENT))
    assert web.counted.sent("file") == 10


def test_a_plain_server_answers_a_range_with_everything(folder: Path) -> None:
    with serve_folder(folder, plain=True) as web:
        answer = httpx2.get(f"{web.url}/small", headers={"Range": "bytes=1-2"})
    assert (answer.status_code, answer.content) == (200, b"small")


@pytest.mark.parametrize("path", ["absent", "%2e%2e/secret", "below/..%2f..%2fsecret"])
def test_nothing_but_the_folder_is_served(web: Web, folder: Path, path: str) -> None:
    (folder.parent / "secret").write_text("secret")
    assert httpx2.get(f"{web.url}/{path}").status_code == 404


@pytest.mark.skipif(not shutil.which("wget"), reason="wget is not installed")
def test_wget_follows_the_links_of_folders(web: Web, tmp_path: Path) -> None:
    run(tmp_path, "wget", "--quiet", "--recursive", "--no-host-directories", f"{web.url}/", NO_PROXY="127.0.0.1")
    assert (tmp_path / "below/a file").read_bytes() == CONTENT


def test_faults_of_a_server(web: Web) -> None:
    web.faults.busy = {"GET /small": [429, 503]}
    web.faults.lost = {"GET /small": 1}
    assert [httpx2.get(f"{web.url}/small").status_code for _ in range(3)] == [429, 503, 200]
    web.faults.cut = {"/below": [500000]}
    with pytest.raises(httpx2.RemoteProtocolError):
        httpx2.get(f"{web.url}/below/a%20file")
    assert httpx2.get(f"{web.url}/below/a%20file").content == CONTENT
    web.faults.wrong = {"/small": ALWAYS}
    assert [httpx2.get(f"{web.url}/small").content for _ in range(2)] == [b"rmall"] * 2
    web.faults.moved = {"/small": "http://elsewhere.invalid"}
    assert httpx2.get(f"{web.url}/small").headers["Location"] == "http://elsewhere.invalid/small"
