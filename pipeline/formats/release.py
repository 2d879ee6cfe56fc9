"""What a release holds, and how each kind of file is digested.

A release is a project without its scratch: the same relative paths, so one reader serves both. The root
manifest `release.json` lists every file but itself, `SHA256SUMS` and what others put beside it later, `signatures/` and
`receipts/`, each with the digest of its *content* by kind:

    file      SHA-256 of the bytes
    lines     SHA-256 of the uncompressed lines of a `.jsonl.zst`
    table     SHA-256 of the rows of a parquet file as canonical JSONL
    tensors   `tensors-v1` digest of a safetensors file

`SHA256SUMS` lists these files and `release.json` with the SHA-256 of their bytes, for coreutils.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pipeline.base.errors import EverystepError
from pipeline.base.files import read_small, safe_join, sha256_file
from pipeline.formats.canonical import canonical, parse
from pipeline.formats.checkpoints import Record
from pipeline.formats.lines import LineFile
from pipeline.formats.tables import digest_table
from pipeline.formats.tensors import TensorFile
from pipeline.formats.typed import Count, TensorsDigest, Typed

FORMAT: Literal["everystep/release/3"] = "everystep/release/3"
Kind = Literal["file", "lines", "table", "tensors"]
ROOT, SUMS = "release.json", "SHA256SUMS"
SIGNATURES, RECEIPTS, NOTICES = "signatures", "receipts", "notices"
BESIDE = (f"{SIGNATURES}/", f"{RECEIPTS}/", f"{NOTICES}/")
"""Beginnings of the paths that others may add to a release; nothing in it lists them."""
REVISIONS = "revisions.jsonl"


def kind_of(path: str) -> Kind:
    """How the content of a file is digested, by its name."""
    if path.endswith(".jsonl.zst"):
        return "lines"
    if path.endswith(".parquet"):
        return "table"
    return "tensors" if path.endswith(".safetensors") else "file"


def content_digest(path: Path, kind: Kind) -> str:
    """The digest of record of one file, read in pieces."""
    if kind == "file":
        return sha256_file(path)
    if kind == "lines":
        with LineFile(path) as file:
            return file.digest()[2]
    if kind == "table":
        return digest_table(path)[2]
    with TensorFile(path) as tensors:
        return tensors.digest()


def is_listed(path: str) -> bool:
    """Whether the root manifest lists a file of a release."""
    return path not in (ROOT, SUMS) and not path.startswith(BESIDE)


class ListedFile(Typed):
    """A file of a release in its root manifest."""

    kind: Kind
    """How its content is digested."""
    digest: str
    """Digest of its content."""


class Root(Typed):
    """The root manifest, `release.json`."""

    format: Literal["everystep/release/3"]
    """Version of this form."""
    name: str
    """Name of the release."""
    version: str
    """Version of the release."""
    files: dict[str, ListedFile]
    """Path of every file but this, `SHA256SUMS` and what is below `signatures/` and `receipts/` → kind and digest."""


def contents_digest(files: Mapping[str, ListedFile]) -> str:
    """One digest of files, from the digest of each: SHA-256 of a line `DIGEST  PATH` for each, sorted by path.

    Of all files of a release but its papers it is the *contents digest*, which the card names: it says of everything
    that the papers are made from what `release.json` says, and, unlike that, can be in a paper.
    """
    lines = [f"{file.digest}  {path}\n" for path, file in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class Revision(Typed):
    """A checkpoint in `revisions.jsonl`."""

    model: str
    """Name of the model."""
    revision: str
    """Name of the checkpoint."""
    step: Count
    """Its step."""
    tokens: Count
    """Tokens read so far."""
    weights_digest: TensorsDigest
    """Digest of the weights."""
    state_digest: TensorsDigest
    """Digest of the whole state."""


def revision_line(record: Record) -> bytes:
    """The line of a checkpoint in `revisions.jsonl`."""
    tree = record.to_json()
    line = Revision.from_json({key: tree[key] for key in Revision.model_fields}, record.revision)
    return canonical(line.to_json()) + b"\n"


def release_root(release: Path, follow_links: bool = False) -> bytes:
    """The bytes of the root manifest of a release."""
    path = safe_join(release, ROOT, follow_links)
    if not path.is_file():
        raise EverystepError(f"{path}: no such file; {release} is not a release (build one with `make release`)")
    return read_small(path)


def parse_root(content: bytes, path: Path) -> Root:
    """The root manifest in `content`, the bytes of the file `path`."""
    tree = parse(content, path)
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise EverystepError(f"{path}: not a root manifest of format {FORMAT}")
    root = Root.from_json(tree, path)
    for name, file in root.files.items():
        if file.kind != kind_of(name):
            raise EverystepError(f"{path}: files: {name!r}: expected the kind {kind_of(name)!r}, got {file.kind!r}")
    return root
