"""Rebuilt states: where this machine keeps them, and what is compared each time before one is used.

    CACHE/states/MODEL/SHA256/REVISION    a checkpoint in the form of a release (docs/formats.md, 10)

`SHA256` is that of the manifest of the model, on which recipe, rows, log and every stored state depend; so two releases
of one training share what was rebuilt. The release promises the weights, through its log. The moments are promised only
by the record that was written with them: that finds damage, not somebody else who writes to the cache.
"""

from pathlib import Path

from pipeline.base.errors import Differs
from pipeline.base.paths import cache_folder
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, parse
from pipeline.formats.digests import tensors_digest
from pipeline.formats.log import Entry
from pipeline.formats.model import ModelSpec

STATES = "states"


def place(model: str, manifest_sha256: str, revision: str) -> Path:
    """The folder of one rebuilt state."""
    return cache_folder() / STATES / model / manifest_sha256 / revision


def check(folder: Path, logged: Entry, nearest: ck.Record, config: Json) -> ck.Record:
    """The record of a rebuilt state, once every byte of it was compared; `nearest` is what it was rebuilt from.

    `logged` is its entry in the log, `config` the description of the model.
    """
    record = ck.read_record(folder)
    digests = {name: tensors_digest(ck.read_tensors(folder / name)) for name in (ck.WEIGHTS, ck.OPTIMIZER)}
    expected = record_of(logged, nearest, digests[ck.OPTIMIZER], record.numerics)
    for key, value in expected.to_json().items():
        if record.to_json()[key] != value:
            raise Differs(f"{folder / ck.RECORD}: {key}: expected {value}, got {record.to_json()[key]}")
    if digests[ck.WEIGHTS] != logged.weights_digest:
        raise Differs(f"{folder / ck.WEIGHTS}: the log promises {logged.weights_digest}, got {digests[ck.WEIGHTS]}")
    path = folder / ck.CONFIG
    if ModelSpec.from_json(parse(path.read_bytes(), path), str(path)) != ModelSpec.from_json(config):
        raise Differs(f"{path}: is not the model of the manifest")
    return record


def record_of(logged: Entry, nearest: ck.Record, optimizer_digest: str, numerics: ck.Numerics) -> ck.Record:
    """The record of the virtual state of a log entry, rebuilt from the state of the record `nearest`."""
    weights_digest = str(logged.weights_digest)
    return ck.Record(
        format=ck.FORMAT,
        model=nearest.model,
        revision=ck.revision(logged.step, logged.tokens),
        step=logged.step,
        tokens=logged.tokens,
        applied_updates=logged.step,
        learning_rate=logged.learning_rate,
        loss=logged.loss,
        weights_digest=weights_digest,
        optimizer_digest=optimizer_digest,
        state_digest=ck.state_digest(weights_digest, optimizer_digest, logged.step),
        parent=nearest.state_digest,
        storage="virtual",
        nearest_stored_step=nearest.step,
        digest_interval=nearest.digest_interval,
        numerics=numerics,
    )
