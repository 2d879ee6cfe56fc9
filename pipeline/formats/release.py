"""What a release holds, and how each kind of file is digested.

A release is a project without its scratch: the same relative paths, so one reader serves both. The root
manifest `release.json` lists every file but itself, `SHA256SUMS` and `signatures/`, each with the digest of
its *content* by kind:

    file      SHA-256 of the bytes
    lines     SHA-256 of the uncompressed lines of a `.jsonl.zst`
    table     SHA-256 of the rows of a parquet file as canonical JSONL
    tensors   `tensors-v1` digest of a safetensors file

`SHA256SUMS` lists every file but itself and `signatures/` with the SHA-256 of its bytes, for coreutils.
"""

from pathlib import Path

from pipeline.base.errors import EverystepError
from pipeline.base.files import read_small, safe_join, sha256_file
from pipeline.base.paths import MANIFESTS
from pipeline.formats.canonical import Json, canonical, parse
from pipeline.formats.checkpoints import Record
from pipeline.formats.lines import LineFile
from pipeline.formats.tables import digest_table
from pipeline.formats.tensors import TensorFile

FORMAT = "everystep/release/1"
ROOT, SUMS, SIGNATURES = "release.json", "SHA256SUMS", "signatures"
REVISIONS = "revisions.jsonl"
CARD, NOTICE = "README.md", "NOTICE"


def kind_of(path: str) -> str:
    """How the content of a file is digested, by its name."""
    if path.endswith(".jsonl.zst"):
        return "lines"
    if path.endswith(".parquet"):
        return "table"
    return "tensors" if path.endswith(".safetensors") else "file"


def content_digest(path: Path, kind: str) -> str:
    """The digest of record of one file, read in pieces."""
    if kind == "file":
        return sha256_file(path)
    if kind == "lines":
        with LineFile(path) as file:
            return file.digest()[2]
    if kind == "table":
        return digest_table(path)[2]
    if kind == "tensors":
        with TensorFile(path) as tensors:
            return tensors.digest()
    raise EverystepError(f"{path}: {kind!r} is not a kind of content")


def is_listed(path: str) -> bool:
    """Whether the root manifest lists a file of a release."""
    return path not in (ROOT, SUMS) and not path.startswith(SIGNATURES + "/")


def members(root: dict[str, Json], folder: str) -> list[str]:
    """Names with a manifest in `manifests/FOLDER/` of a release: its `sources`, its `models`."""
    prefix = f"{MANIFESTS}/{folder}/"
    return sorted(path.removeprefix(prefix).removesuffix(".json") for path in root["files"] if path.startswith(prefix))


def revision_line(record: Record) -> bytes:
    """What `revisions.jsonl` says of a checkpoint."""
    keys = ("model", "revision", "step", "tokens", "weights_digest", "state_digest")
    return canonical({key: record.to_json()[key] for key in keys}) + b"\n"


def read_root(release: Path, follow_links: bool = False) -> dict[str, Json]:
    """The root manifest; exactly this version of the format is read."""
    return parse_root(release_root(release, follow_links), release / ROOT)


def release_root(release: Path, follow_links: bool = False) -> bytes:
    """The bytes of the root manifest of a release."""
    path = safe_join(release, ROOT, follow_links)
    if not path.is_file():
        raise EverystepError(f"{path}: no such file; {release} is not a release (build one with `make release`)")
    return read_small(path)


def parse_root(content: bytes, path: Path) -> dict[str, Json]:
    """The root manifest in `content`, the bytes of the file `path`."""
    tree = parse(content, path)
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise EverystepError(f"{path}: not a root manifest of format {FORMAT}")
    texts = isinstance(tree.get("name"), str) and isinstance(tree.get("version"), str)
    if tree.keys() != {"format", "name", "version", "files"} or not texts or not isinstance(tree["files"], dict):
        raise EverystepError(f"{path}: does not hold just format, name, version and files")
    for name, entry in tree["files"].items():
        is_entry = isinstance(entry, dict) and entry.keys() == {"digest", "kind"}
        if not is_entry or not isinstance(entry["digest"], str) or entry["kind"] != kind_of(name):
            raise EverystepError(f"{path}: files: {name!r}: expected a digest and the kind {kind_of(name)!r}")
    return tree
