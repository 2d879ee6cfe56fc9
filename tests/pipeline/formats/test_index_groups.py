"""The document index by its row groups: the answers of the whole index, from the bytes of a few groups."""

import random
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats import tables
from pipeline.formats.index_groups import documents_of_rows
from pipeline.formats.rows import DocumentIndex
from pipeline.formats.tables import DOCUMENT_INDEX, group_digests, write_batches
from tests.pipeline.formats import second_reader as second

WIDTH = 4


class Here:
    """A window on a file of this machine, which counts what it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.asked: list[range] = []

    def need(self, start: int, stop: int) -> None:
        self.asked.append(range(start, stop))


class Holes(Here):
    """A window on a copy that has only what was asked for; the rest is zeros."""

    def __init__(self, path: Path, folder: Path) -> None:
        super().__init__(path)
        self.whole = path.read_bytes()
        self.path = folder / "holes.parquet"
        self.path.write_bytes(bytes(self.size))

    def need(self, start: int, stop: int) -> None:
        super().need(start, stop)
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(self.whole[start:stop])


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str], int]:
    """An index of twelve row groups, their digests, and the number of rows."""
    monkeypatch.setattr(tables, "BATCH", 5)
    draw = random.Random(3)
    packed, entries, _ = second.pack([[1] * draw.choice([0, 1, 3, 6, 30]) for _ in range(60)], 0, WIDTH)
    path = tmp_path / "train.parquet"
    about = {"source": "s", "license": "l", "text_sha256": "0" * 64, "bytes": 1}
    lines = [{"id": f"s/{number}"} | about | entry for number, entry in enumerate(entries)]
    batch = pa.RecordBatch.from_pylist(lines, schema=DOCUMENT_INDEX)
    shard = write_batches(path, [batch], DOCUMENT_INDEX, path.name, in_parts=True)
    assert shard.groups == group_digests(path, DOCUMENT_INDEX)
    assert shard.groups is not None and len(shard.groups) == 12
    return path, shard.groups, len(packed)


def test_each_row_holds_what_the_whole_index_says(index: tuple[Path, list[str], int]) -> None:
    path, groups, num_rows = index
    whole = DocumentIndex(path, WIDTH, num_rows)
    rows = [*range(num_rows), 0, 7]
    assert documents_of_rows(Here(path), groups, WIDTH, num_rows, rows) == whole.documents_of_rows(rows)


def test_a_row_needs_the_footer_and_one_or_two_groups(index: tuple[Path, list[str], int], tmp_path: Path) -> None:
    path, groups, num_rows = index
    whole = DocumentIndex(path, WIDTH, num_rows)
    for row in range(num_rows):
        holes = Holes(path, tmp_path)
        assert documents_of_rows(holes, groups, WIDTH, num_rows, [row]) == [whole.documents_of_row(row)]
        assert 2 <= len(holes.asked) <= 4  # the footer, and a group more where a group begins within the row


def test_a_footer_longer_than_the_first_look_is_brought_whole(
    index: tuple[Path, list[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, groups, num_rows = index
    monkeypatch.setattr("pipeline.formats.index_groups.TAIL_BYTES", 64)
    whole = DocumentIndex(path, WIDTH, num_rows)
    holes = Holes(path, tmp_path)
    assert documents_of_rows(holes, groups, WIDTH, num_rows, [3]) == [whole.documents_of_row(3)]


def test_lines_that_are_not_the_promised_ones_are_refused(index: tuple[Path, list[str], int], tmp_path: Path) -> None:
    path, groups, num_rows = index
    other = ["0" * 64 if number == 4 else digest for number, digest in enumerate(groups)]
    whole = DocumentIndex(path, WIDTH, num_rows)
    refused = 0
    for row in range(num_rows):
        try:
            found = documents_of_rows(Here(path), other, WIDTH, num_rows, [row])
        except EverystepError as error:
            assert "row group 4 are not the ones the manifest promises" in str(error)
            refused += 1
        else:
            assert found == [whole.documents_of_row(row)]
    assert 0 < refused < num_rows


def test_a_footer_that_points_elsewhere_gives_no_answer(
    index: tuple[Path, list[str], int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the statistics claim, the documents of the group that is read must fill the row."""
    path, groups, num_rows = index
    monkeypatch.setattr("pipeline.formats.index_groups._first_row", lambda file, group: group * 1000)
    with pytest.raises(EverystepError, match="its documents do not fill row"):
        documents_of_rows(Here(path), groups, WIDTH, num_rows, [num_rows - 1])


def test_another_number_of_groups_and_a_cut_file_are_refused(
    index: tuple[Path, list[str], int], tmp_path: Path
) -> None:
    path, groups, num_rows = index
    with pytest.raises(EverystepError, match="has 12 row groups, the manifest promises 11"):
        documents_of_rows(Here(path), groups[1:], WIDTH, num_rows, [0])
    cut = tmp_path / "cut.parquet"
    shutil.copyfile(path, cut)
    cut.write_bytes(cut.read_bytes()[:-9])
    with pytest.raises(EverystepError, match="not a readable parquet file"):
        documents_of_rows(Here(cut), groups, WIDTH, num_rows, [0])
    with pytest.raises(EverystepError, match="row 99999"):
        documents_of_rows(Here(path), groups, WIDTH, num_rows, [99999])
