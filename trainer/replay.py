"""Replay: train a stretch of a released run again, from the released bytes alone, and compare.

Starts from the stored state at `--from`, reads the released rows in the published order, and compares each
step's entry (loss, gradient norm, rate, digest of all weights) with the released log, and the state at a stored
checkpoint with its record. The code is the trainer's own loop; nothing is written.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.console import progress
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.errors import Differs, EverystepError
from pipeline.formats.manifests import manifest_path, read_manifest, shards_of
from pipeline.formats.project import TOKENS
from trainer import log
from trainer.data import TrainingData, training_data
from trainer.description import ModelSpec
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
    verified("manifests/tokens.json")
    entries = {entry.step: entry for entry in log.read(verified(f"runs/{model}/{log.JSONL}"))}
    recipe, spec = load_recipe(model, root)
    stored = dict(ck.find_checkpoints(root / "runs" / model))
    if start not in stored:
        raise EverystepError(f"--from {start}: no state is stored there; stored steps are {_listed(stored)}")
    if not start < stop <= recipe.schedule.steps:
        raise EverystepError(f"--to {stop}: give a step after {start} and up to {recipe.schedule.steps}")
    for step in range(start + 1, stop + 1):
        if step not in entries:
            raise Differs(f"{root / 'runs' / model / log.JSONL}: has no entry for step {step}")
    for name in (ck.RECORD, ck.WEIGHTS, ck.OPTIMIZER):
        verified(f"runs/{model}/{stored[start].name}/{name}")
    records = {step: ck.read_record(folder) for step, folder in stored.items() if start < step <= stop}
    tokens = read_manifest(root / manifest_path("tokenize"), "tokenize")
    for shard in shards_of(tokens, "train"):  # by the root manifest, which also keeps their names inside the release
        verified(f"{TOKENS.as_posix()}/{shard.path}")
    data = training_data(root, recipe, spec, cache=None)
    processes = default_processes(recipe.data.num_leaves)
    outcome: Outcome = launch(
        _replay, processes, recipe.numerics, recipe, spec, data, stored[start], stop, entries, records
    )
    return outcome


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
