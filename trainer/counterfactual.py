"""Counterfactual: a stretch of a run trained again with exactly one thing changed (`everystep whatif`).

The code and the inputs are those of a replay (`trainer.replay`), so what differs at the end is what the change did, and
nothing else: there is no noise to average away. Before anything is changed, the first step is repeated as it was
published; on a machine that gives other bits there, nothing is concluded.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.paths import TOKENIZER
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.digests import tensors_digest
from pipeline.formats.manifests import Checkpoint, Evaluated, SourceResult
from pipeline.formats.vocabulary import token_bytes
from pipeline.release.first_state import first_state_faults
from pipeline.release.release import Release, State, Stored
from pipeline.release.results import HeldOut
from pipeline.release.targets import Targets, targets_of_release
from trainer.changes import Change
from trainer.launch import launch_training
from trainer.losses import Losses, compute_losses
from trainer.replay import Course, Stretch, course, entry_fault

if TYPE_CHECKING:
    from trainer.checkpoint import Tensors
    from trainer.loop import Trainer
    from trainer.parallel import World


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came out of a changed training."""

    record: ck.Record
    """The state at its end. Revision, step and tokens are those of the published state there."""
    folder: Path
    """The files of that state, for as long as the context lasts."""
    first_difference: int | None
    """The first step whose entry is not the published one: loss, gradient norm, rate or weights; null if none is."""
    distance: float
    """Distance of the weights from the published ones at the end (L2)."""
    moved: float
    """Distance that the published weights moved in the stretch."""
    held_out: list[tuple[SourceResult, SourceResult]]
    """Results on each held-out source, published and changed; empty if the release has no evaluation of the model."""


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What the processes of a changed training are given."""

    change: Change
    published: Path
    """Folder of the published state at the end."""
    out: Path
    """New folder for the state that comes out."""
    targets: Targets | None
    micro_batch: int


@dataclass(frozen=True)
class _Trained:
    """What rank 0 gives back."""

    record: ck.Record
    first_difference: int | None
    distance: float
    moved: float
    losses: Losses
    """Of the published and of the changed state, on the held-out rows."""


@contextmanager
def counterfactual(release: Release, start: State, stop: State, change: Change) -> Iterator[Outcome]:
    """Train from `start` to the step of `stop`, a published state of the same model, with one thing changed. Both
    states must have their bytes. May restart this program, to enter the numerics class of the model."""
    if start.step == 0 and (fault := next(first_state_faults(release, stop.model), None)):
        raise Differs(fault)
    require_moments(release, start)
    seeds = [] if change.order is None else [change.order]
    evaluated = stop.model in release.names(Evaluated)
    targets = targets_of_release(release, stop.model) if evaluated else None
    micro_batch = release.manifest(Evaluated, stop.model).parameters.micro_batch if evaluated else 0
    with (
        course(release, stop.model, [(start, stop.step)], seeds) as found,
        TemporaryDirectory(prefix="everystep-whatif-") as scratch,
    ):
        out = Path(scratch) / "state"
        out.mkdir()
        asked = _Asked(
            change=change,
            published=stop.file(ck.WEIGHTS).parent,
            out=out,
            targets=targets,
            micro_batch=micro_batch,
        )
        trained: _Trained = launch_training(_counterfactual, found.recipe, found, asked)
        held_out: list[tuple[SourceResult, SourceResult]] = []
        if targets is not None:
            rows = HeldOut.of(targets, token_bytes(release.file(TOKENIZER)))
            sides = ((stop.entry, trained.losses[0]), (Checkpoint.of_record(trained.record), trained.losses[1]))
            published, changed = (rows.results([entry], {entry.revision: losses})[1] for entry, losses in sides)
            held_out = list(zip(published, changed, strict=True))
        yield Outcome(
            record=trained.record,
            folder=out,
            first_difference=trained.first_difference,
            distance=trained.distance,
            moved=trained.moved,
            held_out=held_out,
        )


def require_moments(release: Release, state: State) -> None:
    """Refuse a state that has come without its moments: from weights alone no training goes on to the same bits."""
    if release.mirror is not None or not isinstance(state, Stored):
        return
    stored = release.states(state.model).values()
    whole = [other.step for other in stored if (release.folder / other.folder / ck.OPTIMIZER).is_file()]
    if state.step not in whole:
        known = f"the moments of {', '.join(map(str, whole))} are" if whole else "no moments are"
        raise EverystepError(
            f"{release.folder / state.folder / ck.OPTIMIZER}: no such file; a training goes on from weights and "
            f"moments, and {known} here: give one of these as --from, or fetch the release again"
        )


def require_same_bits(trainer: "Trainer", stretch: Stretch) -> None:
    """Repeat the first step of a stretch as it was published; raise `Differs` if it does not come out so here."""
    trainer.load(stretch.checkpoint)
    entry = trainer.train_step()
    fault = entry_fault(entry, stretch.entries[entry.step])
    if fault is not None:
        about = trainer.recipe
        raise Differs(
            f"{about.name}: with nothing changed, step {entry.step} does not come out here as it was published "
            f"({fault}). It was trained in the class {about.numerics}"
            + (", which has the same bits only on the same kind of machine" if about.numerics == "native" else "")
            + "; what a change does could not be told from what this machine does"
        )


def train_changed(trainer: "Trainer", published: Course, change: Change) -> Iterator[log.Entry]:
    """Train the one stretch of a course with the change; yield the entry of each step."""
    (stretch,) = published.stretches
    trainer.recipe, trainer.data = change.recipe(published.recipe), change.data(published.data)
    trainer.load(stretch.checkpoint)
    while trainer.step < stretch.stop:
        yield trainer.train_step()


def _counterfactual(world: "World", published: Course, asked: _Asked) -> _Trained:
    """Train in one process among its peers; the first of them writes."""
    from trainer.checkpoint import write_state
    from trainer.sharded import trainer_of

    (stretch,) = published.stretches
    trainer = trainer_of(world, published.recipe, published.spec, published.data)
    require_same_bits(trainer, stretch)
    first_difference, entry = None, None
    num_steps = stretch.stop - stretch.start
    with progress(f"what if: {published.recipe.name}", num_steps, "steps", quiet=world.rank != 0) as advance:
        for entry in train_changed(trainer, published, asked.change):
            if first_difference is None and entry_fault(entry, stretch.entries[entry.step]):
                first_difference = entry.step
            advance(1, f"step {entry.step} of {stretch.stop}")
    assert entry is not None
    weights, moments = trainer.state()
    record = _record(trainer, entry, stretch, weights, moments)
    distance = moved = 0.0
    if world.rank == 0:
        write_state(asked.out, record, published.spec, weights, moments)
        there, before = (ck.read_verified(place, ck.WEIGHTS) for place in (asked.published, stretch.checkpoint))
        distance, moved = distance_of(weights, there), distance_of(there, before)
    world.gather_floats([distance])  # the others wait until the state is written
    losses: Losses = np.empty((2, 0, 0), dtype=np.float32)
    if asked.targets is not None:
        rows = asked.targets.rows[: asked.targets.num_held_out]
        folders = [asked.published, asked.out]
        losses = compute_losses(world, published.recipe.name, published.spec, folders, rows, asked.micro_batch)
    return _Trained(record, first_difference, distance, moved, losses)


def _record(
    trainer: "Trainer", entry: log.Entry, stretch: Stretch, weights: "Tensors", moments: "Tensors"
) -> ck.Record:
    digests = tensors_digest(weights), tensors_digest(moments)
    return ck.Record(
        format=ck.FORMAT,
        model=trainer.recipe.name,
        revision=ck.revision(entry.step, entry.tokens),
        step=entry.step,
        tokens=entry.tokens,
        applied_updates=entry.step,
        learning_rate=entry.learning_rate,
        loss=entry.loss,
        weights_digest=digests[0],
        optimizer_digest=digests[1],
        state_digest=ck.state_digest(*digests, entry.step),
        parent=ck.read_record(stretch.checkpoint).state_digest,
        storage="stored",
        nearest_stored_step=entry.step,
        digest_interval=trainer.recipe.digest_every,
        numerics=ck.Numerics.from_json(trainer.numerics(), "numerics"),
    )


def distance_of(one: ck.Tensors, other: ck.Tensors) -> float:
    """The L2 distance of two states' tensors of the same names, in float64."""
    squares = [np.square(one[name].astype(np.float64) - other[name].astype(np.float64)).sum() for name in sorted(one)]
    return float(np.sqrt(sum(squares)))
