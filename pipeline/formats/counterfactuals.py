"""A table of counterfactuals: exact trainings without some documents, and predictions of what they would give.

A folder with

    manifest.json      which stretch of which training, digests, and how well each prediction agrees
    groups.parquet     the documents of each group
    runs.parquet       what came out without each group: digests of weights and state
    effects.parquet    for each group and each loss that is asked about: what came out, and what was predicted

The tables are those of `pipeline.formats.tables`: their digests are of their rows, whichever library wrote them.
"""

from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from pipeline.base.files import read_small
from pipeline.formats.bounds import MAX_STEPS
from pipeline.formats.checkpoints import Numerics
from pipeline.formats.lines import Shard
from pipeline.formats.tables import check_table
from pipeline.formats.typed import Count, Sha256, TensorsDigest, Typed

FORMAT: Literal["everystep/counterfactuals/1"] = "everystep/counterfactuals/1"
MANIFEST = "manifest.json"
PREDICTIONS = ("sgd", "adamw", "unrolled", "overlap")
"""Columns of `effects.parquet` with a prediction."""

GROUPS = pa.schema(
    [
        pa.field("group", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("document", pa.string(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),  # that the stretch reads of it
    ]
)
RUNS = pa.schema(
    [
        pa.field("group", pa.int64(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
        pa.field("weights_digest", pa.string(), nullable=False),
        pa.field("state_digest", pa.string(), nullable=False),
        pa.field("distance", pa.float64(), nullable=False),  # of the weights from the published ones, L2
    ]
)
EFFECTS = pa.schema(
    [
        pa.field("group", pa.int64(), nullable=False),
        # The loss that is asked about: of a held-out row, or of all held-out targets of a source; the other is null.
        pa.field("row", pa.int64()),
        pa.field("source", pa.string()),
        pa.field("targets", pa.int64(), nullable=False),
        pa.field("change", pa.float32(), nullable=False),  # of the mean loss in nats, without the group
        *(pa.field(name, pa.float32()) for name in PREDICTIONS),
    ]
)
TABLES = {"groups": GROUPS, "runs": RUNS, "effects": EFFECTS}


class End(Typed):
    """A published state at an end of the stretch."""

    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Its step."""
    state_digest: TensorsDigest
    """Its digest."""


class Agreement(Typed):
    """How well a prediction agrees with the exact runs, over the targets of one kind."""

    prediction: str
    """Column of `effects.parquet`, or `random`."""
    targets: Literal["rows", "sources"]
    """Losses that were asked about: of each held-out row, or of each source."""
    score: float
    """Linear datamodeling score."""
    low: float
    """Lower end of its interval of 95 %."""
    high: float
    """Upper end."""


class Counterfactuals(Typed):
    """The manifest of a table."""

    format: Literal["everystep/counterfactuals/1"]
    """Version of this form."""
    model: str
    """Name of the model."""
    start: End
    """State that each training starts from."""
    stop: End
    """State that the published training reached."""
    rows: Sha256
    """SHA-256 of the lines of the shards of training rows, one digest a line."""
    groups: Count
    """Number of groups, and of runs."""
    moved: float
    """Distance of the published weights at the two ends (L2)."""
    outputs: dict[str, Shard]
    """Table → its file and the digest of its rows."""
    agreement: list[Agreement]
    """What each prediction is worth."""
    numerics: Numerics
    """What decided the bits besides data, code and recipe."""
    code: Sha256
    """Digest of the code that made it (docs/formats.md, 11.1)."""


def read_counterfactuals(folder: Path) -> Counterfactuals:
    """Read a table's manifest, and compare the rows of its files with it."""
    manifest = Counterfactuals.parse(read_small(folder / MANIFEST), folder / MANIFEST)
    for shard in manifest.outputs.values():
        check_table(folder, shard)
    return manifest
