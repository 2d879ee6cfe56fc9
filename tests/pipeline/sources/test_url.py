import contextlib
import gzip
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.sources.fetch import fetch
from pipeline.stores import download, web
from pipeline.stores.retry import ATTEMPTS
from tests.imports import ROOT
from tests.pipeline.sources.declared import declared
from tests.servers.loopback import Handler, serve

CONTENT = os.urandom(3 << 20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def _here_and_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@contextmanager
def serve_content(
    *, cuts: int = 0, ranges: bool = True, redirect: str = "", status: int = 0
) -> Iterator[tuple[str, list[str]]]:
    """Serve CONTENT at /corpus.bin and list the ranges asked for; the first `cuts` answers break in the middle."""
    asked: list[str] = []

    class Site(Handler):
        def do_GET(self) -> None:  # noqa: N802 - the library's name
            asked.append(self.headers.get("Range", ""))
            if not ranges:
                del self.headers["Range"]
            if redirect and self.path == "/corpus.bin":
                self.answer(302, b"", location=redirect)
            elif status:
                self.answer(status, b"<html>an explanation</html>")
            elif len(asked) <= cuts:
                self.send_response(200)
                self.send_header("Content-Length", str(len(CONTENT)))
                self.end_headers()
                self.wfile.write(CONTENT[: len(CONTENT) // 2])
                self.close_connection = True
            else:
                self.answer_file(CONTENT)

    with serve(Site) as address:
        yield f"{address}/corpus.bin", asked


def take(tmp_path: Path, address: str, **changes: Any) -> list[dict[str, Any]]:
    source = declared("url", **({"url": address, "sha256": SHA256} | changes))
    return fetch("demo", source, tmp_path / "raw", tmp_path / "partial", lambda done, total: None)


def assert_nothing_taken(tmp_path: Path) -> None:
    assert list((tmp_path / "raw").iterdir()) == []


def test_file_comes_whole_and_nothing_stays_behind(tmp_path: Path) -> None:
    with serve_content() as (address, _):
        assert take(tmp_path, address) == [{"path": "corpus.bin", "bytes": len(CONTENT), "sha256": SHA256}]
    assert (tmp_path / "raw/corpus.bin").read_bytes() == CONTENT
    assert list((tmp_path / "partial").iterdir()) == []


def test_broken_connection_goes_on_from_the_byte_where_it_broke(tmp_path: Path) -> None:
    with serve_content(cuts=1) as (address, asked):
        take(tmp_path, address)
    assert asked == ["", f"bytes={len(CONTENT) // 2}-"]


def test_killed_download_goes_on_in_the_next_process(tmp_path: Path) -> None:
    partial = tmp_path / "partial" / f"{SHA256}.part"
    partial.parent.mkdir()
    partial.write_bytes(CONTENT[:1000])
    with serve_content() as (address, asked):
        take(tmp_path, address)
    assert asked == ["bytes=1000-"]


def test_download_that_was_whole_when_killed_is_not_asked_for_again(tmp_path: Path) -> None:
    partial = tmp_path / "partial" / f"{SHA256}.part"
    partial.parent.mkdir()
    partial.write_bytes(CONTENT)
    with serve_content() as (address, _):
        take(tmp_path, address)
    assert (tmp_path / "raw/corpus.bin").read_bytes() == CONTENT


def test_server_without_ranges_starts_again(tmp_path: Path) -> None:
    with serve_content(cuts=1, ranges=False) as (address, asked):
        take(tmp_path, address)
    assert len(asked) == 2
    assert (tmp_path / "raw/corpus.bin").read_bytes() == CONTENT


def test_wrong_digest_is_refused_before_a_byte_is_used(tmp_path: Path) -> None:
    with serve_content() as (address, _), pytest.raises(EverystepError) as caught:
        take(tmp_path, address, sha256="0" * 64)
    assert f"{address}: expected sha256 {'0' * 64}, got {SHA256}" in str(caught.value)
    assert_nothing_taken(tmp_path)
    assert list((tmp_path / "partial").iterdir()) == []


@pytest.mark.parametrize("status", [404, 403, 410])
def test_address_that_has_nothing_is_an_error_at_once(tmp_path: Path, status: int) -> None:
    with serve_content(status=status) as (address, asked), pytest.raises(EverystepError, match=f"HTTP {status}"):
        take(tmp_path, address)
    assert len(asked) == 1
    assert_nothing_taken(tmp_path)


def test_server_in_trouble_is_asked_again_and_then_named(tmp_path: Path) -> None:
    with (
        serve_content(status=503) as (address, asked),
        pytest.raises(EverystepError, match=r"broke 5 times \(HTTP 503"),
    ):
        take(tmp_path, address)
    assert len(asked) == ATTEMPTS
    assert_nothing_taken(tmp_path)


def test_nobody_listening_is_an_error_that_names_the_address(tmp_path: Path) -> None:
    with serve_content() as (address, _):
        pass
    with pytest.raises(EverystepError, match=r"127\.0\.0\.1.*the connection broke 5 times"):
        take(tmp_path, address)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/corpus.bin"])
def test_redirect_away_from_the_web_is_refused(tmp_path: Path, target: str) -> None:
    with serve_content(redirect=target) as (address, _), pytest.raises(EverystepError, match="not allowed"):
        take(tmp_path, address)
    assert_nothing_taken(tmp_path)


def test_redirect_on_the_web_is_followed(tmp_path: Path) -> None:
    with serve_content(redirect="/elsewhere.bin") as (address, _):
        assert take(tmp_path, address)[0]["path"] == "corpus.bin"


def test_answer_longer_than_declared_is_cut_short(tmp_path: Path) -> None:
    with serve_content() as (address, _), pytest.raises(EverystepError, match="more than 1000 bytes"):
        take(tmp_path, address, bytes=1000)
    assert_nothing_taken(tmp_path)


def answering(head: str, *pieces: bytes, pause: float = 0.0) -> type[Handler]:
    """A site that sends this head and these pieces as they stand, the last of them again and again."""

    class Site(Handler):
        def do_GET(self) -> None:  # noqa: N802 - the library's name
            self.close_connection = True
            with contextlib.suppress(OSError):
                for piece in (
                    head.encode("latin-1"),
                    *pieces,
                    *(pieces[-1:] * 100_000 if pieces[-1:] != (b"",) else ()),
                ):
                    self.wfile.write(piece)
                    time.sleep(pause)

    return Site


ENDLESS = b"x" * (1 << 20)
OK = "HTTP/1.1 200 OK\r\n"
HOSTILE: dict[str, tuple[type[Handler], str]] = {
    "a body without end": (answering(f"{OK}\r\n", ENDLESS), "sends more than 5000000 bytes"),
    "chunks without end": (
        answering(f"{OK}Transfer-Encoding: chunked\r\n\r\n", b"100000\r\n" + ENDLESS + b"\r\n"),
        "sends more than 5000000 bytes",
    ),
    "a chunk that is no number": (answering(f"{OK}Transfer-Encoding: chunked\r\n\r\n", b"zz\r\n"), "broke 5 times"),
    "a length of 5,000 digits": (answering(f"{OK}Content-Length: {'9' * 5000}\r\n\r\n", ENDLESS), "sends more than"),
    "a length that is no number": (answering(f"{OK}Content-Length: \xb2\r\n\r\n", ENDLESS), "sends more than"),
    "a length that is too short": (answering(f"{OK}Content-Length: 10\r\n\r\n", ENDLESS), "expected sha256"),
    "a negative length": (answering(f"{OK}Content-Length: -1\r\n\r\n", ENDLESS), "sends more than"),
    "headers without end": (answering(OK, b"A: b\r\n"), "broke 5 times"),
    "a header without end": (answering(OK, ENDLESS), "broke 5 times"),
    "no HTTP": (answering("SSH-2.0-OpenSSH_9.6\r\n", b"\0"), "broke 5 times"),
    "a range behind the file": (
        answering("HTTP/1.1 206 OK\r\nContent-Range: bytes 900000000000-900000000009/900000000010\r\n\r\n", ENDLESS),
        "sends another range than the one from byte 0",
    ),
    "packed on the way": (
        answering(f"{OK}Content-Encoding: gzip\r\nContent-Length: 90\r\n\r\n", gzip.compress(bytes(1 << 16))),
        "of 90 bytes",
    ),
    "a redirect to nowhere": (answering("HTTP/1.1 302 F\r\nLocation: http://[::1\r\n\r\n", b""), "is not HTTP"),
    "a redirect to itself": (answering("HTTP/1.1 302 F\r\nLocation: /corpus.bin\r\n\r\n", b""), "HTTP 302"),
    "a redirect with a password": (
        answering("HTTP/1.1 302 F\r\nLocation: http://user:secret@127.0.0.1:1/\r\n\r\n", b""),
        "broke 5 times",
    ),
    "a reason that steers the terminal": (answering("HTTP/1.1 404 \x1b[2J\r\n\r\n", b""), "HTTP 404 '\\x1b[2J'"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_server_is_left_with_an_error(tmp_path: Path, case: str) -> None:
    site, said = HOSTILE[case]
    with serve(site) as address, pytest.raises(EverystepError) as caught:
        take(tmp_path, f"{address}/corpus.bin", bytes=5_000_000)
    assert said in str(caught.value)
    assert_nothing_taken(tmp_path)
    assert sum(path.stat().st_size for path in (tmp_path / "partial").iterdir()) <= 5_000_000


@pytest.mark.parametrize("head", [f"{OK}Content-Length: 1000000\r\n\r\n", OK])
def test_server_that_sends_a_byte_now_and_then_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    """In the body, and in the headers: each byte comes long before any time-out."""
    monkeypatch.setattr(web, "TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(web, "PATIENCE_SECONDS", 0.3)
    began = time.monotonic()
    with (
        serve(answering(head, b"x", pause=0.02)) as address,
        pytest.raises(EverystepError, match="the connection broke 5 times"),
    ):
        take(tmp_path, f"{address}/corpus.bin")
    assert time.monotonic() - began < 10


def test_long_name_in_an_address_becomes_a_name_that_a_folder_takes(tmp_path: Path) -> None:
    with serve_content() as (address, _):
        (taken,) = take(tmp_path, address.replace("corpus.bin", "c" * 3000 + ".jsonl.gz"))
    assert taken["path"].endswith("ccc.jsonl.gz")


def test_file_of_this_machine_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here.bin").write_bytes(CONTENT)
    assert take(tmp_path / "absolute", f"file://{tmp_path}/here.bin")[0]["sha256"] == SHA256
    monkeypatch.chdir(tmp_path)
    assert take(tmp_path / "relative", "file:here.bin")[0]["path"] == "here.bin"
    with pytest.raises(EverystepError, match="no such file"):
        take(tmp_path / "missing", "file:there.bin")


def test_cloud_address_without_its_library_says_what_to_install(tmp_path: Path) -> None:
    """In a process in which it cannot be imported, as where the extra was not installed."""
    code = (
        "import sys; sys.modules['gcsfs'] = None\n"
        "from pathlib import Path; from tests.pipeline.sources import test_url\n"
        f"test_url.take(Path({str(tmp_path)!r}), 'gs://bucket/corpus.bin')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    said = done.stderr.splitlines()[-1]
    assert "gs://bucket/corpus.bin: its scheme needs another library; in a clone of Everystep, run pip install" in said
    assert said.endswith("--editable '.[cloud]'")
