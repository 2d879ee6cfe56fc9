"""The chain of manifests: each stands in its own place, was built from those beside it, and promises what is there.

Read after `verify` has found each file to be the promised one. The checkpoints of a model go through the gate again,
and `revisions.jsonl` must list exactly them.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.base.errors import EverystepError, well_shaped
from pipeline.base.files import read_small
from pipeline.base.paths import MANIFESTS
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json
from pipeline.formats.manifests import read_manifest
from pipeline.formats.release import REVISIONS, ROOT, revision_line
from pipeline.formats.stages import manifest_path
from pipeline.release.gate import check_model

# Where the shards that a manifest names lie, by stage; those of other stages are not part of a release, but for the
# tables that say what happened to documents.
FOLDERS = {"tokenize": "data/tokens", "train": "runs/{of}", "evaluate": "results/{of}"}
TABLES = ("removals", "replaced")
FOLDERS_OF_TABLES = {
    "extract": "data/documents/{of}",
    "filter": "data/filtered/{of}",
    "dedup": "data/deduplicated",
    "tokenize": "data/tokens",
}
PROMISED_BELOW = ("data/", "runs/", "results/")
CHECKPOINT_FILES = (ck.WEIGHTS, ck.OPTIMIZER, ck.CONFIG, ck.RECORD)


def chain_faults(release: Path, root: dict[str, Json], stored: dict[str, str], follow_links: bool) -> list[str]:
    """Each fault in the chain. `stored` has the SHA-256 of every file of the release."""
    promised: set[str] = set()
    records: list[ck.Record] = []
    faults: list[str] = []
    for path in sorted(path for path in root["files"] if path.startswith(f"{MANIFESTS}/")):
        try:
            with well_shaped(path):
                manifest = read_manifest(release / path)
                _require_own_place(path, manifest)
                faults += _inputs(path, manifest, stored)
                promises = _promises(manifest)
                faults += _outputs(root, path, promises)
                promised |= promises.keys()
                if manifest["stage"] == "train":
                    found = check_model(release, manifest, follow_links)
                    promised |= {f"runs/{r.model}/{r.revision}/{file}" for r in found for file in CHECKPOINT_FILES}
                    records += found
        except (EverystepError, OSError) as error:
            faults.append(f"{path}: {error}")
    if faults:
        return faults
    tables = {path.removesuffix("jsonl") + "csv" for path in promised if path.endswith(".jsonl")}
    below = {path for path in root["files"] if path.startswith(PROMISED_BELOW)}
    unpromised = [f"{path}: no manifest promises it" for path in sorted(below - promised - tables)]
    return [*unpromised, *_revisions(release, root, records)]


def _require_own_place(path: str, manifest: dict[str, Json]) -> None:
    """A manifest that spoke of another model would hide the one whose place it has."""
    stage, of = manifest["stage"], manifest["of"]
    if manifest_path(stage, of).as_posix() != path:
        raise EverystepError(f"is a manifest of stage {stage}, of {of}, in another's place")


def _inputs(path: str, manifest: dict[str, Json], stored: dict[str, str]) -> Iterator[str]:
    for name, digest in manifest["inputs"].items():
        if stored.get(name) != digest:
            yield f"{path}: was built from another {name} than the one in the release"


def shipped_folder(manifest: dict[str, Json], output: str) -> str | None:
    """The folder in a release that holds the shards of an output, or None: a release does not ship it."""
    folders = FOLDERS_OF_TABLES if output in TABLES else FOLDERS
    template = folders.get(manifest["stage"])
    return template and template.format(of=manifest["of"])


def _promises(manifest: dict[str, Json]) -> dict[str, str]:
    """The files that a manifest names and a release ships, with the digest of their content."""
    promises: dict[str, str] = {}
    for output, shards in manifest["outputs"].items():
        folder = shipped_folder(manifest, output)
        if folder is not None:
            promises |= {f"{folder}/{shard['path']}": shard["sha256"] for shard in shards}
    if manifest["stage"] == "tokenizer":
        promises |= {f"data/tokenizer/{file['path']}": file["sha256"] for file in manifest["files"]}
    return promises


def _outputs(root: dict[str, Json], path: str, promises: dict[str, str]) -> Iterator[str]:
    for name, digest in promises.items():
        if root["files"].get(name, {}).get("digest") != digest:
            yield f"{path}: promises {name} with another digest than {ROOT}"


def _revisions(release: Path, root: dict[str, Json], records: list[ck.Record]) -> Iterator[str]:
    if REVISIONS not in root["files"]:
        yield f"{REVISIONS}: missing"
    elif sorted(read_small(release / REVISIONS).splitlines(keepends=True)) != sorted(map(revision_line, records)):
        yield f"{REVISIONS}: does not list exactly the checkpoints of the release"
