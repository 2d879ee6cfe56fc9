"""The gate: nothing is published before each checkpoint was found to be the one that was trained.

Public suites have carried final weights under early names, repeated shards and missing steps (pythia#205,
#206, OLMo#915). So for every model: the steps are those of the recipe's schedule, the tensors give the digests
of the record, the weights' digest is the one logged at that step and stands at no other step, each record names
the state of the one before it as parent, and the manifest says the same.
"""

from pathlib import Path

from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, parse
from pipeline.formats.errors import Differs


def check_model(root: Path, manifest: dict[str, Json]) -> list[ck.Record]:
    """The records of a model whose every checkpoint passed; else `Differs`, naming the first that did not."""
    name = manifest["of"]
    folder = root / "runs" / name
    logged = _logged_digests(folder / "log.jsonl")
    records: list[ck.Record] = []
    seen: dict[str, str] = {}
    for entry in manifest["checkpoints"]:
        checkpoint = folder / entry["revision"]
        record = ck.read_record(checkpoint)
        where = f"{checkpoint}"
        ck.read_verified(checkpoint, ck.WEIGHTS)
        ck.read_verified(checkpoint, ck.OPTIMIZER)
        _require(
            record.state_digest == ck.state_digest(record.weights_digest, record.optimizer_digest, record.step),
            f"{where}: its state digest does not follow from its parts",
        )
        _require(record.model == name, f"{where}: is a checkpoint of {record.model}")
        _require(record.revision == ck.revision(record.step, record.tokens), f"{where}: its name does not fit its step")
        _require(
            all(record.to_json()[key] == value for key, value in entry.items()),
            f"{where}: its record and the manifest disagree",
        )
        _require(
            record.weights_digest not in seen,
            f"{where}: has the same weights as {seen.get(record.weights_digest)}",
        )
        _require(
            logged.get(record.step, record.weights_digest) == record.weights_digest,
            f"{where}: its weights are not those that the log has at step {record.step}",
        )
        _require(
            record.parent == (records[-1].state_digest if records else None),
            f"{where}: its parent is not the checkpoint before it",
        )
        seen[record.weights_digest] = record.revision
        records.append(record)
    expected = ck.schedule(manifest["parameters"]["checkpoints"], manifest["parameters"]["schedule"]["steps"])
    _require([r.step for r in records] == expected, f"{folder}: checkpoints are missing or extra; expected {expected}")
    return records


def _logged_digests(path: Path) -> dict[int, str]:
    entries = [parse(line, path) for line in path.read_bytes().splitlines()]
    return {entry["step"]: entry["weights_digest"] for entry in entries if entry["weights_digest"]}


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise Differs(message)
