"""Code in a release. Whoever loads a checkpoint with `trust_remote_code=True` runs it, whatever its digest says.

So only code that this installation has itself is let through, and nothing that loaders unpickle.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from pipeline.base.errors import Differs
from pipeline.base.files import safe_join, sha256_file

INSTALLED = Path(__file__).parents[2]
REMOTE = PurePosixPath("trainer/remote")
RUN = (".py", ".pyc", ".pyd", ".pyx", ".so", ".dll", ".dylib", ".exe", ".sh", ".bash", ".bat", ".cmd", ".ps1", ".js")
UNPICKLED = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".bin")


def is_code(path: str) -> bool:
    """Whether a file of this name is run or unpickled by common tools."""
    return path.lower().endswith(RUN + UNPICKLED)


def installed(paths: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each of these files of the project that this installation has."""
    files = {path: safe_join(INSTALLED, path, follow_links=True) for path in paths}
    return {path: sha256_file(file) for path, file in files.items() if file.is_file()}


def refuse_foreign_code(path: str, sha256: str) -> None:
    """Raise `Differs` if the file `path` of a release, with this SHA-256, is code that this installation lacks."""
    if not is_code(path):
        return
    own = INSTALLED / path
    if PurePosixPath(path).parent != REMOTE or not own.is_file():
        raise Differs(f"{path}: code that Everystep did not write; do not run it")
    if hashlib.sha256(own.read_bytes()).hexdigest() != sha256:
        raise Differs(
            f"{path}: not the code of this installation of Everystep; do not run it, or install the version that made "
            "the release"
        )
