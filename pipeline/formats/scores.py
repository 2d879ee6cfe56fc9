"""Scores of a model on the tasks: the table of every choice, and a line for each checkpoint, task and metric.

`scores/MODEL/items.parquet` has what the model says of each choice of each item, from which the lines of
`scores/MODEL/scores.jsonl` follow (`pipeline.release.metrics`).
"""

from typing import Annotated

import pyarrow as pa
from pydantic import Field

from pipeline.formats.bounds import MAX_STEPS
from pipeline.formats.typed import Count, Typed

ITEMS_FILE, SCORES_FILE = "items.parquet", "scores.jsonl"

# One line for each choice, by checkpoint, task and item, in the order of the data. Of an item that is too long for the
# model, nothing is computed: `log_likelihood` and `greedy` are null in each of its choices.
SCORED_ITEMS = pa.schema(
    [
        pa.field("task", pa.string(), nullable=False),
        pa.field("item", pa.string(), nullable=False),
        pa.field("choice", pa.int64(), nullable=False),
        pa.field("revision", pa.string(), nullable=False),
        pa.field("log_likelihood", pa.float64()),
        pa.field("greedy", pa.bool_()),
        pa.field("gold", pa.bool_(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("characters", pa.int64(), nullable=False),
    ]
)


class Score(Typed):
    """A metric of a task at a checkpoint: a line of `scores.jsonl`."""

    revision: str
    """Name of the checkpoint."""
    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Its step."""
    task: str
    """Name of the task."""
    metric: str
    """`acc`, `acc_norm`, `perplexity` or `bits_per_byte`."""
    value: float | None
    """Its value; null if no item is short enough."""
    standard_error: float | None
    """Its standard error; null for fewer than two items."""
    items: Count
    """Items that were scored."""
    too_long: Count
    """Items that do not fit the model's context, and are in no metric."""
    chance: Annotated[float, Field(ge=0, le=1)] | None
    """What guessing gives; null where guessing means nothing."""
    within_noise: bool | None
    """Whether it is at most two standard errors from chance; null without chance or standard error."""
