"""The exact runs: a stretch trained again without a group of documents, and what it does to the held-out rows.

Each is what `everystep whatif --without` computes, in one process. The first leaves nothing out and must come out as it
was published, so a table can only be made where the machine gives the published bits.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import Differs
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.forgotten import Forgotten
from trainer.attribution.pieces import Piece
from trainer.changes import Change
from trainer.counterfactual import distance_of, train_changed
from trainer.replay import Course, entry_fault

if TYPE_CHECKING:
    from trainer.loop import Trainer

PUBLISHED = "published"
"""Name of the run that leaves nothing out."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of one stretch: which groups each leaves out, and what each is asked afterwards."""

    course: Course
    published: Path
    """Folder of the published state at the end of the stretch."""
    spans: list[Forgotten]
    """What a training does not see without each group."""
    rows: NDArray[np.int64]
    """Held-out rows, shape (rows, width)."""
    micro_batch: int
    """Rows whose losses are computed at a time."""


def name_of(group: int) -> str:
    """Name the run without a group."""
    return f"without-{group:02}"


def run(trainer: "Trainer", runs: Runs, group: int | None) -> Piece:
    """Train without a group, or as published, to the end: losses of the held-out targets, digests, distance from the
    published weights."""

    import torch

    (stretch,) = runs.course.stretches
    change = Change() if group is None else Change(forgotten=runs.spans[group])
    for entry in train_changed(trainer, runs.course, change):
        if group is None and (fault := entry_fault(entry, stretch.entries[entry.step])):
            raise Differs(f"{runs.course.recipe.name}: step {entry.step} does not come out as published: {fault}")
    weights, moments = trainer.state()
    digests = tensors_digest(weights), tensors_digest(moments)
    batches = [
        trainer.model.losses(torch.from_numpy(runs.rows[start : start + runs.micro_batch]))
        for start in range(0, len(runs.rows), runs.micro_batch)
    ]
    return {
        "losses": torch.cat(batches).numpy(),
        "weights_digest": np.array(digests[0]),
        "state_digest": np.array(ck.state_digest(*digests, trainer.step)),
        "distance": np.array(distance_of(weights, ck.read_verified(runs.published, ck.WEIGHTS))),
        "moved": np.array(distance_of(weights, ck.read_verified(stretch.checkpoint, ck.WEIGHTS))),
    }
