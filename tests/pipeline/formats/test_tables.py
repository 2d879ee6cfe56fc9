import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files
from pipeline.base.parquet import batches as batches_of
from pipeline.formats import tables
from pipeline.formats.tables import (
    DOCUMENT_INDEX,
    REMOVALS,
    as_json,
    check_table,
    digest_table,
    read_table,
    removal,
    write_table,
)
from tests.pipeline.formats.second_reader import canonical, digest_of_lines
from tests.pipeline.formats.values import TEXTS

ROWS = st.lists(
    st.builds(
        removal,
        st.just("dedup"),
        TEXTS,
        TEXTS,
        TEXTS,
        detail=st.none() | TEXTS,
        kept=st.none() | TEXTS,
        similarity=st.none() | st.floats(0, 1) | st.sampled_from([0, 1]),
        bytes=st.none() | st.integers(0, 2**53 - 1),
    ),
    max_size=8,
)


def some(count: int) -> list[dict[str, Any]]:
    return [removal("filter", "s", f"s/{n}", "cap", bytes=n, similarity=n / 7) for n in range(count)]


@given(ROWS)
def test_digest_is_of_the_rows_as_canonical_lines(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "t.parquet"
    shard = write_table(path, rows, REMOVALS, "t.parquet")
    promised = digest_of_lines([canonical(row).encode() for row in rows])
    assert (shard.lines, shard.bytes, shard.sha256) == promised == digest_table(path)
    assert list(as_json(path)) == rows == read_table(path, REMOVALS).to_pylist()
    check_table(path.parent, shard)


def test_batches_and_compression_change_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH", 50)
    shard = write_table(tmp_path / "t.parquet", some(105), REMOVALS, "t.parquet")
    table = read_table(tmp_path / "t.parquet", REMOVALS)
    assert table.num_rows == 105
    assert pq.ParquetFile(tmp_path / "t.parquet").num_row_groups == 3
    check_table(tmp_path, shard)
    pq.write_table(table, tmp_path / "t.parquet", compression="none", row_group_size=10)
    check_table(tmp_path, shard)
    monkeypatch.setattr(tables, "BATCH", 7)
    assert write_table(tmp_path / "t.parquet", some(105), REMOVALS, "t.parquet") == shard
    check_table(tmp_path, shard)


def test_only_columns_of_few_values_have_a_dictionary_and_a_group_is_read_at_once(tmp_path: Path) -> None:
    """A dictionary of unique strings would be read twice, and in pieces, because one row could be as long as all."""
    path = tmp_path / "t.parquet"
    about = {"license": "l", "text_sha256": "0" * 64, "first_row": 0, "offset": 0, "num_tokens": 1, "bytes": 1}
    write_table(path, ({"id": f"s/{i:050d}", "source": f"s{i % 3}"} | about for i in range(4096)), DOCUMENT_INDEX, "t")
    with tables.open_table(path, DOCUMENT_INDEX) as file:
        group = file.metadata.row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        assert {c.path_in_schema for c in columns if c.has_dictionary_page} == {"source", "license"}
        batches = list(batches_of(file, path, 4096, DOCUMENT_INDEX.names, [0]))
        assert [batch.num_rows for batch in batches] == [4096]


def test_columns_that_a_row_leaves_out_are_nulls_in_table_and_digest(tmp_path: Path) -> None:
    short = [{"id": "s/1", "source": "s", "stage": "filter", "reason": "cap"}]
    whole = [removal("filter", "s", "s/1", "cap")]
    shards = [write_table(tmp_path / "t.parquet", rows, REMOVALS, "t.parquet") for rows in (short, whole)]
    assert shards[0] == shards[1]
    check_table(tmp_path, shards[0])


def test_another_row_or_another_order_differs(tmp_path: Path) -> None:
    shard = write_table(tmp_path / "t.parquet", some(5), REMOVALS, "t.parquet")
    for rows in (some(4), some(5)[::-1], [*some(4), removal("filter", "s", "s/4", "cap", bytes=5, similarity=4 / 7)]):
        write_table(tmp_path / "t.parquet", rows, REMOVALS, "t.parquet")
        with pytest.raises(Differs, match=shard.sha256):
            check_table(tmp_path, shard)


def test_a_table_of_other_columns_is_refused(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", some(1), REMOVALS, "t.parquet")
    with pytest.raises(EverystepError, match=r"its columns are .* expected"):
        read_table(tmp_path / "t.parquet", DOCUMENT_INDEX)


def test_empty_tables_have_the_digest_of_nothing(tmp_path: Path) -> None:
    shard = write_table(tmp_path / "t.parquet", [], DOCUMENT_INDEX, "t.parquet")
    assert (shard.lines, shard.bytes, shard.sha256) == (0, 0, hashlib.sha256(b"").hexdigest())
    assert read_table(tmp_path / "t.parquet", DOCUMENT_INDEX).num_rows == 0


def test_a_number_that_json_cannot_hold_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    for more in ({"similarity": float("nan")}, {"bytes": 2**53}):
        with pytest.raises(EverystepError, match="not representable"):
            write_table(tmp_path / "t.parquet", [removal("filter", "s", "s/1", "cap", **more)], REMOVALS, "t")
    assert list_files(tmp_path) == []


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["id", "id"])
    pq.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(EverystepError, match="a column stands twice"):
        digest_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("array", [pa.array([b"x"]), pa.array([0], pa.timestamp("s")), pa.array([1], pa.decimal128(3))])
def test_a_column_that_json_cannot_hold_is_refused(tmp_path: Path, array: Any) -> None:
    pq.write_table(pa.table({"x": array}), tmp_path / "t.parquet")
    with pytest.raises(EverystepError, match="not representable"):
        digest_table(tmp_path / "t.parquet")


def test_damaged_files_are_named_and_no_damage_is_another_exception(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    shard = write_table(path, some(50), REMOVALS, "t.parquet")
    whole = path.read_bytes()
    damaged = [whole[:length] for length in range(0, len(whole), 97)]
    damaged += [whole[:i] + bytes([whole[i] ^ 0x81]) + whole[i + 1 :] for i in range(0, len(whole), 13)]
    for content in damaged:
        path.write_bytes(content)
        try:
            check_table(tmp_path, shard)
            read_table(path, REMOVALS)
        except EverystepError as error:
            assert str(path) in str(error) or "not representable" in str(error)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match=f"^{tmp_path}/t.parquet: not a readable parquet file"):
        digest_table(tmp_path / "t.parquet")
