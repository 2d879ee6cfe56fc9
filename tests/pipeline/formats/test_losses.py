"""The learning record: what is written is read, in less than 4 bytes a value, with the digest of the lines."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats.losses import KEYS, NAME, losses_batches, losses_schema, stored_revisions, write_losses
from pipeline.formats.tables import REMOVALS, digest_table, read_table, write_table
from tests.pipeline.formats.second_reader import canonical, digest_of_lines

REVISIONS = [f"step{step:06d}-tokens{step * 1024}" for step in (0, 1, 2, 4, 8, 16, 32, 64)]
ODD = [0.0, -0.0, 1.0, 16777216.0, 1e-7, -1e-7, 1e-6, 9.9e-6, 1e-5, 3e9, 1e20, 1e22, 1e-45, 3.4028235e38]
"""Numbers that JSON writes in its several ways."""


def keys_of(rows: int, context: int) -> pa.Table:
    count = rows * context
    places = np.arange(count)
    draw = np.random.default_rng(1)
    columns = {
        "split": ["validation"] * (count // 2) + ["train"] * (count - count // 2),
        "row": places // context,
        "position": (places % context + 1).astype(np.int32),
        "token": draw.integers(0, 2048, count).astype(np.int32),
        "source": np.array(["plays", "speeches"])[places // 100 % 2],
        "step": pa.array(places // context, mask=places < count // 2),
        "repetitions": pa.array(draw.integers(0, 3, count), mask=places % context < 15),
    }
    return pa.table(columns, schema=KEYS)


def losses_of(count: int) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(2)
    return {revision: np.abs(draw.normal(3, 2, count)).astype(np.float32) for revision in REVISIONS}


def test_a_record_is_read_as_it_was_written_in_less_than_4_bytes_a_value(tmp_path: Path) -> None:
    keys, losses = keys_of(40, 256), losses_of(40 * 256)
    shard = write_losses(tmp_path / NAME, NAME, keys, losses)
    assert stored_revisions(tmp_path / NAME) == REVISIONS
    read = pa.Table.from_batches(losses_batches(tmp_path / NAME, REVISIONS))
    assert read.select(KEYS.names).equals(keys)
    for revision, column in losses.items():
        assert read[revision].to_numpy().tobytes() == column.tobytes()
    assert (tmp_path / NAME).stat().st_size < 4 * keys.num_rows * len(REVISIONS)
    assert digest_table(tmp_path / NAME) == (shard.lines, shard.bytes, shard.sha256)


def test_the_digest_is_that_of_the_lines_as_canonical_json(tmp_path: Path) -> None:
    numbers = [*ODD, *np.random.default_rng(3).integers(0, 0x7F800000, 400, dtype=np.uint32).view(np.float32).tolist()]
    keys = keys_of(len(numbers), 1)
    column = np.array(numbers, dtype=np.float32)
    shard = write_losses(tmp_path / NAME, NAME, keys, {REVISIONS[0]: column})
    rows = read_table(tmp_path / NAME, losses_schema(REVISIONS[:1])).to_pylist()
    assert (shard.lines, shard.bytes, shard.sha256) == digest_of_lines([canonical(row).encode() for row in rows])


def test_a_loss_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match="canonical JSON"):
        write_losses(tmp_path / NAME, NAME, keys_of(1, 2), {REVISIONS[0]: np.array([1, np.nan], dtype=np.float32)})
    assert not (tmp_path / NAME).exists()


def test_other_tables_are_refused(tmp_path: Path) -> None:
    write_table(tmp_path / NAME, [], REMOVALS, NAME)
    with pytest.raises(EverystepError, match="not a record of losses: its columns are id, source"):
        stored_revisions(tmp_path / NAME)
    write_losses(tmp_path / NAME, NAME, keys_of(1, 2), {REVISIONS[0]: np.zeros(2, dtype=np.float32)})
    with pytest.raises(EverystepError, match="its columns are"):
        list(losses_batches(tmp_path / NAME, REVISIONS))
