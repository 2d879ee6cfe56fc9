"""The gate: nothing is published before each checkpoint was found to be the one that was trained.

Public suites have carried final weights under early names, repeated shards and missing steps (pythia#205,
#206, OLMo#915). So for every model: the steps are those of the recipe's schedule, the log holds every step and
every digest that is due, the tensors give the digests of the record, the record tells what the log tells of its
step, no weights stand at two steps, each record names the state of the one before it as parent, and the manifest
and the config say the same.
"""

from collections.abc import Container
from pathlib import Path
from typing import Any

from pipeline.base.errors import Differs, EverystepError, well_shaped
from pipeline.base.files import plain_lines, read_small, safe_join
from pipeline.base.paths import RECIPES, RUNS
from pipeline.base.yaml import load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats.bounds import MAX_STEPS, whole
from pipeline.formats.canonical import Json, parse
from pipeline.formats.stages import manifest_path

LOG = "log.jsonl"
LOG_KEYS = {"step", "tokens", "loss", "gradient_norm", "learning_rate", "weights_digest"}


def check_model(root: Path, manifest: dict[str, Json], follow_links: bool = False) -> list[ck.Record]:
    """The records of a model whose every checkpoint passed; else `Differs`, naming the first that did not."""
    name, parameters = manifest["of"], manifest["parameters"]
    folder = root / RUNS / name
    recipe = root / RECIPES / f"{name}.yaml"
    _require(load_yaml(recipe) == parameters, f"{recipe}: is not the recipe in the manifest")
    with well_shaped(manifest_path("train", name)):
        num_steps = whole(parameters, "schedule", "steps", least=1, most=MAX_STEPS)
        digest_every = whole(parameters, "digest_every", least=1, most=MAX_STEPS)
    expected = ck.schedule(parameters["checkpoints"], num_steps)
    log = _read_log(folder / LOG, num_steps, digest_every, {*expected})
    steps = [entry["step"] for entry in manifest["checkpoints"]]
    _require(steps == expected, f"{folder}: checkpoints are missing or extra; expected {expected}, got {steps}")
    records: list[ck.Record] = []
    for entry in manifest["checkpoints"]:
        checkpoint = safe_join(root, f"{(RUNS / name).as_posix()}/{entry['revision']}", follow_links)
        record = ck.read_record(checkpoint)
        ck.check_tensors(checkpoint, record, ck.WEIGHTS)
        ck.check_tensors(checkpoint, record, ck.OPTIMIZER)
        config = checkpoint / ck.CONFIG
        _require(parse(read_small(config), config) == manifest["model"], f"{config}: is not the model of the manifest")
        _require(entry.items() <= record.to_json().items(), f"{checkpoint}: its record and the manifest disagree")
        _require(record.model == name, f"{checkpoint}: is a checkpoint of {record.model}")
        _check_record(checkpoint, record, log.get(record.step), records)
        records.append(record)
    return records


def _check_record(where: Path, record: ck.Record, logged: dict[str, Json] | None, before: list[ck.Record]) -> None:
    """One record against itself, the log and the records before it."""
    _require(
        record.state_digest == ck.state_digest(record.weights_digest, record.optimizer_digest, record.step),
        f"{where}: its state digest does not follow from its parts",
    )
    _require(record.revision == ck.revision(record.step, record.tokens), f"{where}: its name does not fit its step")
    _require(
        record.parent == (before[-1].state_digest if before else None),
        f"{where}: its parent is not the checkpoint before it",
    )
    for other in before:
        same = record.weights_digest == other.weights_digest
        _require(not same, f"{where}: has the same weights as {other.revision}")
    if logged is None:  # step 0 is no update, so it has no line
        return
    for key in ("tokens", "loss", "learning_rate"):
        ours, theirs = record.to_json()[key], logged[key]
        _require(ours == theirs, f"{where}: its record says {key} {ours}, the log at step {record.step} {theirs}")
    _require(
        logged["weights_digest"] in (None, record.weights_digest),
        f"{where}: its weights are not those that the log has at step {record.step}",
    )


def _read_log(path: Path, steps: int, digest_every: int, wanted: Container[int]) -> dict[int, dict[str, Any]]:
    """The lines of a log at the `wanted` steps. Every step has one, and a digest where the recipe asks for one."""
    if not path.is_file():
        raise Differs(f"{path}: missing")
    entries = {}
    number = 0
    for number, line in enumerate(plain_lines(path), 1):
        entry = parse(line, f"{path}:{number}")
        if not isinstance(entry, dict) or entry.keys() != LOG_KEYS:
            raise EverystepError(f"{path}:{number}: not a log line")
        due = number % digest_every == 0
        _require(entry["step"] == number, f"{path}:{number}: is about step {entry['step']}")
        _require((entry["weights_digest"] is not None) == due, f"{path}:{number}: a digest is missing, or not due")
        _require(number <= steps, f"{path}: holds more than the {steps} steps of the recipe")
        if number in wanted:
            entries[number] = entry
    _require(number == steps, f"{path}: holds {number} steps, the recipe has {steps}")
    return entries


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Differs(message)
