"""Files that were cut off or changed, at every place: read whole and right, or refused, or the loss is on record."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from pipeline.base.errors import EverystepError
from pipeline.sources.document import RawDocument, Rejected
from tests.pipeline.sources.declared import read_all

Found = list[RawDocument | Rejected]


def line(text: str) -> bytes:
    return json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"


def checked(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def found_in(folder: Path, name: str, content: bytes, reader: str = "jsonl") -> Found | None:
    """What is read; None if it is refused."""
    (folder / name).write_bytes(content)
    try:
        return read_all(folder, reader=reader)
    except EverystepError as error:
        assert name in str(error)
        return None
    finally:
        (folder / name).unlink()


def flipped(content: bytes, mask: int) -> Iterator[bytes]:
    """The content with one byte changed, at each place."""
    return (content[:at] + bytes([content[at] ^ mask]) + content[at + 1 :] for at in range(len(content)))


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda content: gzip.compress(content, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": checked,
}
TEXTS = st.lists(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), max_size=3), min_size=1, max_size=3
)


@pytest.mark.parametrize("codec", CODECS)
@given(TEXTS, st.integers(1, 255), st.binary(min_size=1, max_size=12))
@settings(max_examples=3)
def test_packed_lines_are_read_whole_or_refused_wherever_they_are_cut_or_changed(
    tmp_path_factory: pytest.TempPathFactory, codec: str, texts: list[list[str]], mask: int, more: bytes
) -> None:
    """Only between two streams a cut leaves what is whole by itself."""
    folder, name = tmp_path_factory.mktemp("damage"), f"rows.jsonl.{codec}"
    streams = [CODECS[codec](b"".join(map(line, part))) for part in texts]
    packed = b"".join(streams)
    whole = found_in(folder, name, packed)
    assert whole is not None
    assert len(whole) == sum(map(len, texts))
    ends = set(accumulate(map(len, streams)))
    for cut in range(len(packed)):
        assert cut in ends or found_in(folder, name, packed[:cut]) is None, cut
    for changed in flipped(packed, mask):
        assert found_in(folder, name, changed) in (None, whole)
    padded = {"gz": 1, "xz": 4}.get(codec)  # so many zero bytes belong to the format
    is_padding = padded and not more.strip(b"\0") and len(more) % padded == 0
    assert found_in(folder, name, packed + more) == (whole if is_padding else None)


def in_zip(method: int, comment: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for number in range(3):
            info = zipfile.ZipInfo(f"{number}\u00e9.jsonl" if number else "0.jsonl")
            info.compress_type = method
            archive.writestr(info, line(f"Text {number}."))
        archive.comment = comment
    return buffer.getvalue()


def in_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(2):
            info = tarfile.TarInfo(f"{number}.jsonl")
            info.size = len(line(f"Text {number}."))
            archive.addfile(info, io.BytesIO(line(f"Text {number}.")))
    return buffer.getvalue()[: 6 * tarfile.BLOCKSIZE]  # the rest is zeros up to a tape's record


def table(**options: Any) -> bytes:
    buffer = io.BytesIO()
    columns = {"text": [f"Text {number} caf\u00e9." for number in range(6)], "unread": range(6)}
    parquet.write_table(pa.table(columns), buffer, row_group_size=3, write_statistics=False, **options)
    return buffer.getvalue()


CHECKED: dict[str, Callable[[], bytes]] = {
    "stored.zip": lambda: in_zip(zipfile.ZIP_STORED),
    "deflated.zip": lambda: in_zip(zipfile.ZIP_DEFLATED, b"a comment"),
    "rows.tar.gz": lambda: gzip.compress(in_tar(), mtime=0),
    "rows.tar.zst": lambda: checked(in_tar()[:700]) + checked(in_tar()[700:]),
}
UNCHECKED: dict[str, Callable[[], bytes]] = {
    "plain.parquet": lambda: table(use_dictionary=False, compression="none", store_schema=False),
    "packed.parquet": lambda: table(compression="zstd", store_schema=False, write_page_checksum=True),
    "rows.tar": lambda: in_tar(),
    "rows.jsonl.zst": lambda: zstandard.compress(line("One.")) + zstandard.compress(line("Two.")),
    "rows.jsonl.xz": lambda: lzma.compress(line("One.") + line("Two."), check=lzma.CHECK_NONE),
}


def reader_of(name: str) -> str:
    return "parquet" if name.endswith("parquet") else "jsonl"


@pytest.mark.parametrize("name", CHECKED)
@pytest.mark.parametrize("mask", [0x01, 0x20])
def test_archives_are_read_whole_or_refused_wherever_a_byte_is_changed(tmp_path: Path, name: str, mask: int) -> None:
    content = CHECKED[name]()
    whole = found_in(tmp_path, name, content)
    assert whole
    for at, changed in enumerate(flipped(content, mask)):
        assert found_in(tmp_path, name, changed) in (None, whole), at


@pytest.mark.parametrize("name", UNCHECKED)
def test_without_checksums_no_document_is_missing_in_silence(tmp_path: Path, name: str) -> None:
    """What such a format says of a text may change unnoticed (the digest of the artefact tells), never how many."""
    content = UNCHECKED[name]()
    whole = found_in(tmp_path, name, content, reader_of(name))
    assert whole
    for at, changed in enumerate(flipped(content, 0x01)):
        found = found_in(tmp_path, name, changed, reader_of(name))
        assert found is None or len(found) == len(whole) or any(isinstance(one, Rejected) for one in found), at


@pytest.mark.parametrize("name", [*CHECKED, *UNCHECKED])
def test_archives_and_tables_that_are_cut_off_or_followed_by_bytes_are_refused(tmp_path: Path, name: str) -> None:
    content, reader = (CHECKED | UNCHECKED)[name](), reader_of(name)
    whole = found_in(tmp_path, name, content, reader)
    ends = {len(zstandard.compress(line("One.")))} if name == "rows.jsonl.zst" else set()
    for cut in range(len(content)):
        assert cut in ends or found_in(tmp_path, name, content[:cut], reader) in (None, whole), cut
    assert found_in(tmp_path, name, content + b"more", reader) is None


def test_archive_inside_an_archive_is_not_taken_for_it(tmp_path: Path) -> None:
    """The library takes the last directory that it finds, here that of a member."""
    outer = io.BytesIO()
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("a.jsonl", line("One."))
        archive.writestr("inner.zip", in_zip(zipfile.ZIP_STORED))
    content = outer.getvalue()
    end = content.index(b"PK\5\6") + 22
    for cut in range(end - 30, len(content)):
        assert found_in(tmp_path, "rows.zip", content[:cut]) is None


def test_archives_that_were_joined_are_refused(tmp_path: Path) -> None:
    for name, content in (("rows.tar", in_tar()), ("rows.zip", in_zip(zipfile.ZIP_STORED))):
        assert found_in(tmp_path, name, content)
        assert found_in(tmp_path, name, content + content) is None
