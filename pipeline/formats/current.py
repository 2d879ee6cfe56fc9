"""Manifests of a project that is being built: written by its stages, and read only while they are current.

A stage reads the manifests of the stages before it through `read_current`, which refuses whatever was not built from
the params, recipes and manifests of today: DVC runs stages in the right order only if it knows every edge, and a stage
that somebody starts by hand is in no order at all.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.base.files import safe_join, sha256_file, write_bytes
from pipeline.base.paths import MANIFESTS, PARAMS, RECIPES
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import Json, canonical, pretty
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import FORMAT, STAGE_OF, M, Manifest, path_of, read_any_manifest, read_manifest


class Basis(NamedTuple):
    """What a stage builds on, by SHA-256: manifests and recipes, and sections of `params.yaml`."""

    inputs: dict[str, str]
    params: dict[str, str]


def take_basis(inputs: Sequence[Path] = (), sections: Sequence[str] = (), root: Path = Path()) -> Basis:
    """The digests of now, taken when a stage begins. `sections` are written in DVC's way: `filter`, `sources.plays`."""
    params = load_yaml(PARAMS) if sections else {}
    return Basis(
        {path.as_posix(): _digest(root / path) for path in inputs},
        {name: section_digest(params, name) for name in sections},
    )


def write_manifest(
    kind: type[Manifest],
    of: str | None,
    basis: Basis,
    *,
    parameters: Json,
    outputs: Mapping[str, Sequence[Shard]],
    digested: Mapping[str, str] | None = None,
    root: Path = Path(),
    **facts: Json,
) -> None:
    """Write the manifest of a stage below `root`; `facts` are the keys of its own.

    The basis is refused if it changed while the stage ran: what came out belongs to neither. `digested` are further
    inputs whose SHA-256 is known already: corpora are not read again for it.
    """
    stage = STAGE_OF[kind]
    now = take_basis([Path(name) for name in basis.inputs], list(basis.params), root)
    before, after = basis.inputs | basis.params, now.inputs | now.params
    if changed := [name for name in before if before[name] != after[name]]:
        raise EverystepError(f"{changed[0]}: changed while {stage} ran, so its outputs belong to neither; run it again")
    tree = {
        "format": FORMAT,
        "stage": stage,
        "of": of,
        "inputs": basis.inputs | dict(digested or {}),
        "params": basis.params,
        "parameters": parameters,
        "outputs": {name: [shard.to_json() for shard in shards] for name, shards in outputs.items()},
        **facts,
    }
    path = path_of(kind, of)
    write_bytes(root / path, pretty(kind.from_json(tree, path).to_json()))


def read_current(kind: type[M], of: str | None = None) -> M:
    """The manifest that a stage of this project left, if a run today would write the same one: it and each manifest
    that it builds on were made with the sections of `params.yaml`, the recipes and the manifests as they are now."""
    path = path_of(kind, of)
    _require_current(path, set())
    return read_manifest(kind, path)


def read_all_current(kind: type[M], names: Sequence[str]) -> dict[str, M]:
    """The current manifest of each source or model. One of another name in their folder is refused: DVC does not
    delete what it no longer builds."""
    folder = path_of(kind, "any").parent
    for path in sorted(folder.glob("*.json")):
        if path.stem not in names:
            raise EverystepError(f"{path}: {PARAMS} no longer declares {path.stem!r}; delete this file")
    return {name: read_current(kind, name) for name in names}


def section_digest(params: Mapping[str, Json], name: str) -> str:
    """The SHA-256 of a section's canonical JSON; `a.b` is section b of a, and a missing one is null."""
    section: Json = params
    for key in name.split("."):
        section = section.get(key) if isinstance(section, Mapping) else None
    return hashlib.sha256(canonical(section)).hexdigest()


def _require_current(path: Path, checked: set[Path]) -> None:
    """Raise unless `path`, and everything below `manifests/` and `recipes/` that it builds on, is up to date."""
    manifest = read_any_manifest(path)
    if manifest.path != path:
        raise EverystepError(f"{path}: is the manifest of {manifest.stage} of {manifest.of}; run `dvc repro`")
    params = load_yaml(PARAMS) if manifest.params else {}
    for section, digest in manifest.params.items():
        if section_digest(params, section) != digest:
            raise _stale(path, f"`{section}` in {PARAMS} has changed")
    for name, digest in manifest.inputs.items():
        file = safe_join(Path(), name)
        if file.parts[0] not in (MANIFESTS.name, RECIPES.name) or file in checked:
            continue
        if not file.is_file() or sha256_file(file) != digest:
            raise _stale(path, f"{file} has changed")
        checked.add(file)
        if file.parts[0] == MANIFESTS.name:
            _require_current(file, checked)


def _stale(path: Path, what: str) -> EverystepError:
    return EverystepError(f"{path}: out of date: {what} since it was built; run `dvc repro`")


def _digest(path: Path) -> str:
    if not path.is_file():
        raise EverystepError(f"{path}: no such file; run `dvc repro` first")
    return sha256_file(path)
