"""The learning record of a model: the loss of every held-out token, and of a fixed sample of training tokens, at every
stored checkpoint (`results/MODEL/losses.parquet`).

A line is a target: id `position` of a row, predicted from the ids before it in the row. Held-out rows come first, then
the sampled training rows, each split by row number, each row by position. The losses are columns: one of float32 for
each stored checkpoint, with its revision as its name, ascending by step. A loss is in nats.

The sample is fixed by the order of the training rows: for each stored checkpoint, the first `train_rows` rows of the
batch that the step to it read (state `step - 1` to `step`). So models that read the same order have the same sample
where their checkpoints have the same steps, and a row is there before it was read, right after, and later.

Values take less than 4 bytes each, keys included: bytes of equal rank are stored together (`BYTE_STREAM_SPLIT`). The
digest is that of any table, the lines as canonical JSON, so it depends on no writer; a loss is written as the double
that equals it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.base.arrow import arrow_numbers
from pipeline.base.errors import EverystepError
from pipeline.base.parquet import open_parquet
from pipeline.formats.lines import Shard
from pipeline.formats.tables import BATCH, column_batches, write_batches

NAME = "losses.parquet"
HELD_OUT, TRAINED_ON = "validation", "train"
"""Values of the column `split`."""
RUN = 17
"""Ids of the run whose occurrences `repetitions` counts: the target and the 16 ids before it."""

KEYS = pa.schema(
    [
        pa.field("split", pa.string(), nullable=False),  # validation or train
        pa.field("row", pa.int64(), nullable=False),  # number of the row in its split
        pa.field("position", pa.int32(), nullable=False),  # of the target in the row: 1 to context
        pa.field("token", pa.int32(), nullable=False),  # id of the target
        pa.field("source", pa.string(), nullable=False),  # of the document that the target belongs to
        # The step that read the row, for which it is in the sample: the first, if there are several. Null: held out.
        pa.field("step", pa.int64()),
        # Occurrences of the target with the 16 ids before it in the rows that the training of this model read until its
        # last checkpoint, a row counted as often as it was read. Null: fewer ids are before it in the row.
        pa.field("repetitions", pa.int64()),
    ]
)


def losses_schema(revisions: Sequence[str]) -> pa.Schema:
    """Give the columns of a record of these checkpoints: the keys, then a column of losses for each."""
    return pa.schema([*KEYS, *(pa.field(revision, pa.float32(), nullable=False) for revision in revisions)])


def write_losses(path: Path, name: str, keys: pa.Table, losses: Mapping[str, NDArray[np.float32]]) -> Shard:
    """Write a record: the key columns, and for each revision the losses of these lines, shape (lines,)."""
    schema = losses_schema([*losses])
    columns = [*keys.select(KEYS.names).columns, *(arrow_numbers(column) for column in losses.values())]
    return write_batches(path, pa.table(columns, schema=schema).to_batches(BATCH), schema, name)


def stored_revisions(path: Path) -> list[str]:
    """List the revisions whose losses a file holds; one with other columns than a record is refused."""
    with open_parquet(path) as file:
        schema = file.schema_arrow
    revisions: list[str] = schema.names[len(KEYS) :]
    if not schema.equals(losses_schema(revisions)):
        raise EverystepError(f"{path}: not a record of losses: its columns are {', '.join(schema.names)}")
    return revisions


def losses_batches(
    path: Path, revisions: Sequence[str], columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Read some columns of a record of exactly these revisions (all columns, if none are named), some lines at a
    time."""
    schema = losses_schema(revisions)
    yield from column_batches(path, schema, schema.names if columns is None else columns)
