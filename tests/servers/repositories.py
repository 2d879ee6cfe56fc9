"""Repositories as a Hub keeps them, without HTTP: commits, branches, tags, and the bytes of large files apart.

Small files are Git blobs in memory. Large ones are objects named by their SHA-256 in a folder, and a repository knows
only those that were uploaded to it. A commit's id is a function of its files and its parent.
"""

import base64
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DATE = "2020-01-01T00:00:00.000Z"
SUFFIXES = (".arrow", ".bin", ".bz2", ".gz", ".npy", ".npz", ".parquet", ".pt", ".safetensors", ".tar", ".zip", ".zst")
SMALL_BYTES = 10 << 20
"""Larger files are kept as objects whatever their name."""
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in SUFFIXES).encode()
"""The file `.gitattributes` of a new repository."""


class Refused(Exception):  # noqa: N818 - an answer, not an error of the server
    """The answer to a request that cannot be done: a status, the Hub's code for it and a message."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


@dataclass(frozen=True)
class Blob:
    """A file of a commit. `oid` is that of Git: of its bytes, or of the pointer to the object `sha256`."""

    oid: str
    size: int
    sha256: str = ""


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    title: str
    files: dict[str, Blob]


@dataclass
class Store:
    """The bytes of all repositories."""

    folder: Path
    small: dict[str, bytes] = field(default_factory=dict)

    def put(self, content: bytes) -> Blob:
        """Keep a small file."""
        oid = git_oid(content)
        self.small[oid] = content
        return Blob(oid, len(content))

    def put_large(self, content: bytes) -> Blob:
        sha256 = hashlib.sha256(content).hexdigest()
        self.object(sha256).write_bytes(content)
        return self.pointer(sha256)

    def pointer(self, sha256: str) -> Blob:
        """The file of a commit that stands for an object."""
        size = self.object(sha256).stat().st_size
        return Blob(git_oid(pointer_text(sha256, size)), size, sha256)

    def object(self, sha256: str) -> Path:
        """Where an object is, or is to be."""
        return self.folder / sha256

    def content(self, blob: Blob) -> bytes | Path:
        return self.object(blob.sha256) if blob.sha256 else self.small[blob.oid]

    def receive(self, sha256: str, body: Iterator[bytes]) -> None:
        """Write an object while it comes; refused if it is another."""
        digest = hashlib.sha256()
        path = self.folder / f"{sha256}.{id(body)}"
        with path.open("wb") as file:
            for piece in body:
                digest.update(piece)
                file.write(piece)
        if digest.hexdigest() != sha256:
            path.unlink()
            raise Refused(400, "The bytes are not those of the digest.")
        path.rename(self.object(sha256))


@dataclass
class Repository:
    """`objects`: the large files that were uploaded to it."""

    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: set[str] = field(default_factory=set)
    is_private: bool = False

    def at(self, revision: str) -> Commit:
        """The commit of a branch, a tag or an id."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        commit = self.commits.get(self.branches.get(name) or self.tags.get(name) or revision)
        if commit is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def add(self, branch: str, files: dict[str, Blob], title: str, commit_id: str = "") -> Commit:
        """Commit files as the new head of a branch."""
        parent = self.branches.get(branch)
        content = [parent, sorted((path, blob.oid) for path, blob in files.items())]
        commit = Commit(commit_id or git_oid(json.dumps(content).encode()), parent, title, files)
        self.commits[commit.id] = commit
        self.branches[branch] = commit.id
        return commit

    def history(self, revision: str) -> list[Commit]:
        """Commits, the last one first."""
        commits = [self.at(revision)]
        while parent := commits[-1].parent:
            commits.append(self.commits[parent])
        return commits

    def changed(self, files: dict[str, Blob], operations: list[dict[str, Any]], store: Store) -> dict[str, Blob]:
        """The files after the operations of a commit, as a client sends them."""
        after = dict(files)
        for operation in operations:
            value = operation["value"]
            path = value["path"]
            match operation["key"]:
                case "file":
                    after[path] = store.put(base64.b64decode(value["content"]))
                case "lfsFile":
                    if value["oid"] not in self.objects:
                        raise Refused(400, f"{path}: the pointer is to a file that was not uploaded.")
                    after[path] = store.pointer(value["oid"])
                    if value.get("size", after[path].size) != after[path].size:
                        raise Refused(400, f"{path}: the uploaded file has another size.")
                case "deletedFile" | "deletedFolder" as key:
                    folder = f"{path.rstrip('/')}/"
                    is_file = key == "deletedFile"
                    gone = [name for name in after if (name == path if is_file else name.startswith(folder))]
                    if not gone:
                        raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                    for name in gone:
                        del after[name]
                case other:
                    raise Refused(400, f"unknown operation: {other}")
        return after


def entries(files: dict[str, Blob], under: str, *, recursive: bool) -> list[dict[str, Any]]:
    """What the Hub lists below a folder: files, and folders by the names of their files."""
    prefix = f"{under}/" if under else ""
    found: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        parts = path.removeprefix(prefix).split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = prefix + "/".join(parts[:depth])
            found[folder] = folder_entry(folder)
        if recursive or len(parts) == 1:
            found[path] = file_entry(path, blob)
    return list(found.values())


def file_entry(path: str, blob: Blob) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": blob.size, "oid": blob.oid}
    if blob.sha256:
        entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
    return entry


def folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())}


def pointer_text(sha256: str, size: int) -> bytes:
    """What Git has in the place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def git_oid(content: bytes) -> str:
    """The name that Git gives to a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
