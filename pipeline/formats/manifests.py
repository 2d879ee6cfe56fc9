"""Manifests: what each stage built, in Git, without a clock, a host or a path of a machine.

`manifests/...json` is `{"format", "stage", "of", "inputs", "params", "parameters", "outputs", ...counts}`. `inputs`
maps the manifests that this one builds on to the SHA-256 of their bytes, so the root manifest of a release
reaches every byte through a chain that needs no trust. `params` maps the sections of `params.yaml` that the stage read
to the SHA-256 of their canonical JSON. `outputs` maps a folder or file to its shards.

A stage reads the manifests of the stages before it through `read_current`, which refuses whatever was not built from
the params, recipes and manifests of today: DVC runs stages in the right order only if it knows every edge, and a stage
that somebody starts by hand is in no order at all.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.base.errors import Differs, EverystepError, well_shaped
from pipeline.base.files import read_small, safe_join, sha256_file, write_bytes
from pipeline.base.paths import MANIFESTS, PARAMS, RECIPES
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import Json, canonical, parse, pretty
from pipeline.formats.lines import Shard
from pipeline.formats.stages import manifest_path

FORMAT = "everystep/manifest/2"


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
    stage: str,
    of: str | None,
    basis: Basis,
    *,
    parameters: Json,
    outputs: dict[str, list[Shard]],
    digested: Mapping[str, str] | None = None,
    root: Path = Path(),
    **counts: Json,
) -> None:
    """Write the manifest of a stage below `root`; `counts` are what auditors ask of it.

    The basis is refused if it changed while the stage ran: what came out belongs to neither. `digested` are further
    inputs whose SHA-256 is known already: corpora are not read once more for it.
    """
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
        **counts,
    }
    write_bytes(root / manifest_path(stage, of), pretty(tree))


def _digest(path: Path) -> str:
    if not path.is_file():
        raise EverystepError(f"{path}: no such file; run `dvc repro` first")
    return sha256_file(path)


def read_manifest(path: Path, stage: str | None = None) -> dict[str, Json]:
    """The manifest at `path`, of this version and (when given) this stage."""
    try:
        content = read_small(path)
    except FileNotFoundError as error:
        raise EverystepError(f"{path}: no such file; run `dvc repro` first, or point at a release folder") from error
    except OSError as error:
        raise EverystepError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_manifest(content, path, stage)


def parse_manifest(content: bytes, path: Path, stage: str | None = None) -> dict[str, Json]:
    """The manifest in `content`, the bytes of the file `path`; the same rules."""
    tree = parse(content, path)
    if not isinstance(tree, dict) or tree.get("format") != FORMAT or (stage and tree.get("stage") != stage):
        raise EverystepError(f"{path}: not a manifest of format {FORMAT}{f' of stage {stage}' if stage else ''}")
    return tree


def read_current(stage: str, of: str | None = None) -> dict[str, Json]:
    """The manifest that a stage of this project left, if a run today would write the same one: it and each manifest
    that it builds on were made with the sections of `params.yaml`, the recipes and the manifests as they are now."""
    path = manifest_path(stage, of)
    _require_current(path, set())
    return read_manifest(path, stage)


def read_all_current(stage: str, names: Sequence[str]) -> dict[str, dict[str, Json]]:
    """The current manifest of each source or model. One of another name in their folder is refused: DVC does not
    delete what it no longer builds."""
    folder = manifest_path(stage, "any").parent
    for path in sorted(folder.glob("*.json")):
        if path.stem not in names:
            raise EverystepError(f"{path}: {PARAMS} no longer declares {path.stem!r}; delete this file")
    return {name: read_current(stage, name) for name in names}


def section_digest(params: Mapping[str, Json], name: str) -> str:
    """The SHA-256 of a section's canonical JSON; `a.b` is section b of a, and a missing one is null."""
    section: Json = params
    for key in name.split("."):
        section = section.get(key) if isinstance(section, Mapping) else None
    return hashlib.sha256(canonical(section)).hexdigest()


def _require_current(path: Path, checked: set[Path]) -> None:
    """Raise unless `path`, and everything below `manifests/` and `recipes/` that it builds on, is up to date."""
    manifest = read_manifest(path)
    with well_shaped(path):
        if manifest_path(manifest["stage"], manifest["of"]) != path:
            raise EverystepError(f"{path}: is the manifest of {manifest['stage']} of {manifest['of']}; run `dvc repro`")
        params = load_yaml(PARAMS) if manifest["params"] else {}
        for section, digest in manifest["params"].items():
            if section_digest(params, section) != digest:
                raise _stale(path, f"`{section}` in {PARAMS} has changed")
        for name, digest in manifest["inputs"].items():
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


def check_file(manifest: dict[str, Json], path: Path) -> None:
    """Raise `Differs` unless `path` has the bytes that a manifest lists under `files` for its name."""
    with well_shaped(f"manifest of {manifest['stage']}"):
        promised = {str(file["path"]): file["sha256"] for file in manifest["files"]}
    if sha256_file(path) != promised.get(path.name):
        raise Differs(f"{path}: not the file that the manifest of {manifest['stage']} lists; run `dvc repro`")


def shards_of(manifest: dict[str, Json], output: str) -> list[Shard]:
    """The shards of one output of a manifest."""
    try:
        shards = [Shard(**shard) for shard in manifest["outputs"][output]]
        for shard in shards:
            if not _is_plausible(shard):
                raise TypeError(f"{shard} is not a shard")
        return shards
    except (KeyError, TypeError) as error:
        raise EverystepError(f"a manifest of stage {manifest.get('stage')} does not list {output}: {error}") from error


def _is_plausible(shard: Shard) -> bool:
    """Whether the fields hold what they should; that the path stays in its folder is for `safe_join`."""
    counts = type(shard.lines) is int and type(shard.bytes) is int and shard.lines >= 0 and shard.bytes >= 0
    texts = isinstance(shard.path, str) and isinstance(shard.sha256, str)
    return counts and texts and re.fullmatch("[0-9a-f]{64}", shard.sha256) is not None
