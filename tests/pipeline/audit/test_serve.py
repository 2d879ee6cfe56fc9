"""A release is served to this machine alone: its files and no others, each as the root manifest promises it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest

from pipeline.audit.serve import PAGE, Served, running
from pipeline.release.release import Release
from pipeline.release.report.explorer import script
from pipeline.release.stretches import plan_audit
from tests.pipeline.audit.test_receipts import BEACON, left, told
from tests.pipeline.signing.signed import make_key, make_release, sealed_again, write_states
from tests.project import ROOT, environment
from tests.releases import everystep, flip
from tests.servers.web import serve_folder

HTML = f"<!DOCTYPE html><title>Page</title><script>\n{script()}</script>"
LONG = bytes(range(256)) * 40


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small release with a page, and with a file whose bytes say where they are."""
    folder = make_release(tmp_path / "release")
    write_states(folder, (0, 1, 2, 4), "tiny")
    (folder / "report" / "data").mkdir(parents=True)
    (folder / PAGE).write_text(HTML)
    (folder / "report" / "data" / "long.places").write_bytes(LONG)
    return sealed_again(folder)


@contextmanager
def served(address: str | Path) -> Iterator[int]:
    """The port of a server for a release."""
    with running(Served(Release.open(address), str(address)), 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def ask(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer. The path goes out as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), body


def test_listed_files_come_with_their_types_and_headers_that_protect_them(folder: Path) -> None:
    with served(folder) as port:
        status, headers, body = ask(port, f"/{PAGE}")
        assert (status, body, headers["Content-Type"]) == (200, HTML.encode(), "text/html; charset=utf-8")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'sha256-")
        assert "Access-Control-Allow-Origin" not in headers
        assert ask(port, "/params.yaml")[1]["Content-Type"] == "text/plain; charset=utf-8"
        assert ask(port, "/manifests/tokens.json?cached=no")[1]["Content-Type"] == "application/json"
        assert ask(port, "/report/data/long.places")[1]["Content-Type"] == "application/octet-stream"
        status, headers, body = ask(port, f"/{PAGE}", method="HEAD")
        assert (status, headers["Content-Length"], body) == (200, str(len(HTML.encode())), b"")
        assert ask(port, "/")[1]["Location"] == f"/{PAGE}"


@pytest.mark.parametrize(
    ("asked", "status", "found"),
    [
        ("bytes=0-0", 206, LONG[:1]),
        ("bytes=100-611", 206, LONG[100:612]),
        ("bytes=10000-", 206, LONG[10000:]),
        ("bytes=10000-99999", 206, LONG[10000:]),
        ("bytes=-16", 206, LONG[-16:]),
        ("bytes=-99999", 206, LONG),
        ("bytes=99999-", 416, b""),
        ("bytes=-0", 416, b""),
        ("bytes=5-4", 200, LONG),
        ("bytes=0-1,4-5", 200, LONG),
        ("bytes=-", 200, LONG),
        ("lines=0-1", 200, LONG),
        ("bytes=٣-٤".encode().decode("latin-1"), 200, LONG),
    ],
)
def test_one_range_is_answered(folder: Path, asked: str, status: int, found: bytes) -> None:
    with served(folder) as port:
        got, headers, body = ask(port, "/report/data/long.places", Range=asked)
        assert (got, body) == (status, found)
        if status == 206:
            first = len(LONG) - len(found) if "=-" in asked else int(asked[6:].split("-")[0])
            assert headers["Content-Range"] == f"bytes {first}-{first + len(found) - 1}/{len(LONG)}"
        head = ask(port, "/report/data/long.places", "HEAD", Range=asked)
        assert (head[0], head[1]["Content-Length"], head[2]) == (got, headers["Content-Length"], b"")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret", "/%2e%2e/secret", "/report/../../secret", "/..%2fsecret", "//secret", "/report", "/report/data/",
        "/beside.txt", "/release.json", "/signatures/x", "/report/index.html/", "/%00", "/report%5cindex.html", "/%ff",
    ],
)  # fmt: skip
def test_nothing_is_served_but_what_the_release_lists(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_text("secret")
    (folder / "beside.txt").write_text("secret")
    with served(folder) as port:
        status, _, body = ask(port, path)
        assert status == 404 and b"secret" not in body


def test_a_link_in_the_place_of_a_file_is_not_followed(folder: Path) -> None:
    (folder.parent / "secret").write_bytes(LONG)
    with served(folder) as port:
        (folder / "report/data/long.places").unlink()
        (folder / "report/data/long.places").symlink_to(folder.parent / "secret")
        assert ask(port, "/report/data/long.places")[0] == 500


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_only_reading_is_answered(folder: Path, method: str) -> None:
    with served(folder) as port:
        assert ask(port, f"/{PAGE}", method=method)[0] == 501


def test_a_body_of_a_request_is_never_taken_for_the_next_request(folder: Path) -> None:
    with served(folder) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        inside = f"GET /params.yaml HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode()
        head = f"GET /nothing HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Length: {len(inside)}\r\n\r\n".encode()
        client.sendall(head + inside)
        answers = b"".join(iter(lambda: client.recv(4096), b""))
        assert answers.count(b"HTTP/1.1 ") == 1 and b"404" in answers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:PORT", 200),
        ("localhost:PORT", 200),
        ("[::1]:PORT", 200),
        ("localhost", 421),
        ("localhost:1", 421),
        ("evil.example:PORT", 421),
        ("localhost:PORT.evil.example", 421),
        ("", 421),
    ],
)
def test_a_name_that_somebody_else_points_at_this_machine_is_refused(folder: Path, host: str, status: int) -> None:
    with served(folder) as port:
        assert ask(port, f"/{PAGE}", Host=host.replace("PORT", str(port)))[0] == status


def test_a_file_that_differs_is_not_served(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flip(folder / "report/data/long.places", 0.5)
    with served(folder) as port:
        status, _, body = ask(port, "/report/data/long.places")
        assert (status, body) == (500, b"This file is not what the release promises; it is not served.\n")
    assert "long.places: its content is not what release.json promises" in capsys.readouterr().err


def test_a_file_that_changes_while_it_is_served_is_not_served_again(folder: Path) -> None:
    with served(folder) as port:
        assert ask(port, "/report/data/long.places")[0] == 200
        flip(folder / "report/data/long.places", 0.5)
        assert ask(port, "/report/data/long.places")[0] == 500


def test_a_page_that_differs_ends_the_command(folder: Path) -> None:
    flip(folder / PAGE, 0.9)
    done = everystep("serve", folder, "--port", "0")
    assert done.code == 1 and f"{PAGE}: its content is not what release.json promises" in done.err


def test_a_release_without_a_page_and_a_project_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / PAGE).unlink()
    done = everystep("serve", sealed_again(folder), "--port", "0")
    assert done.code == 2 and "has no page (report/index.html); it was built before there was one" in done.err
    done = everystep("serve", tmp_path, "--port", "0")
    assert done.code == 2 and "neither a release nor a project that has built anything" in done.err


def test_a_page_with_another_script_is_served_and_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / PAGE).write_text("<script>alert(1)</script>")
    with served(sealed_again(folder)) as port:
        assert ask(port, f"/{PAGE}")[2] == b"<script>alert(1)</script>"
    assert "another script than this installation, so no browser will run it" in capsys.readouterr().err


def test_receipts_beside_the_release_are_checked_and_told(folder: Path, tmp_path: Path) -> None:
    key, name = make_key(tmp_path / "ours")
    release = Release.open(folder)
    left(release, key, told(release, sample=1))
    (chosen,) = plan_audit(release, release.models(), BEACON, 1).chosen
    with served(folder) as port:
        stretch = {"model": "tiny", "start": chosen.start, "stop": chosen.stop, "same": [name], "differs": []}
        about = json.loads(ask(port, "/served.json")[2])
        assert about == {"address": str(folder), "receipts": {"stretches": [stretch], "faults": []}}
    (receipt,) = (folder / "receipts").rglob("*.intoto.json")
    flip(receipt, 0.5)
    with served(folder) as port:
        about = json.loads(ask(port, "/served.json")[2])["receipts"]
        assert about["stretches"] == [] and len(about["faults"]) == 1


def test_a_release_elsewhere_is_served_from_its_mirror(folder: Path) -> None:
    with serve_folder(folder) as web, served(web.url) as port:
        assert ask(port, "/report/data/long.places", Range="bytes=3-5")[2] == LONG[3:6]
        assert json.loads(ask(port, "/served.json")[2]) == {"address": web.url, "receipts": None}


def test_the_command_says_where_and_ends_well_with_ctrl_c(folder: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "serve", str(folder), "--port", "0", "--json"]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        page = json.loads(process.stdout.readline())["page"]
        port = int(page.removeprefix("http://127.0.0.1:").removesuffix(f"/{PAGE}"))
        assert ask(port, f"/{PAGE}")[0] == 200
        taken = everystep("serve", folder, "--port", str(port))
        assert taken.code == 2
        assert f"--port {port}: Address already in use; name another port, or 0 for any free one" in taken.err
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0 and said.endswith("only this machine can see it; Ctrl-C stops\nstopped\n")


def test_only_this_machine_reaches_it(folder: Path) -> None:
    with served(folder) as port:
        for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)} - {"127.0.0.1", "::1"}:
            with pytest.raises(OSError):
                socket.create_connection((str(address), port), timeout=2)
        with Path(f"/proc/{os.getpid()}/net/tcp").open() as table:
            listening = [line.split()[1] for line in table if line.split()[3] == "0A"]
        assert [place for place in listening if place.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]
