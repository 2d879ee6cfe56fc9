"""Software Heritage identifiers (ISO/IEC 18670) of folders: `swh:1:dir:` and the SHA-1 that Git gives the same tree."""

import hashlib
from collections.abc import Mapping
from pathlib import PurePosixPath


def swhid(files: Mapping[str, bytes]) -> str:
    """The identifier of a folder that holds exactly `files`, by relative path; none of them is executable."""
    return f"swh:1:dir:{_tree({PurePosixPath(path).parts: content for path, content in files.items()}).hex()}"


def _tree(files: Mapping[tuple[str, ...], bytes]) -> bytes:
    """Git sorts the entries of a tree by the bytes of their names, as if the name of a folder ended in a slash."""
    entries: dict[bytes, bytes] = {}
    for name in {parts[0] for parts in files}:
        inside = {parts[1:]: content for parts, content in files.items() if parts[0] == name}
        if () in inside:
            entries[name.encode()] = b"100644 %b\0%b" % (name.encode(), _object(b"blob", inside[()]))
        else:
            entries[name.encode() + b"/"] = b"40000 %b\0%b" % (name.encode(), _tree(inside))
    return _object(b"tree", b"".join(entry for _, entry in sorted(entries.items())))


def _object(kind: bytes, content: bytes) -> bytes:
    return hashlib.sha1(b"%b %d\0%b" % (kind, len(content), content), usedforsecurity=False).digest()
