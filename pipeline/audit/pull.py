"""Pull: checkpoints of a release, verified, as folders that transformers loads.

The digests of the source are checked before anything is converted. `everystep.json` beside the weights says which state
of which release they are, and README.md, LICENSE and NOTICE go along. Needs numpy, not torch.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.export_model import export, write_export
from pipeline.audit.model_card import model_card
from pipeline.base.errors import Differs, EverystepError, well_shaped
from pipeline.base.files import new_folder, read_small, write_bytes
from pipeline.base.paths import PARAMS, RUNS, TOKENIZER
from pipeline.base.yaml import load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, parse, pretty
from pipeline.formats.model import ModelSpec
from pipeline.formats.vocabulary import END_OF_TEXT, end_token

Verified = Any  # a function path -> Path that checks a file of the release first; handed in by `pipeline.cli`
Weights = dict[str, NDArray[np.float32]]
PAPERS = ("LICENSE", "NOTICE")


@dataclass(frozen=True)
class State:
    """A stored state whose record and description were found right. Its weights are checked when they are read."""

    path: Path
    record: ck.Record
    spec: ModelSpec

    def weights(self) -> Weights:
        """Read once, and compared with the digest in the record."""
        tensors = ck.read_verified(self.path, ck.WEIGHTS)
        return {name: np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}


def find_state(verified: Verified, model: str, revision: str) -> State:
    """The stored state `revision` of `model`."""
    folder = f"{RUNS.as_posix()}/{model}/{revision}"
    path = verified(f"{folder}/{ck.RECORD}").parent
    record = ck.read_record(path)
    config = verified(f"{folder}/{ck.CONFIG}")
    if record.model != model or record.revision != revision:
        raise Differs(f"{folder}: holds {record.model} {record.revision}")
    return State(path, record, ModelSpec.from_json(parse(read_small(config), config), str(config)))


def pull(verified: Verified, model: str, revisions: dict[str, str], out: Path, origin: dict[str, Json]) -> None:
    """Write checkpoints of `model` to the new folder `out`: the revision of each name in its folder `out/NAME`.

    The name `.` is `out` itself.
    """
    with new_folder(out) as scratch:
        for name, revision in revisions.items():
            state = find_state(verified, model, revision)
            about = {**origin, **state.record.to_json()}
            write_folder(verified, scratch / name, state.spec, state.weights(), about)


def write_folder(verified: Verified, folder: Path, spec: ModelSpec, weights: Weights, about: dict[str, Json]) -> None:
    """Weights with their config, the release's tokenizer and papers, and `about` as `everystep.json`."""
    tokenizer = verified(TOKENIZER.as_posix())
    exported = export(spec, weights, eos_token_id=end_token(tokenizer))
    code = [name for name in exported.extra_files if name.endswith(".py")]
    for name in code:
        verified(f"trainer/remote/{name}")  # a release with other code than the copy that is written is refused
    write_export(exported, folder)
    about = {**about, "license": _license(verified)}
    write_bytes(folder / "tokenizer.json", portable_tokenizer(tokenizer))
    write_bytes(folder / "tokenizer_config.json", pretty(_tokenizer_config(spec)))
    write_bytes(folder / "everystep.json", pretty(about))
    write_bytes(folder / "README.md", model_card(about, spec.context, remote_code=bool(code)).encode())
    for name in PAPERS:
        write_bytes(folder / name, read_small(verified(name)))


def portable_tokenizer(tokenizer_json: Path) -> bytes:
    """`tokenizer.json` as every version of `tokenizers` reads it: with merges `"a b"`, where 0.20 began to write pairs.

    The same tokenizer; no token of a byte-level BPE holds a blank.
    """
    with well_shaped(tokenizer_json):
        tree = json.loads(read_small(tokenizer_json))
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in tree["model"]["merges"]]
        for left, right in pairs:
            if " " in left + right:
                raise EverystepError(
                    f"{tokenizer_json}: the merge of {left!r} and {right!r} has a blank inside a token"
                )
        tree["model"]["merges"] = [" ".join(pair) for pair in pairs]
    return json.dumps(tree, ensure_ascii=False, indent=2).encode() + b"\n"


def _license(verified: Verified) -> str:
    """The licence of the models, in the word of whoever published them."""
    path = verified(PARAMS.as_posix())
    with well_shaped(path):
        return str(load_yaml(path)["release"]["license"])


def _tokenizer_config(spec: ModelSpec) -> dict[str, Json]:
    """transformers 4 passes on `token_type_ids` unless told what a model takes. There is no token only for padding;
    `pad_token_id` of the model stays null, because torch trains no embedding that is called padding."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": spec.context,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "padding_side": "left",
        "clean_up_tokenization_spaces": False,
    }
