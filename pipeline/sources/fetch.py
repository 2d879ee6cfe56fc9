"""Fetch the raw files of a declared source into a folder, with a digest of each.

Reading them never needs the network again: `READERS[source.reader]` turns the folder into documents.
"""

from pathlib import Path
from typing import Any

from pipeline.base.console import ReportTotal
from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files, sha256_file
from pipeline.sources import artefacts, huggingface, package, url
from pipeline.sources.declaration import Artefact, HuggingfaceSource, Package, Source, Url


def fetch(
    name: str, source: Source | Artefact, folder: Path, partial: Path, report: ReportTotal
) -> list[dict[str, Any]]:
    """Fetch `source` into the empty `folder`; return `{path, bytes, sha256}` of each raw file, sorted by path.

    `partial` is scratch on the same file system that survives a kill, so that a download can resume. `folder` holds
    nothing until its content has been compared with the declared digest. A folder of artefacts comes before the
    network (`pipeline/sources/artefacts.py`). Errors begin with the source's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial.mkdir(parents=True, exist_ok=True)
    if list_files(folder):
        raise EverystepError(f"source {name}: {folder} must be empty before a fetch; remove its content")
    try:
        if not artefacts.take(source.sha256, folder, partial, report):
            _ask_network(source, folder, partial, report)
    except EverystepError as error:
        raise type(error)(f"source {name}: {error}") from error  # bytes that differ stay an error of their kind
    return [_described(folder, path) for path in list_files(folder)]


def _ask_network(source: Source | Artefact, folder: Path, partial: Path, report: ReportTotal) -> None:
    match source:
        case Package():
            package.fetch(source, folder, partial, report)
        case Url():
            url.fetch(source, folder, partial, report)
        case HuggingfaceSource():
            huggingface.fetch(source, folder, partial, report)


def _described(folder: Path, path: str) -> dict[str, Any]:
    return {"path": path, "bytes": (folder / path).stat().st_size, "sha256": sha256_file(folder / path)}
