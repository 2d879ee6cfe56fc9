"""A release on its way to a folder and to an object store: whole or not at all, resumed, never over another."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.audit.verify import verify
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files
from pipeline.formats.release import ROOT, SUMS
from pipeline.publish.upload import publish
from pipeline.release.release import Release
from pipeline.stores.address import open_store
from pipeline.stores.folder import Folder
from pipeline.stores.store import Listed, Taken
from tests.project import ROOT as CHECKOUT
from tests.servers import stores
from tests.servers.cutter import cutting


def is_whole(release: Path, address: str) -> bool:
    """Whether an address holds exactly the files of a release."""
    store = open_store(address)
    there = store.list() or {}

    def content(path: str) -> bytes:
        with store.open(path) as answer:
            return b"".join(answer.chunks)

    return sorted(there) == list_files(release) and all(
        content(path) == (release / path).read_bytes() for path in there
    )


PUBLISH = """
import sys
from pipeline.base.console import exit_codes
from pipeline.publish.upload import publish
from pipeline.release.release import Release
from pipeline.stores.address import open_store
with exit_codes():
    print(publish(Release.open(sys.argv[1]), open_store(sys.argv[2])).uploaded)
"""


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address in a store that this machine may write to."""
    with stores.s3() as store:
        monkeypatch.setenv("AWS_ENDPOINT_URL", store.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", stores.KEY["aws_access_key_id"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stores.KEY["aws_secret_access_key"])
        yield f"s3://{stores.BUCKET}/demo/0.1.0"


@pytest.fixture(params=["folder", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        there: str = request.getfixturevalue("s3")
        return there
    return str(tmp_path / "published")


def test_a_whole_release_arrives(released: Path, s3: str) -> None:
    done = publish(Release.open(released), open_store(s3))
    assert done.uploaded == done.files == len(list_files(released))
    report = verify(s3)
    assert (report.exit_code, report.faults, report.others) == (0, [], [])


def test_what_is_published_is_the_release(small: Path, address: str) -> None:
    done = publish(Release.open(small), open_store(address))
    files = list_files(small)
    assert (done.files, done.uploaded) == (len(files), len(files))
    assert (done.told, done.read_back) == (0, len(files))
    assert is_whole(small, address)


def test_a_second_publication_uploads_nothing(small: Path, address: str) -> None:
    publish(Release.open(small), open_store(address))
    assert publish(Release.open(small), open_store(address)).uploaded == 0


def test_another_release_is_never_written_over(small: Path, other: Path, address: str) -> None:
    publish(Release.open(small), open_store(address))
    with pytest.raises(EverystepError, match="holds the file of another release"):
        publish(Release.open(other), open_store(address))
    assert is_whole(small, address)


def test_a_half_publication_of_another_release_is_refused_at_its_claim(small: Path, other: Path, address: str) -> None:
    store = open_store(address)
    store.put(SUMS, other / SUMS)
    with pytest.raises(EverystepError, match=f"{SUMS}: .*has other bytes|{SUMS}: holds the file of another"):
        publish(Release.open(small), open_store(address))
    assert set(open_store(address).list() or {}) <= {SUMS, *list_files(small)}
    assert ROOT not in (open_store(address).list() or {})


def test_a_store_takes_a_file_only_if_there_is_none(small: Path, address: str) -> None:
    store = open_store(address)
    store.put("a/b", small / "NOTICE")
    with pytest.raises(Taken):
        store.put("a/b", small / "README.md")
    with store.open("a/b") as answer:
        assert b"".join(answer.chunks) == (small / "NOTICE").read_bytes()
    assert store.size("a/b") == (small / "NOTICE").stat().st_size
    with store.open("a/b", 3, 7) as answer:
        assert b"".join(answer.chunks) == (small / "NOTICE").read_bytes()[3:7]


@pytest.mark.parametrize("seconds", [0.6, 0.9, 1.2])
def test_a_killed_publication_is_no_release_and_is_gone_on_with(released: Path, tmp_path: Path, seconds: float) -> None:
    address = str(tmp_path / "published")
    process = subprocess.Popen([sys.executable, "-c", PUBLISH, str(released), address], cwd=CHECKOUT, env=os.environ)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = set(list_files(Path(address)))
    if ROOT in there:
        assert {path for path in there if ".put" not in path} == set(list_files(released))
    publish(Release.open(released), open_store(address))
    assert {path for path in list_files(Path(address)) if ".put" not in path} == set(list_files(released))


def test_of_two_at_once_both_end_well_and_one_says_that_the_other_was_there(small: Path, s3: str) -> None:
    command = [sys.executable, "-c", PUBLISH, str(small), s3]
    both = [
        subprocess.Popen(command, cwd=CHECKOUT, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum(int(out) for out, _ in said) >= len(list_files(small))
    assert is_whole(small, s3)


def test_of_two_different_ones_at_once_one_is_refused(small: Path, other: Path, s3: str) -> None:
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(folder), s3],
            cwd=CHECKOUT,
            env=os.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for folder in (small, other)
    ]
    said = [process.communicate(timeout=120) for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) in ([0, 1], [0, 2]), said
    assert "another" in said[0 if codes[0] else 1][1]
    assert is_whole(small if codes[0] == 0 else other, s3)
    assert [read for read in said if "Traceback" in read[1]] == []


def test_a_connection_that_breaks_is_gone_on_with(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stores.s3() as store, cutting(store.address, cut_after=500, cuts=3) as way:
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", stores.KEY["aws_access_key_id"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stores.KEY["aws_secret_access_key"])
        address = f"s3://{stores.BUCKET}/demo"
        publish(Release.open(small), open_store(address))
        assert is_whole(small, address)


def test_a_store_that_keeps_other_bytes_is_found_before_the_root_goes_out(small: Path, tmp_path: Path) -> None:
    class Forgetful(Folder):
        """A folder whose disk flips a bit of one file."""

        def put(self, path: str, file: Path) -> None:
            super().put(path, file)
            if path == "NOTICE":
                stored = tmp_path / "published" / path
                stored.write_bytes(bytes([stored.read_bytes()[0] ^ 1]) + stored.read_bytes()[1:])

    with pytest.raises(Differs, match="NOTICE: the store has other bytes than were sent"):
        publish(Release.open(small), Forgetful(str(tmp_path / "published")))
    assert not (tmp_path / "published" / ROOT).exists()


def test_a_store_that_says_its_own_digests_is_asked_for_them(small: Path, tmp_path: Path) -> None:
    from pipeline.base.files import sha256_file

    class Telling(Folder):
        def list(self) -> dict[str, Listed] | None:
            root = tmp_path / "published"
            return {path: Listed((root / path).stat().st_size, sha256_file(root / path)) for path in list_files(root)}

    done = publish(Release.open(small), Telling(str(tmp_path / "published")))
    assert (done.told, done.read_back) == (done.files - 1, 1)


def test_a_full_disk_leaves_no_release_and_nothing_half_written(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, written = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal written
        written += 1
        if written == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EverystepError, match="the disk is full"):
        publish(Release.open(small), open_store(str(tmp_path / "published")))
    there = list_files(tmp_path / "published")
    assert ROOT not in there
    assert set(there) < set(list_files(small))
    publish(Release.open(small), open_store(str(tmp_path / "published")))
    assert is_whole(small, str(tmp_path / "published"))


def test_a_web_server_takes_nothing(small: Path) -> None:
    with pytest.raises(EverystepError, match="a web server takes no files"):
        publish(Release.open(small), open_store("http://127.0.0.1:9"))


def test_credentials_that_are_missing_or_wrong_are_said_and_not_shown(
    small: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-very-secret-word")
    with pytest.raises(EverystepError) as caught:
        publish(Release.open(small), open_store(s3))
    assert "credentials" in str(caught.value)
    assert "a-very-secret-word" not in str(caught.value)
    shutil.rmtree(os.environ["HOME"], ignore_errors=True)
