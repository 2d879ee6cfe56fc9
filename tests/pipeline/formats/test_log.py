"""The log: written line by line, cut by kills, read back whole; CSV and JSONL say the same."""

import csv
from pathlib import Path

import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.files import MAX_LINE_BYTES
from pipeline.formats import log


def entries(count: int) -> list[log.Entry]:
    return [
        log.Entry(
            step=i,
            tokens=i * 10,
            loss=1 / i,
            gradient_norm=0.5,
            learning_rate=1e-7 * i,
            weights_digest=None if i % 2 else f"tensors-v1:{i:064}",
        )
        for i in range(1, count + 1)
    ]


def test_half_a_line_behind_the_wanted_step_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / log.JSONL
    for entry in entries(5):
        log.append(path, entry)
    content = path.read_bytes()
    for cut in range(content.index(b"\n", 200) + 1, len(content)):
        path.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        assert log.read_until(path, whole) == entries(5)[:whole]


def test_a_log_of_a_fork_begins_after_the_step_of_its_parent(tmp_path: Path) -> None:
    path = tmp_path / log.JSONL
    for entry in entries(6)[2:]:
        log.append(path, entry)
    assert log.read_until(path, 4, begun_at=2) == entries(4)[2:]
    assert log.read_until(path, 2, begun_at=2) == []
    with pytest.raises(EverystepError, match="does not hold the steps 3 to 7; remove"):
        log.read_until(path, 7, begun_at=2)


def test_missing_steps_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / log.JSONL
    log.append(path, entries(1)[0])
    with pytest.raises(EverystepError, match="does not hold the steps 1 to 3; remove"):
        log.read_until(path, 3)


def test_a_finished_log_is_read_one_line_at_a_time(tmp_path: Path) -> None:
    """So a reader that wants a few steps holds a few, and a hostile line after them costs nothing."""
    log.write(tmp_path, entries(4))
    path = tmp_path / log.JSONL
    path.write_bytes(path.read_bytes() + b"[" * (2 * MAX_LINE_BYTES))
    read = log.read(path)
    assert [next(read) for _ in range(4)] == entries(4)
    with pytest.raises(EverystepError, match="a line has no line end"):
        next(read)


def test_csv_and_jsonl_hold_the_same(tmp_path: Path) -> None:
    log.write(tmp_path, entries(4))
    assert list(log.read(tmp_path / log.JSONL)) == entries(4)
    rows = list(csv.DictReader((tmp_path / log.CSV).read_text().splitlines()))
    assert [float(row["loss"]) for row in rows] == [entry.loss for entry in entries(4)]
    assert [row["weights_digest"] for row in rows] == ["", f"tensors-v1:{2:064}", "", f"tensors-v1:{4:064}"]
