"""Show: what is in a release, from its manifests, for a person or (as one JSON object) for a program."""

from pathlib import Path
from typing import Any

from pipeline.formats.files import list_files
from pipeline.release.facts import gather
from pipeline.release.layout import read_root


def summarize(release: Path) -> dict[str, Any]:
    """The facts that `everystep show` prints."""
    root = read_root(release)
    files = list_files(release)
    return {
        "name": root["name"],
        "version": root["version"],
        "files": len(files),
        "bytes": sum((release / file).lstat().st_size for file in files),
        **gather(release, _of(root, "sources"), _of(root, "models")),
    }


def _of(root: dict[str, Any], folder: str) -> list[str]:
    prefix = f"manifests/{folder}/"
    paths = [path for path in sorted(root["files"]) if path.startswith(prefix)]
    return [path.removeprefix(prefix).removesuffix(".json") for path in paths]
