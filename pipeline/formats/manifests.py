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

from pipeline.formats.canonical import Json, canonical, parse, pretty
from pipeline.formats.errors import EverystepError, well_shaped
from pipeline.formats.files import plain_name, read_small, safe_join, write_bytes
from pipeline.formats.lines import Shard
from pipeline.formats.project import MANIFESTS, PARAMS, RECIPES
from pipeline.formats.yaml import load_yaml

FORMAT = "everystep/manifest/2"


def manifest_path(stage: str, of: str | None = None) -> Path:
    """Where the manifest of a stage is; those of stages that run per source or model have a folder."""
    folders = {
        "fetch": "sources",
        "extract": "documents",
        "filter": "filtered",
        "train": "models",
        "evaluate": "evaluations",
    }
    single = {"dedup": "deduplicated", "tokenize": "tokens"}
    return (
        MANIFESTS / folders[stage] / f"{plain_name(of, stage)}.json"
        if of is not None
        else MANIFESTS / f"{single.get(stage, stage)}.json"
    )


def write_manifest(
    stage: str,
    of: str | None,
    *,
    inputs: Sequence[Path],
    sections: Sequence[str] = (),
    parameters: Json,
    outputs: dict[str, list[Shard]],
    digested: Mapping[str, str] | None = None,
    root: Path = Path(),
    **counts: Json,
) -> None:
    """Write the manifest of a stage below `root`; `counts` are what auditors ask of it.

    `sections` names what the stage read of `params.yaml`, in DVC's way: `filter`, `sources.plays`. `digested` are
    further inputs whose SHA-256 is known already: corpora are not read once more for it.
    """
    tree = {
        "format": FORMAT,
        "stage": stage,
        "of": of,
        "inputs": {path.as_posix(): hashlib.sha256((root / path).read_bytes()).hexdigest() for path in inputs}
        | dict(digested or {}),
        "params": {name: section_digest(load_yaml(PARAMS), name) for name in sections},
        "parameters": parameters,
        "outputs": {name: [shard.to_json() for shard in shards] for name, shards in outputs.items()},
        **counts,
    }
    write_bytes(root / manifest_path(stage, of), pretty(tree))


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
    _require_current(path, load_yaml(PARAMS), set())
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


def _require_current(path: Path, params: Mapping[str, Json], checked: set[Path]) -> None:
    """Raise unless `path`, and everything below `manifests/` and `recipes/` that it builds on, is up to date."""
    manifest = read_manifest(path)
    with well_shaped(path):
        for section, digest in manifest["params"].items():
            if section_digest(params, section) != digest:
                raise _stale(path, f"`{section}` in {PARAMS} has changed")
        for name, digest in manifest["inputs"].items():
            file = safe_join(Path(), name)
            if file.parts[0] not in (MANIFESTS.name, RECIPES.name) or file in checked:
                continue
            if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
                raise _stale(path, f"{file} has changed")
            checked.add(file)
            if file.parts[0] == MANIFESTS.name:
                _require_current(file, params, checked)


def _stale(path: Path, what: str) -> EverystepError:
    return EverystepError(f"{path}: out of date: {what} since it was built; run `dvc repro`")


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
