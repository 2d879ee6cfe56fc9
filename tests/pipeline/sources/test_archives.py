import io
import multiprocessing
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from pipeline.base import files
from pipeline.base.errors import EverystepError
from pipeline.sources import archives


def write_zip(path: Path, files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> None:
    """A zip archive that says about its members whatever `change` makes of them."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if change:
                change(info)
            archive.writestr(info, content)


def write_tar(path: Path, files: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] | None = None) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change:
                change(info)
            archive.addfile(info, io.BytesIO(content))


def contents(folder: Path, *patterns: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for part in archives.parts(folder, *patterns):
        found |= {name: stream.read() for name, stream in archives.streams(folder, part, *patterns)}
    return found


def refusal(folder: Path) -> str:
    with pytest.raises(EverystepError) as caught:
        contents(folder, "*")
    return str(caught.value)


FILES = {"b/one.txt": b"one", "a.txt": b"two", "c.bin": b"three"}


@pytest.mark.parametrize("suffix", ["zip", "whl", "tar", "tar.gz"])
def test_members_are_read_in_place(tmp_path: Path, suffix: str) -> None:
    write = write_zip if suffix in ("zip", "whl") else write_tar
    write(tmp_path / f"corpus.{suffix}", FILES)
    assert contents(tmp_path, "*.txt") == {"a.txt": b"two", "b/one.txt": b"one"}
    assert [path.name for path in tmp_path.iterdir()] == [f"corpus.{suffix}"]


def test_tar_packed_by_zstandard_is_read(tmp_path: Path) -> None:
    write_tar(tmp_path / "corpus.tar", FILES)
    packed = zstandard.ZstdCompressor().compress((tmp_path / "corpus.tar").read_bytes())
    (tmp_path / "corpus.tar").unlink()
    (tmp_path / "corpus.tar.zst").write_bytes(packed)
    assert contents(tmp_path, "*") == FILES


def test_parts_are_sorted_whatever_the_order_in_the_archive(tmp_path: Path) -> None:
    write_zip(tmp_path / "corpus.zip", FILES)
    (tmp_path / "plain.txt").write_bytes(b"four")
    assert archives.parts(tmp_path, "*.txt") == ["corpus.zip!a.txt", "corpus.zip!b/one.txt", "plain.txt"]


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../a.txt", "a/../../b", "C:\\a.txt", "a\\b.txt", "a//b.txt", "C:a", "a\nb"]
)
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_name_that_could_leave_the_folder_is_refused(
    tmp_path: Path, name: str, write: Callable[[Path, dict[str, bytes]], None]
) -> None:
    write(tmp_path / ("corpus.zip" if write is write_zip else "corpus.tar"), {name: b"attack"})
    message = refusal(tmp_path)
    assert "corpus." in message and repr(name) in message and "not a plain relative path" in message


@pytest.mark.parametrize("name", [b"caf\xe9.txt", b"\x1b[2J.txt", b"\xe2\x80\xaeb.txt"])
def test_names_that_are_no_text_or_steer_a_terminal_reach_no_message(tmp_path: Path, name: bytes) -> None:
    header = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    with tarfile.open(tmp_path / "corpus.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(header)
        tar.addfile(header)  # at the latest the second is refused
    assert refusal(tmp_path).isprintable()
    (tmp_path / "corpus.tar").unlink()
    for changed in (name, name.decode("latin-1").encode()):
        write_zip(tmp_path / "corpus.zip", {"n" * len(changed): b"one"})
        raw = (tmp_path / "corpus.zip").read_bytes().replace(b"n" * len(changed), changed)
        (tmp_path / "corpus.zip").write_bytes(raw)
        try:
            archives.parts(tmp_path, "*.md")
        except EverystepError as error:
            assert str(error).isprintable()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_link_or_device_in_a_tar_is_refused(tmp_path: Path, kind: bytes) -> None:
    def become(info: tarfile.TarInfo) -> None:
        info.type, info.linkname, info.size = kind, "/etc/passwd", 0

    write_tar(tmp_path / "corpus.tar", {"a.txt": b""}, become)
    assert "'a.txt': is a link, device or sparse file" in refusal(tmp_path)


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_link_or_device_in_a_zip_is_refused(tmp_path: Path, mode: int) -> None:
    def become(info: zipfile.ZipInfo) -> None:
        info.external_attr = (mode | 0o777) << 16

    write_zip(tmp_path / "corpus.zip", {"a.txt": b"/etc/passwd"}, become)
    assert "'a.txt': is a link or device" in refusal(tmp_path)


def test_name_that_stands_twice_is_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning), zipfile.ZipFile(tmp_path / "corpus.zip", "w") as archive:
        archive.writestr("a.txt", "seen by one reader")
        archive.writestr("a.txt", "seen by another")
    assert "appears twice" in refusal(tmp_path)
    (tmp_path / "corpus.zip").unlink()
    with tarfile.open(tmp_path / "corpus.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"))
        tar.addfile(tarfile.TarInfo("./a.txt"))
    assert "appears twice" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_too_many_members_are_refused(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    (write_zip if suffix == "zip" else write_tar)(tmp_path / f"corpus.{suffix}", FILES)
    assert "more than 2" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_bomb_is_refused(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MIN_UNPACKED_BYTES", 1 << 20)
    (write_zip if suffix == "zip" else write_tar)(tmp_path / f"corpus.{suffix}", {"zeros.txt": bytes(4 << 20)})
    assert "far more bytes" in refusal(tmp_path)


def test_stream_that_gives_more_than_its_bound_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MIN_UNPACKED_BYTES", 1 << 20)
    packed = zstandard.ZstdCompressor().compress(bytes(4 << 20))
    stream = archives.decompressed(io.BufferedReader(io.BytesIO(packed)), "zeros.jsonl.zst", len(packed))
    with pytest.raises(EverystepError, match="more bytes than its size allows"):
        stream.read()


def test_member_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "corpus.zip", {"a.txt": b"x" * 1000})
    raw = bytearray((tmp_path / "corpus.zip").read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        place = raw.index(signature) + offset
        raw[place : place + 4] = (10).to_bytes(4, "little")
    (tmp_path / "corpus.zip").write_bytes(raw)
    assert "'a.txt': damaged (Bad CRC-32" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar"])
def test_archive_cut_short_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"corpus.{suffix}"
    (write_zip if suffix == "zip" else write_tar)(path, {"a.txt": os.urandom(5000)})
    path.write_bytes(path.read_bytes()[:3000])
    assert str(path) in refusal(tmp_path) or path.name in refusal(tmp_path)


def test_changed_archive_is_parsed_again(tmp_path: Path) -> None:
    write_zip(tmp_path / "corpus.zip", {"a.txt": b"first"})
    assert contents(tmp_path, "*") == {"a.txt": b"first"}
    write_zip(tmp_path / "corpus.zip", {"b.txt": b"and then"})
    assert contents(tmp_path, "*") == {"b.txt": b"and then"}


def read_part(folder: Path, part: str) -> list[tuple[str, bytes]]:
    return [(name, stream.read()) for name, stream in archives.streams(folder, part, "*")]


def test_forked_workers_read_what_one_process_reads(tmp_path: Path) -> None:
    write_zip(tmp_path / "corpus.zip", {f"{number:03}.txt": os.urandom(20_000) for number in range(400)})
    work = [(tmp_path, part) for part in archives.parts(tmp_path, "*")]
    alone = [read_part(*piece) for piece in work]
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.starmap(read_part, work, chunksize=1) == alone
