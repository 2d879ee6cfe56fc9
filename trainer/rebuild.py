"""Rebuild: virtual states get their bytes back, by replay from the stored states before them.

One replay serves all states that are wanted. On the way every entry of the log is compared, as by `trainer.replay`, and
at a wanted step the digest of the weights is among them; only then is the state written, whole or not at all, into the
cache (`pipeline.release.rebuilt`). It is what a training with that step on its schedule would have written, but for
`storage`, `nearest_stored_step` and `parent` in its record.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.base.console import note
from pipeline.base.errors import Differs
from pipeline.base.files import TEMPORARY_SUFFIX, new_folder
from pipeline.base.locks import in_turn
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.model import ModelSpec
from pipeline.release import rebuilt
from pipeline.release.release import Release, Stored, Virtual
from trainer import numerics
from trainer.launch import launch_training
from trainer.replay import Course, course, retrace

if TYPE_CHECKING:
    from trainer.checkpoint import Tensors
    from trainer.parallel import World

Wanted = dict[int, tuple[Path, ck.Record]]
"""Step → the folder that the state belongs in, and the record of the stored state before it."""


def rebuild(release: Release, states: Sequence[Virtual]) -> None:
    """Rebuild these states of one model, unless the cache has them. A second process waits, and finds them there.

    Raises `Differs` if a step does not come out as released: neither it nor a later one is kept. May restart this
    program, to enter the numerics class of the model.
    """
    if not states:
        return
    model, folder = states[0].model, states[0].place.parent
    numerics.prepare(release.model(model).numerics.name)  # may restart this program, so it comes before the lock
    with in_turn(folder / "lock", f"{model}: another process rebuilds its states; waiting for it") as everywhere:
        missing = [state for state in states if not state.is_rebuilt()]
        if not missing:
            return
        with course(release, model, _stretches(missing)) as found:
            for state in missing:
                if state.damage is not None:
                    note(f"note: the copy in the cache is damaged, and is rebuilt: {state.damage}")
            if everywhere:
                _sweep(folder)
            wanted = {state.step: (state.place, state.nearest.record) for state in missing}
            launch_training(_rebuild, found.recipe, found, wanted)


def _stretches(states: Sequence[Virtual]) -> list[tuple[Stored, int]]:
    """For each stored state that is needed, how far to train from it."""
    ends: dict[int, tuple[Stored, int]] = {}
    for state in sorted(states, key=lambda state: state.step):
        ends[state.nearest.step] = (state.nearest, state.step)
    return list(ends.values())


def _sweep(folder: Path) -> None:
    """Remove what a killed process left. We hold the lock, so nobody is writing it."""
    for partial in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        shutil.rmtree(partial, ignore_errors=True)


def _rebuild(world: "World", course: Course, wanted: Wanted) -> None:
    """Rebuild in one process among its peers; the first of them writes."""
    from trainer.sharded import trainer_of

    trainer = trainer_of(world, course.recipe, course.spec, course.data)
    about = ck.Numerics.from_json(trainer.numerics(), "numerics")
    for entry, fault in retrace(trainer, course, "rebuild"):
        if fault is not None:
            lost = ", ".join(str(step) for step in sorted(wanted) if step >= entry.step)
            raise Differs(
                f"{course.recipe.name}: step {entry.step} does not come out as it was released: {fault}; "
                f"not rebuilt: {lost}"
            )
        if entry.step not in wanted:
            continue
        weights, moments = trainer.state()
        if world.rank == 0:
            place, nearest = wanted[entry.step]
            record = rebuilt.record_of(entry, nearest, tensors_digest(moments), about)
            if tensors_digest(weights) != record.weights_digest:
                raise Differs(f"{place}: the copy of the weights is not what the log has at step {entry.step}")
            keep(place, record, course.spec, weights, moments)


def keep(place: Path, record: ck.Record, spec: ModelSpec, weights: "Tensors", moments: "Tensors") -> None:
    """Write a state into the cache, whole or not at all; a damaged one there makes room."""
    from trainer.checkpoint import write_state

    shutil.rmtree(place, ignore_errors=True)
    with new_folder(place) as scratch:
        write_state(scratch, record, spec, weights, moments)
