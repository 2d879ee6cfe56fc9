"""Pull: one checkpoint of a release, verified, as a folder that transformers loads.

The digests of the source are checked before anything is converted, and `everystep.json` beside the weights says
which state of which release they are. Needs numpy, not torch.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, parse, pretty
from pipeline.formats.errors import Differs, EverystepError
from pipeline.formats.files import write_bytes
from pipeline.formats.project import RUNS, TOKENIZER
from pipeline.formats.vocabulary import END_OF_TEXT, end_token
from trainer.description import ModelSpec
from trainer.export import export, write_export

Verified = Any  # a function path -> Path that checks a file of the release first; handed in by `pipeline.cli`
Weights = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class State:
    """A stored state whose record and description were found right. Its weights are checked when they are read."""

    verified: Verified
    folder: str
    record: ck.Record
    spec: ModelSpec

    def weights(self) -> Weights:
        tensors = ck.read_verified(self.verified(f"{self.folder}/{ck.WEIGHTS}").parent, ck.WEIGHTS)
        return {name: np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}


def find_state(verified: Verified, model: str, revision: str) -> State:
    """The stored state `revision` of `model`."""
    folder = f"{RUNS.as_posix()}/{model}/{revision}"
    record = ck.read_record(verified(f"{folder}/{ck.RECORD}").parent)
    config = verified(f"{folder}/{ck.CONFIG}")
    if record.model != model or record.revision != revision:
        raise Differs(f"{folder}: holds {record.model} {record.revision}")
    return State(verified, folder, record, ModelSpec.from_json(parse(config.read_bytes(), config), str(config)))


def pull(verified: Verified, model: str, revision: str, out: Path, origin: dict[str, Json]) -> None:
    """Write the checkpoint `revision` of `model` to the new folder `out`."""
    refuse_existing(out)
    state = find_state(verified, model, revision)
    write_folder(verified, out, state.spec, state.weights(), {**origin, **state.record.to_json()})


def refuse_existing(out: Path) -> None:
    if out.exists():
        raise EverystepError(f"{out}: already exists; name a new folder")


def write_folder(verified: Verified, out: Path, spec: ModelSpec, weights: Weights, about: dict[str, Json]) -> None:
    """Weights with their config, the release's tokenizer, and `about` as `everystep.json`: all of it, or nothing."""
    tokenizer = verified(TOKENIZER.as_posix())
    exported = export(spec, weights, eos_token_id=end_token(tokenizer))
    for name in exported.extra_files:
        if name.endswith(".py"):
            verified(f"trainer/remote/{name}")  # a release with other code than the copy that is written is refused
    partial = ck.begin(out)
    write_export(exported, partial)
    write_bytes(partial / "tokenizer.json", tokenizer.read_bytes())
    write_bytes(partial / "tokenizer_config.json", pretty(_tokenizer_config(spec)))
    write_bytes(partial / "everystep.json", pretty(about))
    partial.rename(out)


def _tokenizer_config(spec: ModelSpec) -> dict[str, Json]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": spec.context,
        "eos_token": END_OF_TEXT,
        "clean_up_tokenization_spaces": False,
    }
