from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats.ngrams import NGRAMS, NGRAMS_FILE, read_ngrams, write_ngrams
from pipeline.formats.tables import check_table, write_table

HASHES = np.array([0, 1, 2**53 + 1, 2**63, 2**64 - 1], dtype=np.uint64)
OWNERS = [("boolq", "17"), ("sciq", "é/1"), ("boolq", "3"), ("a", ""), ("a", "x y")]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    shard = write_ngrams(tmp_path, HASHES, OWNERS)
    hashes, owner_of = read_ngrams(tmp_path)
    assert hashes.dtype == np.uint64
    assert hashes.tolist() == HASHES.tolist()
    assert [owner_of(place) for place in range(len(HASHES))] == OWNERS
    assert shard.lines == len(HASHES)
    check_table(tmp_path, shard)


def test_no_ngrams_are_an_empty_table(tmp_path: Path) -> None:
    write_ngrams(tmp_path, HASHES[:0], [])
    assert read_ngrams(tmp_path)[0].shape == (0,)


@pytest.mark.parametrize(
    "column", [["0" * 15 + "1", "0" * 16], ["0" * 16] * 2, ["0" * 15, "1" * 17], ["g" * 16, "h" * 16]]
)
def test_a_damaged_table_is_refused(tmp_path: Path, column: list[str]) -> None:
    rows = [{"hash": value, "set": "s", "item": "1"} for value in column]
    write_table(tmp_path / NGRAMS_FILE, rows, NGRAMS, NGRAMS_FILE)
    with pytest.raises(EverystepError, match=r"ngrams\.parquet: (a hash is not|its hashes are not sorted)"):
        read_ngrams(tmp_path)
