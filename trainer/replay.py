"""Replay: train a stretch of a run again, from the released bytes alone, and compare.

Starts from the stored state at `--from`, reads the rows of the run in their published order, and compares each
step's entry (loss, gradient norm, rate, digest of all weights) with the released log, and the state at a stored
checkpoint with its record. The code is the trainer's own loop. Of the rows, the shards that the stretch reads are
digested, each once. What an audited folder says of itself is not taken as checked: what was found stands in a folder of
this replay alone, and nothing is written beside it.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError, Linked
from pipeline.base.files import list_folder, safe_join
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.digests import tensors_digest
from pipeline.formats.manifests import read_manifest
from pipeline.formats.model import ModelSpec, tensor_shapes
from pipeline.formats.stages import manifest_path
from pipeline.formats.tensors import TensorFile
from trainer import numerics
from trainer.data import Checking, EverystepData, TrainingData, training_data
from trainer.launch import default_processes, launch
from trainer.recipe import Recipe, load_recipe

if TYPE_CHECKING:
    from trainer.loop import Trainer
    from trainer.parallel import World

Verified = Any  # a function path -> Path that checks a file of the release first; handed in by `pipeline.cli`


@dataclass(frozen=True)
class Outcome:
    """`first_difference` is None when every step came out the same; else the first step that did not."""

    model: str
    start: int
    stop: int
    first_difference: int | None
    detail: str
    digests_compared: int


def replay(verified: Verified, root: Path, model: str, start: int, stop: int) -> Outcome:
    """Replay the steps from state `start` to state `stop` of `model`."""
    verified(f"recipes/{model}.yaml")
    released = log.read(verified(f"runs/{model}/{log.JSONL}"))
    recipe, spec = load_recipe(model, root)
    stored = dict(ck.find_checkpoints(root / "runs" / model))
    if start not in stored:
        raise EverystepError(f"--from {start}: no state is stored there; stored steps are {_listed(stored)}")
    if not start < stop <= recipe.schedule.steps:
        raise EverystepError(f"--to {stop}: give a step after {start} and up to {recipe.schedule.steps}")
    entries = {entry.step: entry for entry in released if start < entry.step <= stop}
    for step in range(start + 1, stop + 1):
        if step not in entries:
            raise Differs(f"{root / 'runs' / model / log.JSONL}: has no entry for step {step}")
    for name in (ck.RECORD, ck.WEIGHTS, ck.OPTIMIZER):
        verified(f"runs/{model}/{stored[start].name}/{name}")
    _require_shapes_of(spec, root / "runs" / model / stored[start].name / ck.WEIGHTS, f"recipes/{model}.yaml")
    records = {step: ck.read_record(folder) for step, folder in stored.items() if start < step <= stop}
    numerics.enter(recipe.numerics)  # may start this program again, so it stands before the work
    processes = default_processes(recipe.data.num_leaves)
    with TemporaryDirectory(prefix="everystep-replay-") as found:
        rows = _own_rows if recipe.data.layout == "everystep" else _rows_of_others
        data = rows(verified, root, recipe, spec, Path(found), start, stop)
        outcome: Outcome = launch(
            _replay, processes, recipe.numerics, recipe, spec, data, stored[start], stop, entries, records
        )
    return outcome


def _require_shapes_of(spec: ModelSpec, weights: Path, recipe: str) -> None:
    """Before a model is built: a recipe may ask for more memory than there is, stored weights may not."""
    with TensorFile(weights) as file:
        if file.shapes() != tensor_shapes(spec):
            raise Differs(f"{weights}: these are not the tensors of the model in {recipe}")


def _own_rows(
    verified: Verified, root: Path, recipe: Recipe, spec: ModelSpec, found: Path, start: int, stop: int
) -> TrainingData:
    """Our rows, of which the shards that the stretch reads were digested; their manifest is the verified one."""
    verified(manifest_path("tokenize").as_posix())
    _require_no_links(root, recipe.data.folder)
    data = training_data(root, recipe, spec, Checking(folder=found))
    assert isinstance(data, EverystepData)
    needed = data.shards_of_steps(start, stop)
    with progress(f"replay {recipe.name}: rows", len(needed), "shards") as advance:
        data.open().check_shards(needed, advance)
    return data


def _rows_of_others(
    verified: Verified, root: Path, recipe: Recipe, spec: ModelSpec, found: Path, start: int, stop: int
) -> TrainingData:
    """Plain rows: their digests are what the manifest of the run names, or this is no replay of it."""
    manifest = read_manifest(verified(manifest_path("train", recipe.name).as_posix()), "train")
    _require_no_links(root, recipe.data.folder)
    data = training_data(root, recipe, spec, Checking(folder=found, parse=False))
    digests = {f"{recipe.data.folder}/{shard.path}": shard.sha256 for shard in data.shards}
    promised = {
        name: sha256 for name, sha256 in manifest["inputs"].items() if name.startswith(f"{recipe.data.folder}/")
    }
    others = sorted({name for name, _ in digests.items() ^ promised.items()})
    if others:
        raise Differs(f"{root / others[0]}: missing, or not the rows that {recipe.name} was trained on; fetch it again")
    return data


def _require_no_links(root: Path, rows: str) -> None:
    """Refuse a link on the way to the rows or among them: it could lead out of the folder that is audited."""
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
) -> Outcome:
    """What each process does; all of them stop at the first difference, because all see the same entries."""
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
                return Outcome(recipe.name, start, stop, entry.step, fault, compared)
    return Outcome(recipe.name, start, stop, None, "every step is the same", compared)


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


def _listed(stored: dict[int, Path]) -> str:
    return ", ".join(map(str, sorted(stored)))
