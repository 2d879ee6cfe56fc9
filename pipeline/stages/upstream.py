"""Comparison of raw files with the manifest of their fetch, before a stage reads them.

A shard is compared while it is read, part by part (`check_shard`). Raw files come in any number and size, and one may
be read in several parts, so they are compared before the first is opened.
"""

from functools import partial
from pathlib import Path

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files, safe_join, sha256_file
from pipeline.executor.ordered_map import ordered_map
from pipeline.formats.current import read_current
from pipeline.formats.manifests import EvaluationSets, Fetched, StoredFile


def check_fetched(kind: type[Fetched | EvaluationSets], of: str | None, folder: Path) -> None:
    """Raise unless `folder` holds exactly the files, byte for byte, that the current manifest of a fetch lists."""
    manifest = read_current(kind, of)
    promised = {file.path: file for file in manifest.files}
    found = list_files(folder) if folder.is_dir() else []
    if sorted(promised) != found:
        odd = sorted({*promised} ^ {*found})
        raise EverystepError(
            f"{folder}: does not hold the files that {manifest.path} lists: {odd[0]!r} is missing or extra; "
            "run `dvc repro`"
        )
    files = list(promised.values())
    check = partial(_check_file, folder=folder, where=manifest.path)
    with progress(f"{folder}: digests", sum(file.bytes or 0 for file in files), "bytes") as advance:
        for file, _ in zip(files, ordered_map(check, files), strict=True):
            advance(file.bytes or 0)


def _check_file(promised: StoredFile, folder: Path, where: Path) -> None:
    path = safe_join(folder, promised.path)
    if sha256_file(path) != promised.sha256:
        raise Differs(f"{path}: its bytes are not those that {where} lists; run `dvc repro` to fetch them again")
