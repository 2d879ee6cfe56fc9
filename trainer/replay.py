"""Replay: train a stretch of a run again, from the released bytes alone, and compare.

Starts from a state that has its bytes, reads the rows of the run in their published order, and compares each step's
entry (loss, gradient norm, rate, digest of all weights) with the released log, and the state at a stored checkpoint
with its record. The code is the trainer's own. Only the files that the stretch reads are asked for, and so only they
are fetched and digested, once each. An audited folder's own marks of what was checked are not trusted: a replay keeps
its marks in a temporary folder and writes nothing else.

`course` and `retrace` are what a rebuild (`trainer.rebuild`) has in common with a replay.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError, Linked
from pipeline.base.files import list_folder, safe_join
from pipeline.base.paths import PARENT, RECIPES, RUNS
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.forgotten import OUTPUT
from pipeline.formats.manifests import Tokens, path_of
from pipeline.formats.model import ModelSpec
from pipeline.release.ancestors import ancestors
from pipeline.release.first_state import first_state_faults
from pipeline.release.release import Release, State
from trainer import numerics
from trainer.begun import require_shapes_of
from trainer.data import Checking, TrainingData, own_rows, training_data
from trainer.launch import launch_training
from trainer.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from trainer.loop import Trainer
    from trainer.parallel import World


@dataclass(frozen=True)
class Replayed:
    """A stretch replayed. `first_difference` is the first step that did not come out the same; None if all did."""

    model: str
    start: int
    stop: int
    first_difference: int | None
    detail: str
    digests_compared: int


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Steps to train again: the checkpoint that they start from, and what the release says of each of them."""

    checkpoint: Path
    start: int
    stop: int
    entries: dict[int, log.Entry]
    records: dict[int, ck.Record]


@dataclass(frozen=True, kw_only=True)
class Course:
    """Stretches of one run, with the verified inputs that train them again."""

    recipe: Recipe
    spec: ModelSpec
    data: TrainingData
    stretches: list[Stretch]


def replay(release: Release, model: str, start: int, stop: int) -> Replayed:
    """Replay the steps from state `start` to state `stop` of `model`. A virtual state must have been rebuilt.

    The state at step 0 is not believed, but computed from the recipe.
    """
    (replayed,) = replay_all(release, model, [(state_at(release, model, start), stop)])
    return replayed


def replay_all(release: Release, model: str, stretches: Sequence[tuple[State, int]]) -> list[Replayed]:
    """Replay several stretches of `model`, as `replay` does, each to its end or to its first difference. One that
    begins at step 0 comes first."""
    begun = [stop for state, stop in stretches if state.step == 0]
    fault = next(first_state_faults(release, model), None) if begun else None
    if fault:
        rest = [(state, stop) for state, stop in stretches if state.step > 0]
        return [*(Replayed(model, 0, stop, 0, fault, 0) for stop in begun), *replay_all(release, model, rest)]
    if not stretches:
        return []
    with course(release, model, stretches) as found:
        replayed: list[Replayed] = launch_training(_replay, found.recipe, found)
    return replayed


def state_at(release: Release, model: str, step: int) -> State:
    """Return the state at `step`: one of the model, or the one of another release that its training went on from."""
    begun = next(ancestors(release, model), None)
    if begun is None or begun.step != step:
        return release.state(model, step)
    for name in (ck.WEIGHTS, ck.OPTIMIZER):
        release.file(PARENT / begun.folder / name)
    return begun


@contextmanager
def course(
    release: Release, model: str, stretches: Sequence[tuple[State, int]], seeds: Sequence[int] = ()
) -> Iterator[Course]:
    """Verify what it takes to train some stretches of a model again, each from a state to a step; our own rows, too,
    that the orders of these other `seeds` would read there.

    May restart this program, to enter the numerics class of the model.
    """
    release.file(RECIPES / f"{model}.yaml")
    recipe, spec = load_recipe(model, release.folder)
    for state, stop in stretches:
        if not state.step < stop <= recipe.schedule.steps:
            raise EverystepError(f"--to {stop}: give a step after {state.step} and up to {recipe.schedule.steps}")
    entries = _entries(release, model, stretches)
    found = [_stretch(release, recipe, state, stop, entries, spec) for state, stop in stretches]
    numerics.enter(recipe.numerics)  # may restart this program, so it comes before the work
    with TemporaryDirectory(prefix="everystep-replay-") as memory:
        steps = [range(stretch.start, stretch.stop) for stretch in found]
        if recipe.data.layout == "everystep":
            data = _own_rows(release, recipe, spec, Path(memory), steps, seeds)
        else:
            data = _rows_of_others(release, recipe, spec, Path(memory))
        yield Course(recipe=recipe, spec=spec, data=data, stretches=found)


def retrace(trainer: "Trainer", course: Course, title: str) -> Iterator[tuple[log.Entry, str | None]]:
    """Train every stretch again. Yields, after each step, its entry and what differs from the release, if anything."""
    step_tokens = course.recipe.data.global_batch * course.spec.context
    total = sum(stretch.stop - stretch.start for stretch in course.stretches) * step_tokens
    with progress(f"{title} {course.recipe.name}", total, "tokens", quiet=trainer.world.rank != 0) as advance:
        for stretch in course.stretches:
            begun = trainer.load(stretch.checkpoint)
            if trainer.world.rank == 0:  # of the state that it starts from, `load` has told
                for about in dict.fromkeys(record.numerics for record in stretch.records.values()):
                    if about != begun.numerics:
                        numerics.warn_if_other(about.to_json(), trainer.numerics())
            while trainer.step < stretch.stop:
                entry = trainer.train_step()
                fault = entry_fault(entry, stretch.entries[entry.step])
                if fault is None and entry.step in stretch.records:
                    fault = _state_fault(trainer, stretch.records[entry.step])
                advance(step_tokens, f"step {entry.step} of {stretch.stop}: {'same' if fault is None else 'differs'}")
                yield entry, fault


def _entries(release: Release, model: str, stretches: Sequence[tuple[State, int]]) -> dict[int, log.Entry]:
    """Read the log of the stretches, which must have an entry for every step."""
    path = release.file(RUNS / model / log.JSONL)
    wanted = [range(state.step + 1, stop + 1) for state, stop in stretches]
    entries = {entry.step: entry for entry in log.read(path) if any(entry.step in steps for steps in wanted)}
    for steps in wanted:
        for step in steps:
            if step not in entries:
                raise Differs(f"{path}: has no entry for step {step}")
    return entries


def _stretch(
    release: Release, recipe: Recipe, state: State, stop: int, entries: dict[int, log.Entry], spec: ModelSpec
) -> Stretch:
    """Verify the state that a stretch starts from, and gather what the release says of its steps."""
    files = {name: state.file(name) for name in (ck.RECORD, ck.WEIGHTS, ck.OPTIMIZER)}
    require_shapes_of(spec, files[ck.WEIGHTS], f"recipes/{recipe.name}.yaml")
    steps = range(state.step + 1, stop + 1)
    records = {step: other.record for step, other in release.states(recipe.name).items() if step in steps}
    if not records and all(entries[step].weights_digest is None for step in steps):
        due = next(step for step in range(stop, stop + recipe.digest_every) if step % recipe.digest_every == 0)
        raise EverystepError(
            f"--from {state.step} --to {stop}: of these steps {release.folder / RUNS / recipe.name / log.JSONL} has no "
            f"digest of the weights, so a replay would show nothing; go on to step {min(due, recipe.schedule.steps)}"
        )
    return Stretch(
        checkpoint=files[ck.WEIGHTS].parent,
        start=state.step,
        stop=stop,
        entries={step: entries[step] for step in steps},
        records=records,
    )


def _own_rows(
    release: Release, recipe: Recipe, spec: ModelSpec, memory: Path, steps: Sequence[range], seeds: Sequence[int]
) -> TrainingData:
    """Return our own rows, after verifying their manifest and the shards that these steps read, in any of the
    orders."""
    tokens = release.manifest(Tokens)
    if OUTPUT in tokens.outputs:
        release.file(f"{recipe.data.folder}/{tokens.shard(OUTPUT).path}")
    data = own_rows(release.folder, recipe, spec, tokens, memory)
    orders = [data, *(replace(data, section=data.section.model_copy(update={"seed": seed})) for seed in seeds)]
    needed = sorted(
        {shard for order in orders for part in steps for shard in order.shards_of_steps(part.start, part.stop)}
    )
    rows = data.open()
    with progress(f"{recipe.name}: rows", len(needed), "shards") as advance:
        for shard in needed:
            path = f"{recipe.data.folder}/{data.shards[shard].path}"
            file = release.file(path)
            if release.files[path].digest != data.shards[shard].sha256:
                raise Differs(f"{file}: not the shard of rows that {release.folder / path_of(Tokens)} lists")
            rows.trust([shard])
            advance(1)
    return data


def _rows_of_others(release: Release, recipe: Recipe, spec: ModelSpec, memory: Path) -> TrainingData:
    """Return plain rows, after comparing their digests with those that the manifest of the run names.

    Only a project has such rows, so they are here, or nowhere.
    """
    inputs, folder = release.model(recipe.name).inputs, recipe.data.folder
    _require_no_links(release.folder, folder)
    data = training_data(release.folder, recipe, spec, Checking(folder=memory, parse=False))
    digests = {f"{folder}/{shard.path}": shard.sha256 for shard in data.shards}
    promised = {name: sha256 for name, sha256 in inputs.items() if name.startswith(f"{folder}/")}
    others = sorted({name for name, _ in digests.items() ^ promised.items()})
    if others:
        where = release.folder / others[0]
        raise Differs(f"{where}: missing, or not the rows that {recipe.name} was trained on; fetch it again")
    return data


def _require_no_links(root: Path, rows: str) -> None:
    """Refuse links on the way to the rows or among them: they could lead out of the audited folder."""
    folder = safe_join(root, rows)
    for link in list_folder(folder).links:
        raise Linked(folder / link)


def _replay(world: "World", course: Course) -> list[Replayed]:
    """Replay in one process among its peers. All stop at the same difference, because all see the same entries."""
    from trainer.sharded import trainer_of

    trainer = trainer_of(world, course.recipe, course.spec, course.data)
    return [_replay_one(trainer, replace(course, stretches=[stretch])) for stretch in course.stretches]


def _replay_one(trainer: "Trainer", course: Course) -> Replayed:
    (stretch,) = course.stretches
    compared, about = 0, (course.recipe.name, stretch.start, stretch.stop)
    for entry, fault in retrace(trainer, course, "replay"):
        compared += entry.weights_digest is not None
        if fault is not None:
            return Replayed(*about, entry.step, fault, compared)
    return Replayed(*about, None, "every step is the same", compared)


def entry_fault(ours: log.Entry, theirs: log.Entry) -> str | None:
    for key, value in theirs.to_json().items():
        if ours.to_json()[key] != value:
            return f"{key}: released {value}, replayed {ours.to_json()[key]}"
    return None


def _state_fault(trainer: "Trainer", record: ck.Record) -> str | None:
    weights, moments = trainer.digests()
    for what, promised, found in (
        ("weights", record.weights_digest, weights),
        ("optimizer", record.optimizer_digest, moments),
    ):
        if found != promised:
            return f"{what} at {record.revision}: released {promised}, replayed {found}"
    return None
