"""Comparison of raw files with the manifest of their fetch, before a stage reads them.

A shard is compared while it is read, part by part (`check_shard`). Raw files come in any number and size, and one may
be read in several parts, so they are compared before the first is opened.
"""

from functools import partial
from pathlib import Path
from typing import Any

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError, well_shaped
from pipeline.base.files import list_files, safe_join, sha256_file
from pipeline.executor.ordered_map import ordered_map
from pipeline.formats.manifests import read_current
from pipeline.formats.stages import manifest_path


def check_fetched(stage: str, of: str | None, folder: Path) -> None:
    """Raise unless `folder` holds exactly the files, byte for byte, that the current manifest of a fetch lists."""
    where = manifest_path(stage, of)
    manifest = read_current(stage, of)
    with well_shaped(where):
        promised = {str(file["path"]): file for file in manifest["files"]}
    found = list_files(folder) if folder.is_dir() else []
    if sorted(promised) != found:
        odd = sorted({*promised} ^ {*found})
        raise EverystepError(
            f"{folder}: does not hold the files that {where} lists: {odd[0]!r} is missing or extra; run `dvc repro`"
        )
    total = sum(file["bytes"] for file in promised.values())
    with progress(f"{folder}: digests", total, "bytes") as advance:
        files = list(promised.values())
        for file, _ in zip(files, ordered_map(partial(_check_file, folder=folder, where=where), files), strict=True):
            advance(file["bytes"])


def _check_file(promised: dict[str, Any], folder: Path, where: Path) -> None:
    path = safe_join(folder, promised["path"])
    if sha256_file(path) != promised["sha256"]:
        raise Differs(f"{path}: its bytes are not those that {where} lists; run `dvc repro` to fetch them again")
