"""Verify: recompute every digest of a release, and every link of the chain of manifests.

Found are: a missing, an extra or a changed file; a stored byte that `SHA256SUMS` does not promise; a manifest
whose inputs are not the ones beside it; a shard that its manifest does not promise; a checkpoint that fails the
gate. Everything is checked, and everything that differs is named.
"""

from collections.abc import Iterator
from pathlib import Path

from pipeline.console import progress
from pipeline.formats.canonical import Json
from pipeline.formats.errors import Differs, EverystepError
from pipeline.formats.files import list_files, safe_join, sha256_file
from pipeline.formats.manifests import read_manifest
from pipeline.formats.project import MANIFESTS
from pipeline.release.gate import check_model
from pipeline.release.layout import ROOT, SIGNATURES, SUMS, content_digest, is_listed, read_root

# Where the shards that a manifest names lie, by stage; those of other stages are not part of a release.
FOLDERS = {"tokenize": "data/tokens", "train": "runs/{of}", "evaluate": "results/{of}"}
REMOVALS = {"extract": "data/documents/{of}", "filter": "data/filtered/{of}", "dedup": "data/deduplicated"}


def verify(release: Path) -> list[str]:
    """Everything in the release that differs from what it promises, a line each; empty when all is well."""
    root = read_root(release)
    files = list_files(release)
    with progress("verify", len(files), "files") as advance:
        faults = list(_file_set(root, files))
        faults += _sums(release, files)
        for path in files:
            faults += _content(release, path, root)
            advance(1)
    if not faults:  # the chain is made of the files that were just found to be right
        faults += _chain(release, root)
    return faults


def verified_file(release: Path, root: dict[str, Json], path: str) -> Path:
    """One file of a release after its content was found to be what the root manifest promises."""
    file = safe_join(release, path)
    if path not in root["files"] or not file.is_file():
        raise EverystepError(f"{file}: the release does not hold this file")
    entry = root["files"][path]
    if content_digest(file, entry["kind"]) != entry["digest"]:
        raise Differs(f"{file}: its content is not what {ROOT} promises; fetch the release again")
    return file


def _file_set(root: dict[str, Json], files: list[str]) -> Iterator[str]:
    present = {path for path in files if is_listed(path)}
    yield from (f"{path}: missing" for path in sorted(root["files"].keys() - present))
    yield from (f"{path}: extra; {ROOT} does not list it" for path in sorted(present - root["files"].keys()))


def _sums(release: Path, files: list[str]) -> Iterator[str]:
    """The stored bytes of every file but SHA256SUMS itself and signatures."""
    path = release / SUMS
    if not path.is_file():
        yield f"{SUMS}: missing"
        return
    promised = {}
    for line in path.read_text("utf-8", "replace").splitlines():
        digest, separator, name = line.partition("  ")
        if not separator or name in promised:
            yield f"{SUMS}: not a line of digest and path: {line[:80]!r}"
            return
        promised[name] = digest
    expected = {file for file in files if file != SUMS and not file.startswith(f"{SIGNATURES}/")}
    yield from (f"{name}: {SUMS} lists it, but it is missing" for name in sorted(promised.keys() - expected))
    yield from (f"{name}: {SUMS} does not list it" for name in sorted(expected - promised.keys()))
    for name in sorted(expected & promised.keys()):
        if (release / name).is_symlink() or sha256_file(release / name) != promised[name]:
            yield f"{name}: its bytes are not those in {SUMS}"


def _content(release: Path, path: str, root: dict[str, Json]) -> Iterator[str]:
    entry = root["files"].get(path)
    if entry is None:
        return
    try:
        if content_digest(safe_join(release, path), entry["kind"]) != entry["digest"]:
            yield f"{path}: its content is not what {ROOT} promises"
    except EverystepError as error:
        yield f"{path}: {error}"


def _chain(release: Path, root: dict[str, Json]) -> Iterator[str]:
    for path in sorted(path for path in root["files"] if path.startswith(f"{MANIFESTS}/")):
        try:
            manifest = read_manifest(release / path)
            yield from _inputs(release, path, manifest)
            yield from _outputs(root, path, manifest)
            if manifest["stage"] == "train":
                check_model(release, manifest)
        except EverystepError as error:
            yield f"{path}: {error}"


def _inputs(release: Path, path: str, manifest: dict[str, Json]) -> Iterator[str]:
    for name, digest in manifest["inputs"].items():
        file = safe_join(release, name)
        if not file.is_file() or sha256_file(file) != digest:
            yield f"{path}: was built from another {name} than the one in the release"


def _outputs(root: dict[str, Json], path: str, manifest: dict[str, Json]) -> Iterator[str]:
    """Every shard that the manifest names and that a release ships has the digest that the root promises."""
    for output, shards in manifest["outputs"].items():
        template = (REMOVALS if output == "removals" else FOLDERS).get(manifest["stage"])
        for shard in shards:
            if template is None:
                continue
            name = f"{template.format(of=manifest['of'])}/{shard['path']}"
            if root["files"].get(name, {}).get("digest") != shard["sha256"]:
                yield f"{path}: promises {name} with another digest than {ROOT}"
    for file in manifest.get("files", []) if manifest["stage"] == "tokenizer" else []:
        name = f"data/tokenizer/{file['path']}"
        if root["files"].get(name, {}).get("digest") != file["sha256"]:
            yield f"{path}: promises {name} with another digest than {ROOT}"
