"""Parquet as its many writers make it, with values of every type."""

import base64
import zlib
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars
import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.base.errors import EverystepError
from pipeline.base.parquet import batches, open_parquet
from pipeline.sources.document import RawDocument, Rejected
from tests.pipeline.sources.declared import read_all

NUM_ROWS = 5
TEXTS = [f"Text {number} caf\u00e9." for number in range(NUM_ROWS)]
COLUMNS: dict[str, Any] = {"id": [f"k{n}" for n in range(NUM_ROWS)], "text": TEXTS, "score": [0.5] * NUM_ROWS}
FASTPARQUET = (
    "c-p0uL1@!Z7{_1IG>$TH9^RuJV}`)S3SDWpZlDz0M21L(F{UCio7d!Zi?&HkUdPHDicSVj3yR`J@ZzC*(}V2dNe~Z$Fi;#GoELW&"
    "9p2_k(r#<l6~P?B_x|tyegEIfD;*!5h(iEJU@8JdR*0|-fFsN7<vd$zMo|=1;~%Vv%4$cdGd{wB3)ZKz65C|%n;g8$HEo=F|MD>C"
    "XdnCj^u+X1YCX2>f1>iYAAP{_uoeD!=lr$qk;46NKh_@VzkVANedq;vc4&Rb_jS}8oPsA?@qk+gHoxei2v*+E&%Itt0**zXuulti"
    "j_^)dUE~5FJh}0@)9X=SnQPj_#lXico>c;Oki93#9F+zo6=&Z*k8TTzssO6b^?MuTm^V1-@b3@f@K+K(A6PuCEOk3Ad?<BFwAC4s"
    "$4~^Yy@wC-y4C}{QlKo)Sp?t>4)Q_2t(q1AC=iN-lD%zRussAp$mxIr5>W;jA%NPF!vKW3pu^)FrFXXGbH};P3Wr{C%sboYt?*qi"
    ";F`TG*KMFI^H%s|uzH^L<2x0q8-V`sNCXV7?5n2}&^a{2rj&h+k(<6oJ^?LO`8M~sEB-xz0=nb@`u_!Rg+~Gtf?@$18n%Ov{qwSF"
    "=8AbEts5GdBer}@x;QUqb&}K42F??<Hj24iM3VD_VhvNgqtx#k#eAWZrlo?T$u_lQCVDyBYF?isTEA{kGEFRbVTw7t_-47XuF0)("
    "tNZo2X67<cX_M%pp{u4w<b{aTnB#o;)=4$T|7W@P);et4QlFO1nV1eIn#9$1yzgldOihdF^KwqlSlBAL9&FPBwyqY53p`6KTQ?17"
    "XCO8(96cJ1Ikd9-D@fPf$rYwKJ_{Su9#-A8+Z0=rEn{v?3apH~rRkJIE>o3vSLk3g9*uiPv8Ya&x;u1g0R;PZ5%(8LbjCEK>Hw*R"
    "EcIoIdQOvKVQ@wOV4VH0{{^DRdfN"
)
"""What fastparquet 2026.9 writes of `COLUMNS` in two row groups, zlib and base 85."""


def by_pyarrow(types: dict[str, pa.DataType] | None = None, **options: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        kinds = {"id": pa.string(), "text": pa.string(), "score": pa.float64()} | (types or {})
        columns = {name: pa.array(values).cast(kinds[name]) for name, values in COLUMNS.items()}
        parquet.write_table(pa.table(columns), path, **options)

    return write


def by_duckdb(options: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        frame = pa.table(COLUMNS)
        with duckdb.connect() as database:
            database.register("frame", frame)
            database.execute(f"COPY frame TO '{path}' (FORMAT parquet{options})")

    return write


def by_fastparquet(path: Path) -> None:
    path.write_bytes(zlib.decompress(base64.b85decode(FASTPARQUET)))


def with_an_empty_row_group(path: Path) -> None:
    table = pa.table(COLUMNS)
    with parquet.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table.slice(0, 0))
        writer.write_table(table)


DICTIONARY = pa.dictionary(pa.int32(), pa.string())
WRITERS: dict[str, Callable[[Path], None]] = {
    "pyarrow": by_pyarrow(),
    "large strings": by_pyarrow({"text": pa.large_string(), "id": pa.large_string()}),
    "views of strings": by_pyarrow({"text": pa.string_view()}),
    "categories": by_pyarrow({"text": DICTIONARY, "id": DICTIONARY}),
    "data pages of version 2": by_pyarrow(data_page_version="2.0", compression="zstd"),
    "like Spark": by_pyarrow(compression="snappy", version="1.0", store_schema=False),
    "dictionary that overflows": by_pyarrow(dictionary_pagesize_limit=20, write_batch_size=1),
    "row groups of one row": by_pyarrow(row_group_size=1),
    "no statistics": by_pyarrow(write_statistics=False),
    "an index of pages": by_pyarrow(write_page_index=True, data_page_size=1, write_batch_size=1),
    "checksums of pages": by_pyarrow(write_page_checksum=True),
    "strings by difference": by_pyarrow(use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"}),
    "strings by length": by_pyarrow(use_dictionary=False, column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY"}),
    "an empty row group": with_an_empty_row_group,
    "pandas": lambda path: pd.DataFrame(COLUMNS).to_parquet(path),
    "pandas with an index": lambda path: pd.DataFrame(COLUMNS).set_index("score").to_parquet(path),
    "polars": lambda path: polars.DataFrame(COLUMNS).write_parquet(path),
    "polars in row groups": lambda path: polars.DataFrame(COLUMNS).write_parquet(
        path, row_group_size=2, statistics=False
    ),
    "duckdb": by_duckdb(""),
    "duckdb, version 2": by_duckdb(", PARQUET_VERSION v2, COMPRESSION zstd"),
    "fastparquet": by_fastparquet,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_what_other_programs_write_is_read(tmp_path: Path, writer: str) -> None:
    WRITERS[writer](tmp_path / "rows.parquet")
    found = read_all(tmp_path, reader="parquet", id_column="id", metadata_columns=["score"])
    assert found == [RawDocument(f"k{n}", text, {"score": "0.5"}) for n, text in enumerate(TEXTS)]


@pytest.mark.parametrize("writer", ["pyarrow", "pandas", "polars", "duckdb"])
def test_a_file_without_rows_holds_no_document(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "rows.parquet"
    empty = pa.table(COLUMNS).slice(0, 0)
    match writer:
        case "pyarrow":
            parquet.write_table(empty, path)
        case "pandas":
            empty.to_pandas().to_parquet(path)
        case "polars":
            polars.from_arrow(empty).write_parquet(path)  # type: ignore[union-attr]
        case "duckdb":
            duckdb.sql(f"COPY (SELECT 'k' AS id, 't' AS text, 0.5 AS score WHERE false) TO '{path}' (FORMAT parquet)")
    assert read_all(tmp_path, reader="parquet", id_column="id") == []


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (pa.array([["a"]]), "list<element: string>"),
        (pa.array([1]), "int64"),
        (pa.array([{"raw": "a"}]), "struct<raw: string>"),
        (pa.array([b"a"]), "binary"),
        (pa.array([date(2020, 1, 1)]), "date32[day]"),
    ],
)
def test_a_column_of_texts_that_holds_no_strings_is_refused_by_file_column_and_type(
    tmp_path: Path, texts: pa.Array, kind: str
) -> None:
    parquet.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet")
    with pytest.raises(EverystepError) as caught:
        read_all(tmp_path, reader="parquet")
    assert f"rows.parquet: its column 'text' holds '{kind}', not strings; set `text_column`" in str(caught.value)


def test_a_text_in_a_struct_is_read_and_one_that_is_null_is_on_record(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"content": [{"raw": "Text."}, {"raw": None}, None]}), tmp_path / "rows.parquet")
    good, *bad = read_all(tmp_path, reader="parquet", text_column="content.raw")
    assert good == RawDocument("rows.parquet:1", "Text.", {})
    assert [one[1:] for one in bad] == [("broken_record", "column 'content.raw' holds no string")] * 2
    with pytest.raises(EverystepError, match="'content' holds 'struct<raw: string>'"):
        read_all(tmp_path, reader="parquet", text_column="content")


def test_names_of_columns_reach_a_message_only_as_printable_text(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"\x1b[2Jbody\u202e": ["a"]}), tmp_path / "rows.parquet")
    with pytest.raises(EverystepError) as caught:
        read_all(tmp_path, reader="parquet")
    assert r"only \x1b[2Jbody\u202e;" in str(caught.value)


BAD_UTF8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"caf\xe9"], pa.binary()).buffers())
SPELLED: list[tuple[pa.Array, str | None]] = [
    (pa.array([float("nan")]), None),
    (pa.array([float("-inf")]), None),
    (pa.array([float("nan")], pa.float16()), None),
    (pa.array([True]), "true"),
    (pa.array([2**53]), "9007199254740992"),
    (pa.array([2**64 - 1], pa.uint64()), "18446744073709551615"),
    (pa.array([1e20]), "100000000000000000000"),
    (pa.array([Decimal("12.50")]), "12.50"),
    (pa.array([b"\xff\x00"]), "/wA="),
    (pa.array([date(2020, 1, 2)]), "2020-01-02"),
    (pa.array([datetime(2020, 1, 2, 3, 4, 5)]), "2020-01-02T03:04:05"),
    (pa.array([datetime(2020, 1, 2, 3, 4, 5, 6, UTC)]), "2020-01-02T03:04:05.000006+00:00"),
    (pa.array([1577934245000000001], pa.timestamp("ns")), "2020-01-02T03:04:05.000000001"),
    (pa.array([time(3, 4, 5)]), "03:04:05"),
    (pa.array([timedelta(days=1, microseconds=5)]), "86400.000005"),
    (pa.array([1 << 50], pa.timestamp("s")), None),
    (pa.array(["a\0b"]), "a\ufffdb"),
    (BAD_UTF8, "caf\ufffd"),
    (pa.array([[1.5, float("nan"), None]]), "[1.5,null,null]"),
    (pa.array([{"n": 2**53, "when": date(2020, 1, 2)}]), '{"n":"9007199254740992","when":"2020-01-02"}'),
    (pa.array([[("k", b"v")]], pa.map_(pa.string(), pa.binary())), '[["k","dg=="]]'),
    (pa.StructArray.from_arrays([BAD_UTF8], ["inner"]), '{"inner":"caf\ufffd"}'),
    (pa.array(["a"]).dictionary_encode(), "a"),
]


@pytest.mark.parametrize(("values", "expected"), SPELLED, ids=[str(values.type) for values, _ in SPELLED])
def test_no_value_of_metadata_costs_the_text(tmp_path: Path, values: pa.Array, expected: str | None) -> None:
    parquet.write_table(pa.table({"text": ["Text."], "about": values}), tmp_path / "rows.parquet")
    (found,) = read_all(tmp_path, reader="parquet", metadata_columns=["about"])
    assert found == RawDocument("rows.parquet:1", "Text.", {} if expected is None else {"about": expected})


JSON_VALUES = [
    ("NaN", None),
    ("-Infinity", None),
    ("1e999", None),
    ("9007199254740993", "9007199254740993"),
    ("-" + "9" * 5000, "-" + "9" * 5000),
    ("1.0", "1"),
    ('"a\\ud83db"', "a\ufffdb"),
    ('"a\\u0000b"', "a\ufffdb"),
    ('{"n": [NaN, 9007199254740993, "\\udc00"]}', '{"n":[null,"9007199254740993","\ufffd"]}'),
]


@pytest.mark.parametrize(("value", "expected"), JSON_VALUES, ids=[value[:20] for value, _ in JSON_VALUES])
@pytest.mark.parametrize("columns", [[], ["about"]])
def test_no_value_of_a_line_of_json_costs_the_text(
    tmp_path: Path, value: str, expected: str | None, columns: list[str]
) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"text": "Text.", "about": {value}}}\n')
    (found,) = read_all(tmp_path, reader="jsonl", metadata_columns=columns)
    assert found == RawDocument(
        "rows.jsonl:1", "Text.", {"about": expected} if columns and expected is not None else {}
    )


def test_a_licence_that_is_no_number_is_none(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "Text.", "terms": NaN}\n')
    (found,) = read_all(tmp_path, reader="jsonl", license_column="terms", licenses={"MIT": ["free"]})
    assert found == Rejected("rows.jsonl:1", "unknown_license", "null")


def test_a_page_of_long_texts_is_read_a_few_rows_at_a_time(tmp_path: Path) -> None:
    texts = ["a" * (2 << 20)] * 100
    parquet.write_table(pa.table({"text": texts}), tmp_path / "rows.parquet", use_dictionary=False)
    with open_parquet(tmp_path / "rows.parquet") as file:
        found = list(batches(file, tmp_path / "rows.parquet", 1000, ["text"], [0], 1 << 30))
        assert max(batch.nbytes for batch in found) < 70 << 20
        assert sum(batch.num_rows for batch in found) == len(texts)
        with pytest.raises(EverystepError, match="a page has 209715"):
            list(batches(file, tmp_path / "rows.parquet", 1000, ["text"], [0]))


def test_a_footer_that_counts_other_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    parquet.write_table(pa.table({"text": ["a"] * 77}), path)
    content = path.read_bytes()
    assert content.count(bytes([0x16, 2 * 77 & 0x7F | 0x80, 1])) >= 2
    at = content.rindex(bytes([0x16, 2 * 77 & 0x7F | 0x80, 1]), 0, len(content))
    path.write_bytes(content[: at + 1] + bytes([(2 * 76) & 0x7F | 0x80, 1]) + content[at + 3 :])
    with pytest.raises(EverystepError, match=r"rows\.parquet: "):
        read_all(tmp_path, reader="parquet")
