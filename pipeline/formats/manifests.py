"""Manifests: what each stage built, in Git, without a clock, a host or a path of a machine.

`manifests/...json` is `{"format", "stage", "of", "inputs", "parameters", "outputs", ...counts}`. `inputs`
maps the manifests that this one builds on to the SHA-256 of their bytes, so the root manifest of a release
reaches every byte through a chain that needs no trust. `outputs` maps a folder or file to its shards.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.formats.canonical import Json, parse, pretty
from pipeline.formats.errors import EverystepError
from pipeline.formats.files import read_small, write_bytes
from pipeline.formats.lines import Shard
from pipeline.formats.project import MANIFESTS

FORMAT = "everystep/manifest/1"


def manifest_path(stage: str, of: str | None = None) -> Path:
    """Where the manifest of a stage stands; stages that run per source or model have a folder."""
    folders = {
        "fetch": "sources",
        "extract": "documents",
        "filter": "filtered",
        "train": "models",
        "evaluate": "evaluations",
    }
    single = {"dedup": "deduplicated", "tokenize": "tokens"}
    return MANIFESTS / folders[stage] / f"{of}.json" if of else MANIFESTS / f"{single.get(stage, stage)}.json"


def write_manifest(
    stage: str,
    of: str | None,
    *,
    inputs: Sequence[Path],
    parameters: Json,
    outputs: dict[str, list[Shard]],
    digested: Mapping[str, str] | None = None,
    **counts: Json,
) -> None:
    """Write the manifest of a stage; `counts` are what auditors ask of it.

    `digested` are further inputs whose SHA-256 is known already: corpora are not read once more for it.
    """
    tree = {
        "format": FORMAT,
        "stage": stage,
        "of": of,
        "inputs": {path.as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in inputs}
        | dict(digested or {}),
        "parameters": parameters,
        "outputs": {name: [shard.to_json() for shard in shards] for name, shards in outputs.items()},
        **counts,
    }
    write_bytes(manifest_path(stage, of), pretty(tree))


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
