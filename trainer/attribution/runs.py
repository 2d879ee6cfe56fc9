"""The exact runs: a stretch trained again without some groups of documents, and what it does to the held-out rows.

Each is what `everystep whatif --without` computes, in one process. The first leaves nothing out and must come out as it
was published, so a table can only be made where the machine gives the published bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import Differs
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.forgotten import Forgotten
from pipeline.formats.order import permute
from trainer.attribution.pieces import Piece
from trainer.changes import Change
from trainer.counterfactual import distance_of, train_changed
from trainer.replay import Course, entry_fault

if TYPE_CHECKING:
    from trainer.loop import Trainer

PUBLISHED = "published"
"""Name of the run that leaves nothing out."""
HALVES_SEED = 1
"""Seed of the random halves."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs of one stretch: which groups each leaves out, and what each is asked afterwards."""

    course: Course
    published: Path
    """Folder of the published state at the end of the stretch."""
    spans: list[Forgotten]
    """What a training does not see without each group."""
    left_out: dict[str, list[int]]
    """Name of the run → groups that it leaves out; `published` leaves out none."""
    rows: NDArray[np.int64]
    """Held-out rows, shape (rows, width)."""
    micro_batch: int
    """Rows whose losses are computed at a time."""

    def without(self, groups: Sequence[int]) -> Change:
        """The change that leaves these groups out."""
        if not groups:
            return Change()
        first, *others = (self.spans[group] for group in groups)
        for spans in others:
            first = first.with_more(first.lacks(spans))
        return Change(forgotten=first)


def names_of_runs(num_groups: int, num_halves: int) -> dict[str, list[int]]:
    """Name the runs: the published one, one without each group, and some without a random half of the groups, which
    the order of Everystep draws (docs/formats.md, 8)."""
    singles = {f"without-{group:02}": [group] for group in range(num_groups)}
    half = np.arange(num_groups // 2, dtype=np.uint64)
    drawn = [sorted(permute(half, num_groups, HALVES_SEED, number).tolist()) for number in range(num_halves)]
    return {PUBLISHED: []} | singles | {f"half-{number:02}": groups for number, groups in enumerate(drawn)}


def run(trainer: "Trainer", runs: Runs, name: str) -> Piece:
    """Train one run to its end: losses of the held-out targets, digests, distance from the published weights."""
    import torch

    (stretch,) = runs.course.stretches
    groups = runs.left_out[name]
    for entry in train_changed(trainer, runs.course, runs.without(groups)):
        if not groups and (fault := entry_fault(entry, stretch.entries[entry.step])):
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
