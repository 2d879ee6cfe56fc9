"""Replay: train a stretch of a run again, from the released bytes alone, and compare.

Starts from the stored state at `--from`, reads the rows of the run in their published order, and compares each
step's entry (loss, gradient norm, rate, digest of all weights) with the released log, and the state at a stored
checkpoint with its record. The code is the trainer's own. Only the shards of rows that the stretch reads are digested,
each once. An audited folder's own marks of what was checked are not trusted: a replay keeps its marks in a temporary
folder and writes nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError, Linked
from pipeline.base.files import list_folder, safe_join
from pipeline.base.paths import RECIPES, RUNS
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.digests import tensors_digest
from pipeline.formats.manifests import Tokens
from pipeline.formats.model import ModelSpec
from pipeline.release.release import Release
from trainer import numerics
from trainer.data import Checking, EverystepData, TrainingData, training_data
from trainer.launch import default_processes, launch
from trainer.parent import begun_from, require_shapes_of
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


def replay(release: Release, model: str, start: int, stop: int) -> Replayed:
    """Replay the steps from state `start` to state `stop` of `model`."""
    release.model(model)
    release.file(RECIPES / f"{model}.yaml")
    recipe, spec = load_recipe(model, release.folder)
    checkpoint = _start(release, recipe, spec, start)
    if not start < stop <= recipe.schedule.steps:
        raise EverystepError(f"--to {stop}: give a step after {start} and up to {recipe.schedule.steps}")
    entries = _entries(release, model, start, stop)
    records = {step: other.record for step, other in release.states(model).items() if start < step <= stop}
    numerics.enter(recipe.numerics)  # may restart this program, so it comes before the work
    processes = default_processes(recipe.data.num_leaves)
    with TemporaryDirectory(prefix="everystep-replay-") as found:
        rows = _own_rows if recipe.data.layout == "everystep" else _rows_of_others
        data = rows(release, recipe, spec, Path(found), start, stop)
        replayed: Replayed = launch(
            _replay, processes, recipe.numerics, recipe, spec, data, checkpoint, stop, entries, records
        )
    return replayed


def _start(release: Release, recipe: Recipe, spec: ModelSpec, step: int) -> Path:
    """Return the verified folder of the stored state at `step`; also of the one that the training itself began with."""
    begun = begun_from(release, recipe, spec) if recipe.parent and step == recipe.parent.step else None
    if begun:
        return begun
    state = release.state(recipe.name, step)
    for name in (ck.RECORD, ck.WEIGHTS, ck.OPTIMIZER):
        state.file(name)
    require_shapes_of(spec, state.file(ck.WEIGHTS), f"recipes/{recipe.name}.yaml")
    return release.folder / state.folder


def _entries(release: Release, model: str, start: int, stop: int) -> dict[int, log.Entry]:
    """Read the log of the stretch, which must have an entry for every step."""
    path = release.file(RUNS / model / log.JSONL)
    entries = {entry.step: entry for entry in log.read(path) if start < entry.step <= stop}
    for step in range(start + 1, stop + 1):
        if step not in entries:
            raise Differs(f"{path}: has no entry for step {step}")
    return entries


def _own_rows(release: Release, recipe: Recipe, spec: ModelSpec, found: Path, start: int, stop: int) -> TrainingData:
    """Return our own rows, after verifying their manifest and the shards that the stretch reads."""
    release.manifest(Tokens)
    _require_no_links(release.folder, recipe.data.folder)
    data = training_data(release.folder, recipe, spec, Checking(folder=found))
    assert isinstance(data, EverystepData)
    needed = data.shards_of_steps(start, stop)
    with progress(f"replay {recipe.name}: rows", len(needed), "shards") as advance:
        data.open().check_shards(needed, advance)
    return data


def _rows_of_others(
    release: Release, recipe: Recipe, spec: ModelSpec, found: Path, start: int, stop: int
) -> TrainingData:
    """Return plain rows, after comparing their digests with those that the manifest of the run names."""
    inputs, folder = release.model(recipe.name).inputs, recipe.data.folder
    _require_no_links(release.folder, folder)
    data = training_data(release.folder, recipe, spec, Checking(folder=found, parse=False))
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


def _replay(
    world: "World",
    recipe: Recipe,
    spec: ModelSpec,
    data: TrainingData,
    checkpoint: Path,
    stop: int,
    entries: dict[int, log.Entry],
    records: dict[int, ck.Record],
) -> Replayed:
    """Replay in one process among its peers. All stop at the same difference, because all see the same entries."""
    from trainer.loop import Trainer

    trainer = Trainer(world, recipe, spec, data)
    start = trainer.load(checkpoint).step
    step_tokens = recipe.data.global_batch * spec.context
    compared = 0
    with progress(f"replay {recipe.name}", (stop - start) * step_tokens, "tokens", quiet=world.rank != 0) as advance:
        while trainer.step < stop:
            entry = trainer.train_step()
            fault = _entry_fault(entry, entries[entry.step])
            if fault is None and entry.step in records:
                fault = _state_fault(trainer, records[entry.step])
            compared += entry.weights_digest is not None
            advance(step_tokens, f"step {entry.step} of {stop}: {'same' if fault is None else 'differs'}")
            if fault is not None:
                return Replayed(recipe.name, start, stop, entry.step, fault, compared)
    return Replayed(recipe.name, start, stop, None, "every step is the same", compared)


def _entry_fault(ours: log.Entry, theirs: log.Entry) -> str | None:
    for key, value in theirs.to_json().items():
        if ours.to_json()[key] != value:
            return f"{key}: released {value}, replayed {ours.to_json()[key]}"
    return None


def _state_fault(trainer: "Trainer", record: ck.Record) -> str | None:
    weights, moments = trainer.state()
    for what, promised, tensors in (
        ("weights", record.weights_digest, weights),
        ("optimizer", record.optimizer_digest, moments),
    ):
        found = tensors_digest(tensors)
        if found != promised:
            return f"{what} at {record.revision}: released {promised}, replayed {found}"
    return None
