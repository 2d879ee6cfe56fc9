import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import Differs, EverystepError
from pipeline.formats import rows as rows_module
from pipeline.formats import tables as tables_module
from pipeline.formats.lines import Shard, check_shard
from pipeline.formats.order import permute
from pipeline.formats.rows import (
    ROWS_PER_SHARD,
    DocumentIndex,
    Row,
    Rows,
    decode_row,
    encode_row,
    row_shard,
    rows_at_once,
    write_order,
    write_row_shard,
)
from pipeline.formats.tables import DOCUMENT_INDEX, write_table
from tests.pipeline.formats import second_reader as second
from tests.shards import read_lines, write_rows

VOCABULARY = 1000


def numbered(count: int, width: int) -> list[Row]:
    return [np.arange(width, dtype=np.int64) + n % 500 for n in range(count)]


def write_index(path: Path, index: list[dict[str, int]]) -> None:
    about = {"source": "s", "license": "l", "text_sha256": "0" * 64, "bytes": 1}
    write_table(path, [{"id": f"s/{i}"} | about | place for i, place in enumerate(index)], DOCUMENT_INDEX, path.name)


@given(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=40))
@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint16])
def test_a_row_comes_back_from_its_canonical_line(dtype: type[np.integer[Any]], ids: list[int]) -> None:
    line = encode_row(np.array(ids, dtype=dtype))
    assert line.decode() == second.canonical({"token_ids": ids}) + "\n"
    row = decode_row(line, len(ids), VOCABULARY, "here")
    assert row.tolist() == ids
    assert row.dtype == np.int64


@pytest.mark.parametrize(
    "value",
    [
        [1, 2],
        [1, 2, 3, 4],
        [],
        [1, 2, VOCABULARY],
        [1, 2, -1],
        [1, 2, 2**63],
        [1, 2, 2**70],
        [1, 2, 3.0],
        [1, 2, True],
        [1, 2, None],
        [1, 2, "3"],
        [1, 2, [3]],
        [[1, 2, 3]],
        "123",
        {"0": 1},
        3,
        None,
    ],
)
def test_a_row_of_anything_but_the_declared_ids_is_refused(value: Any) -> None:
    with pytest.raises(EverystepError, match=r"^here: "):
        decode_row(json.dumps({"token_ids": value}).encode(), 3, VOCABULARY, "here")


@given(
    st.binary(max_size=40) | st.sampled_from([b"[]", b"{}", b"null", b'{"token_ids":[1,2,NaN]}', b'{"ids":[1,2,3]}'])
)
def test_a_line_that_is_no_row_is_refused(line: bytes) -> None:
    with pytest.raises(EverystepError, match=r"^here: not a row"):
        decode_row(line, 3, VOCABULARY, "here")


@given(
    st.lists(st.integers(0, VOCABULARY), min_size=1, max_size=4),
    st.sampled_from(["}", ', "source": "c4"}', ', "token_ids": [1]}', "e2}", ', "token\\u005fids": 2}', ',"x":[{}]}']),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2), st.text('01,. []{}-+e"_', max_size=2)), max_size=2),
    st.booleans(),
)
def test_the_fast_reader_of_rows_reads_nothing_else_than_the_parser(
    ids: list[int], rest: str, edits: list[tuple[int, int, str]], spaced: bool
) -> None:
    """Lines that are rows, and lines a few characters from one: what it does not refuse to read, it reads right."""
    line = json.dumps({"token_ids": ids}, separators=(", ", ": ") if spaced else (",", ":"))[:-1] + rest
    for place, removed, inserted in edits:
        line = line[:place] + inserted + line[place + removed :]
    row = rows_module._usual_row(line.encode())
    assert row is None or row.tolist() == json.loads(line)["token_ids"]
    assert row is not None or edits or rest.startswith((', "token', "e"))


@pytest.mark.parametrize("count", [1, 64, ROWS_PER_SHARD, ROWS_PER_SHARD + 65])
def test_rows_by_number_are_the_rows_in_order(tmp_path: Path, count: int) -> None:
    expected = numbered(count, 5)
    shards = write_rows(tmp_path, expected, "train")
    assert [shard.path for shard in shards] == [f"train/{n:06d}.jsonl.zst" for n in range(len(shards))]
    rows = Rows(tmp_path, shards, 5, VOCABULARY)
    assert len(rows) == count
    assert np.array_equal(np.stack(list(rows)), np.stack(expected))
    for number in {0, 1, count // 2, count - 1} & set(range(count)):
        assert np.array_equal(rows[number], expected[number])
    for outside in (-1, count):
        with pytest.raises(IndexError):
            rows[outside]


def test_no_rows_make_no_shard(tmp_path: Path) -> None:
    assert write_rows(tmp_path, [], "train") == []
    assert len(Rows(tmp_path, [], 5, VOCABULARY)) == 0


def test_few_files_are_open_however_many_shards_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "ROWS_PER_SHARD", 1)
    monkeypatch.setattr(rows_module, "MAX_OPEN", 3)
    rows = Rows(tmp_path, write_rows(tmp_path, numbered(20, 5), "train"), 5, VOCABULARY)
    for number in [*range(20), 0, 19, 5]:
        assert rows[number][0] == number
        assert len(rows._files) <= 3


@pytest.mark.parametrize("lines", [99, 101, 64, 200])
def test_a_manifest_that_lies_about_the_rows_of_a_shard_is_told_so(tmp_path: Path, lines: int) -> None:
    (shard,) = write_rows(tmp_path, numbered(100, 5), "train")
    lying = shard.model_copy(update={"lines": lines})
    with pytest.raises(Differs, match=f"promises {lines} rows, found 100"):
        Rows(tmp_path, [lying], 5, VOCABULARY)[0]


def test_a_row_that_is_wrong_is_named_by_file_and_line(tmp_path: Path) -> None:
    shards = write_rows(tmp_path, [*numbered(70, 5), np.arange(4)], "train")
    rows = Rows(tmp_path, shards, 5, VOCABULARY)
    assert rows[69][0] == 69
    with pytest.raises(EverystepError, match=r"000000\.jsonl\.zst:71: a row of 4 ids; 5 are declared"):
        rows[70]


def test_a_shard_outside_the_folder_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, numbered(1, 5), "train")
    rows = Rows(
        tmp_path / "data", [Shard(path="../train/000000.jsonl.zst", lines=1, bytes=1, sha256="0" * 64)], 5, VOCABULARY
    )
    with pytest.raises(EverystepError, match="not a plain relative path"):
        rows[0]


@given(st.lists(st.lists(st.integers(1, 99), max_size=12), min_size=1, max_size=12), st.integers(2, 9))
def test_index_says_which_tokens_of_which_row_are_of_which_document(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], width: int
) -> None:
    packed, index, _ = second.pack(documents, 0, width)
    path = tmp_path_factory.mktemp("index") / "i.parquet"
    write_index(path, index)
    found = DocumentIndex(path, width, num_rows=len(packed))
    ids_of = [f"s/{i}" for i in range(len(documents))]
    pieces: dict[str, list[int]] = {id: [] for id in ids_of}
    rows_of: dict[str, list[int]] = {id: [] for id in ids_of}
    for number, row in enumerate(packed):
        spans = found.documents_of_row(number)
        assert [spans[0].start, *(span.stop for span in spans)] == [*(span.start for span in spans), width]
        for span in spans:
            assert (span.source, span.license, span.row) == ("s", "l", number)
            pieces[span.id] += row[span.start : span.stop]
            rows_of[span.id].append(number)
    for id, ids in zip(ids_of, documents, strict=True):
        assert [*ids, 0][: len(pieces[id])] == pieces[id]
        assert list(map(list, found.rows_of_document(id))) == [rows_of[id]]
    assert sum(map(len, pieces.values())) == len(packed) * width


def test_a_document_of_the_dropped_tail_stands_in_no_row(tmp_path: Path) -> None:
    packed, index, dropped = second.pack([[1, 2, 3], [4, 5], [6], [7]], 0, 4)
    assert (len(packed), dropped) == (2, 3)
    write_index(tmp_path / "i.parquet", index)
    found = DocumentIndex(tmp_path / "i.parquet", 4, num_rows=2)
    assert found.rows_of_document("s/0") == [range(0, 1)]
    assert found.rows_of_document("s/2") == [range(1, 2)]
    assert found.rows_of_document("s/3") == [range(0)]
    assert found.rows_of_document("s/9") == []
    for outside in (-1, 2, 10**9):
        assert found.documents_of_row(outside) == []


def test_a_document_that_stands_twice_is_answered_with_both_places(tmp_path: Path) -> None:
    places = [{"first_row": i * 3 // 4, "offset": i * 3 % 4, "num_tokens": 3} for i in range(6)]
    about = {"source": "s", "license": "l", "text_sha256": "0" * 64, "bytes": 1}
    entries = [{"id": f"s/{i % 4}"} | about | place for i, place in enumerate(places)]
    write_table(tmp_path / "i.parquet", entries, DOCUMENT_INDEX, "i.parquet")
    found = DocumentIndex(tmp_path / "i.parquet", 4, num_rows=4)
    assert found.rows_of_document("s/0") == [range(0, 1), range(3, 4)]
    assert found.rows_of_document("s/1") == [range(0, 2), range(3, 4)]
    assert found.rows_of_document("s/3") == [range(2, 3)]
    assert [[(span.id, span.start, span.stop) for span in spans] for spans in found.documents_of_rows([3, 0, 9])] == [
        [("s/0", 0, 3), ("s/1", 3, 4)],
        [("s/0", 0, 3), ("s/1", 3, 4)],
        [],
    ]


@pytest.mark.parametrize("fault", [{"offset": 1}, {"first_row": 9}, {"num_tokens": 0}, {"num_tokens": -3}])
def test_an_index_whose_documents_do_not_lie_one_behind_the_other_is_refused(
    tmp_path: Path, fault: dict[str, int]
) -> None:
    _, index, _ = second.pack([[1] * (i % 7) for i in range(20)], 0, 4)
    index[10] |= fault
    write_index(tmp_path / "i.parquet", index)
    with pytest.raises(EverystepError, match=r"i\.parquet: its documents do not follow one another without gaps"):
        DocumentIndex(tmp_path / "i.parquet", 4)


def test_documents_of_rows_in_many_row_groups_are_those_of_each_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables_module, "BATCH", 5)
    packed, index, _ = second.pack([[1] * (i % 7) for i in range(60)], 0, 4)
    write_index(tmp_path / "i.parquet", index)
    found = DocumentIndex(tmp_path / "i.parquet", 4, num_rows=len(packed))
    assert found._file.num_row_groups == 12
    asked = [*range(len(packed)), 0, 30, 7]
    assert found.documents_of_rows(asked) == [found.documents_of_row(row) for row in asked]
    assert [list(rows) for i in range(60) for rows in found.rows_of_document(f"s/{i}")] == [
        [row for row in range(len(packed)) if f"s/{i}" in {span.id for span in found.documents_of_row(row)}]
        for i in range(60)
    ]


@given(st.integers(1, 300), st.sampled_from([3, 257, 5000]), st.sampled_from([300, 70000]))
def test_rows_written_in_blocks_are_the_rows_written_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, count: int, width: int, vocabulary: int
) -> None:
    ids = np.random.default_rng(count).integers(0, vocabulary, (count if width < 5000 else 70, width), dtype=np.uint32)
    folder, step = tmp_path_factory.mktemp("rows"), rows_at_once(width)
    blocks = (ids[start : start + step] for start in range(0, len(ids), step))
    name = row_shard("blocks", 0)
    written = write_row_shard(folder, name, blocks, vocabulary)
    (expected,) = write_rows(folder, ids, "rows")
    assert (written.lines, written.bytes, written.sha256) == (expected.lines, expected.bytes, expected.sha256)
    assert (folder / name).read_bytes() == (folder / expected.path).read_bytes()
    check_shard(folder, written)


@pytest.mark.parametrize("num_rows", [0, 1, 64, 65, 1000])
def test_the_written_order_is_the_permutation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_rows: int) -> None:
    monkeypatch.setattr(rows_module, "SAMPLES_AT_ONCE", 128)
    shard = write_order(tmp_path / "o", "o", num_rows, seed=3)
    check_shard(tmp_path, shard)
    expected = permute(np.arange(num_rows, dtype=np.uint64), num_rows, 3, 0).tolist() if num_rows else []
    assert [json.loads(line) for line in read_lines(tmp_path / "o")] == [{"row": row} for row in expected]


def test_a_table_that_is_no_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "i.parquet").write_bytes(b"PAR1")
    with pytest.raises(EverystepError, match=re.escape(str(tmp_path / "i.parquet"))):
        DocumentIndex(tmp_path / "i.parquet", 4)
