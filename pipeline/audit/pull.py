"""Pull: checkpoints of a release, verified, as folders that transformers loads.

The digests of the source are checked before anything is converted. `everystep.json` beside the weights says which state
of which release they are and describes the model in our own form, from which `pipeline.audit.import_model` finds the
digest of record again; README.md, LICENSE and NOTICE go along. Needs numpy, not torch.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.audit.export_model import export, write_export
from pipeline.audit.model_card import model_card
from pipeline.base.console import note
from pipeline.base.errors import EverystepError, well_shaped
from pipeline.base.files import new_folder, read_small, write_bytes
from pipeline.base.paths import RUNS, TOKENIZER
from pipeline.formats import log
from pipeline.formats.canonical import Json, pretty
from pipeline.formats.model import ModelSpec
from pipeline.formats.vocabulary import END_OF_TEXT, end_token
from pipeline.release.code import REMOTE
from pipeline.release.facts import ancestor_facts, read_words
from pipeline.release.notices import Notice, notices_of, superseding
from pipeline.release.release import Release, State, Virtual, Weights

RIGHTS = ("LICENSE", "NOTICE")
"""Papers of the release that every pulled folder carries."""


def pull(release: Release, states: dict[str, State], out: Path) -> None:
    """Write checkpoints to the new folder `out`: the state of each name in its folder `out/NAME`.

    The name `.` is `out` itself. What has superseded them is said in each folder, and here.
    """
    notices = _notices(release)
    with new_folder(out) as scratch:
        for name, state in states.items():
            about = {**origin(release, state.model), **state.record.to_json(), **proof(state)}
            about |= superseded(superseding(notices, state))
            write_folder(release, scratch / name, state.spec, state.weights(), about)
    for state in states.values():
        for notice in superseding(notices, state):
            note(
                f"note: superseded: {state.model} {state.revision} has seen documents that {notice.release} "
                f"{notice.version} says it has forgotten ({notice.why}); its release.json has the SHA-256 "
                f"{notice.release_sha256}"
            )


def origin(release: Release, model: str) -> dict[str, Json]:
    """Which release a folder comes from, and what the training of its model went on from, for its `everystep.json`."""
    about: dict[str, Json] = {"release": release.name, "release_version": release.version}
    ancestors = [state.to_json() for state in ancestor_facts(release, model)]
    repository = read_words(release).release.base_model
    about |= {"ancestors": ancestors} if ancestors else {}
    return about | ({"base_model": repository} if ancestors and repository else {})


def proof(state: State) -> dict[str, Json]:
    """How a virtual state was proved to be that of the release, for `everystep.json`; of a stored one its digests are
    in the release."""
    if not isinstance(state, Virtual):
        return {}
    path, first = (RUNS / state.model / log.JSONL).as_posix(), state.nearest.step + 1
    steps = f"step {state.step}" if first == state.step else f"steps {first} to {state.step}"
    return {
        "proof": f"rebuilt from {state.nearest.revision}, which the release stores: {steps} came out as in {path}, "
        f"which has the digest of the weights at step {state.step}"
    }


def superseded(notices: Sequence[Notice]) -> dict[str, Json]:
    """The releases that have forgotten documents which a state has seen, for `everystep.json`."""
    keys = ("release", "version", "release_sha256", "why")
    return {"superseded_by": [{key: getattr(notice, key) for key in keys} for notice in notices]} if notices else {}


def _notices(release: Release) -> list[Notice]:
    """What is said beside the release. Nothing promises it, so what is wrong with it must not keep anybody from the
    release: a server may answer anything where there is no file."""
    try:
        return notices_of(release)
    except EverystepError as error:
        note(f"note: whether another release has superseded this one is not known: {error}")
        return []


def write_folder(release: Release, folder: Path, spec: ModelSpec, weights: Weights, about: dict[str, Json]) -> None:
    """Weights with their config, the release's tokenizer and papers, and `everystep.json`: `about`, the description of
    the model and the licence."""
    tokenizer = release.file(TOKENIZER)
    exported = export(spec, weights, eos_token_id=end_token(tokenizer))
    code = [name for name in exported.extra_files if name.endswith(".py")]
    for name in code:
        release.file(f"{REMOTE}/{name}")  # a release with other code than the copy that is written is refused
    write_export(exported, folder)
    about = {**about, "description": spec.to_json(), "license": read_words(release).release.license}
    write_bytes(folder / "tokenizer.json", portable_tokenizer(tokenizer))
    write_bytes(folder / "tokenizer_config.json", pretty(_tokenizer_config(spec)))
    write_bytes(folder / "everystep.json", pretty(about))
    write_bytes(folder / "README.md", model_card(about, spec.context, remote_code=bool(code)).encode())
    for name in RIGHTS:
        write_bytes(folder / name, release.read(name))


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
