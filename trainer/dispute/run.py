"""One step of a run, trained again by this machine and written down."""

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.paths import RECIPES
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.manifests import Tokens
from pipeline.formats.transcript import FORMAT, Head, Transcript
from pipeline.release.release import Release
from trainer.data import own_rows
from trainer.launch import launch
from trainer.recipe import load_recipe
from trainer.replay import Course, course, entry_fault, state_at

if TYPE_CHECKING:
    from torch import Tensor

    from trainer.dispute.record import RecordedTrainer
    from trainer.loop import Trainer
    from trainer.parallel import World


class Recorded(NamedTuple):
    """A transcript; `read` has what the opened operation read, in the order of memory."""

    transcript: Transcript
    read: list[bytes]


def record(release: Release, model: str, step: int, opened: int | None = None) -> Recorded:
    """Train the step that led to the state of `step`, from the last stored state before it, and write it down.

    One process computes it: its bits are those of any number. May restart this program, to enter the numerics class.
    """
    trained = release.model(model)
    if trained.parameters.to_json().get("compiled"):
        raise EverystepError(
            f"{model}: compiled: true; a compiler fuses operators, so a step of this recipe has no transcript"
        )
    first, last = trained.parameters.begun_at, trained.parameters.schedule.steps
    if not first < step <= last:
        raise EverystepError(f"--step {step}: give a step from {first + 1} to {last}")
    start = max([other for other in trained.stored_steps if other < step], default=first)
    rows = {name: digest for name, digest in trained.inputs.items() if not name.startswith("recipes/")}
    with course(release, model, [(state_at(release, model, start), step)]) as found:
        recorded: Recorded = launch(_record, 1, found.recipe.numerics, found, rows, opened)
    return recorded


def _record(world: "World", course: Course, rows: dict[str, str], opened: int | None) -> Recorded:
    from trainer.dispute.record import RecordedTrainer
    from trainer.loop import Trainer

    (stretch,) = course.stretches
    trainer = Trainer(world, course.recipe, course.spec, course.data)
    trainer.load(stretch.checkpoint)
    while trainer.step < stretch.stop - 1:
        entry = trainer.train_step()
        if fault := entry_fault(entry, stretch.entries[entry.step]):
            raise Differs(f"{course.recipe.name}: step {entry.step} does not come out as it is logged: {fault}")
    head = head_of(trainer, rows)
    return recorded_step(RecordedTrainer(trainer, opened), head)


def head_of(trainer: "Trainer", rows: dict[str, str]) -> Head:
    """Describe the next step of a trainer."""
    weights, moments = trainer.state()
    tree = {
        "format": FORMAT,
        "model": trainer.recipe.name,
        "step": trainer.step + 1,
        "recipe": trainer.recipe.to_json(),
        "rows": rows,
        "state_before": ck.state_digest(tensors_digest(weights), tensors_digest(moments), trainer.step),
        "numerics": trainer.numerics(),
    }
    return Head.from_json(tree, "a transcript")


def recorded_step(recording: "RecordedTrainer", head: Head) -> Recorded:
    """Train the next step and write it down."""
    entry = recording.record()
    return Recorded(Transcript(head, recording.recorder.operations, entry), recording.recorder.read)


def read_rows(release: Release, model: str, numbers: list[int]) -> "Tensor":
    """Read rows of a release by number, after comparing the digests of their shards."""
    import torch

    release.file(RECIPES / f"{model}.yaml")
    recipe, spec = load_recipe(model, release.folder)
    if recipe.data.layout != "everystep":
        raise EverystepError(f"{model}: rows that others published are compared with their files, by hand")
    data = own_rows(release.folder, recipe, spec, release.manifest(Tokens), None)
    rows = data.open()
    if not numbers or not 0 <= min(numbers) <= max(numbers) < len(rows):
        raise Differs(f"there are no such rows: {numbers}; the release has {len(rows)}")
    ends = list(accumulate(shard.lines for shard in data.shards))
    for shard in sorted({bisect_right(ends, number) for number in numbers}):
        release.file(f"{recipe.data.folder}/{data.shards[shard].path}")
    rows.check(numbers)
    return torch.from_numpy(np.stack([rows[number] for number in numbers]))
