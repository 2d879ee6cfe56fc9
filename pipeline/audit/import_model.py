"""The way back from a model repository to the digest of record: `restore(spec, export(spec, x).tensors) == x`.

A reader who has only a folder of the Hub recomputes `weights_digest` with it, without the release. The description of
the model is in the folder's `everystep.json`; `config.json` and code, which decide what loaders compute with
the weights, must be the ones that this description gives.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audit.export_model import hub_config
from pipeline.audit.hub_forms import Array, Form, Tensors, form_of
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import read_small, sha256_file
from pipeline.formats.canonical import Json, canonical, parse
from pipeline.formats.checkpoints import CONFIG, WEIGHTS, read_tensors
from pipeline.formats.digests import tensors_digest
from pipeline.formats.model import ModelSpec, tensor_shapes, unrolled
from pipeline.release.code import REMOTE, is_code, refuse_foreign_code

ABOUT = "everystep.json"


@dataclass(frozen=True, kw_only=True)
class FolderDigest:
    """What a model repository holds, by the digest of its weights in our form."""

    model: str
    revision: str | None
    """Null for a mean of several states, and for a counterfactual."""
    counterfactual: bool
    """Whether the weights are of a training with something changed, which no release has."""
    weights_digest: str
    """Computed from the folder."""
    promised: str
    """What its `everystep.json` says."""


def digest_folder(folder: Path) -> FolderDigest:
    """Compute the digest of the weights in a pulled folder, or in a copy of it from a hub.

    `Differs` is raised if its config is not that of its description, if it holds code that is not ours, or if tensors
    that are copies of one differ.
    """
    about = _read_json(folder / ABOUT)
    missing = [key for key in ("description", "model", "weights_digest") if key not in about]
    if missing:
        raise EverystepError(f"{folder / ABOUT}: has no {', '.join(missing)}; pull the checkpoint again")
    spec = ModelSpec.from_json(about["description"], f"{folder / ABOUT}: description")
    tensors = restore(spec, folder)
    _require_config(folder, spec, tensors)
    _require_own_code(folder)
    return FolderDigest(
        model=str(about["model"]),
        revision=about.get("revision"),
        counterfactual="counterfactual" in about,
        weights_digest=tensors_digest(tensors),
        promised=str(about["weights_digest"]),
    )


def restore(spec: ModelSpec, source: Path | Tensors) -> dict[str, Array]:
    """Our tensors from those of the hub form of the model `spec`, given as a mapping or as a folder that holds them.

    Raises `Differs` if a tensor is missing, unknown or of another shape, or if copies of one stored tensor (a block
    that is applied twice, a shared FFN, a tied head) are not equal, byte for byte.
    """
    where, named = (
        (f"{source / WEIGHTS}: ", read_tensors(source / WEIGHTS)) if isinstance(source, Path) else ("", source)
    )
    twin, origin = unrolled(spec)
    form = form_of(twin)
    named = _without_tied_head(spec, form, named, where)
    cut = {form.hub_name(name): (name, part.shape) for name, part in form.split(twin, _shaped_like(twin)).items()}
    if different := sorted(cut.keys() ^ named.keys()):
        raise Differs(f"{where}tensors are missing or unknown: {_listed(different)}")
    if wrong := sorted(name for name, tensor in named.items() if tensor.shape != cut[name][1]):
        raise Differs(f"{where}tensors are of another shape than the description says: {_listed(wrong)}")
    plain = form.join(twin, {cut[name][0]: tensor for name, tensor in named.items()})
    stored: dict[str, Array] = {}
    for name, tensor in plain.items():
        first = stored.setdefault(origin[name], tensor)
        if not _same_bytes(first, tensor):
            raise Differs(f"{where}{name} is a copy of {origin[name]}, and they are not equal")
    return {name: stored[name] for name in tensor_shapes(spec)}


def _without_tied_head(spec: ModelSpec, form: Form, named: Tensors, where: str) -> Tensors:
    """Some savers write the head of a tied model too."""
    head, embedding = form.hub_name("output.weight"), form.hub_name("embedding.weight")
    if not spec.tied_embedding or not {head, embedding} <= named.keys():
        return named
    if not _same_bytes(named[head], named[embedding]):
        raise Differs(f"{where}{head} is tied to {embedding}, and they are not equal")
    return {name: tensor for name, tensor in named.items() if name != head}


def _shaped_like(spec: ModelSpec) -> dict[str, Array]:
    """Tensors of the shapes of a model that take no memory."""
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in tensor_shapes(spec).items()}


def _same_bytes(one: Array, other: Array) -> bool:
    return one is other or (one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes())


def _require_config(folder: Path, spec: ModelSpec, tensors: Tensors) -> None:
    """`config.json` must say what the description says. The end token is the tokenizer's, not the model's."""
    said = _read_json(folder / CONFIG)
    end: Json = said.get("eos_token_id")
    expected = hub_config(spec, tensors["embedding.weight"].dtype.name, end)
    common = said.keys() & expected.keys()
    other = {key for key in common if canonical(said[key]) != canonical(expected[key])}
    if wrong := sorted(other | (said.keys() ^ expected.keys())):
        raise Differs(f"{folder / CONFIG}: not what the description in {ABOUT} gives: {_listed(wrong)}")


def _require_own_code(folder: Path) -> None:
    """Code in the folder, which loaders may run, must be the module of this installation."""
    for path in sorted(folder.iterdir()):
        if is_code(path.name):
            refuse_foreign_code(f"{REMOTE}/{path.name}", sha256_file(path))


def _read_json(path: Path) -> Mapping[str, Json]:
    try:
        tree: Any = parse(read_small(path), path)
    except OSError as error:
        raise EverystepError(f"{path}: {error.strerror}; name a folder that `everystep pull` wrote") from error
    if not isinstance(tree, dict):
        raise EverystepError(f"{path}: not a JSON object")
    return tree


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
