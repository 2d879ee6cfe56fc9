"""Bring the raw bytes of a declared source into a folder, each file digested.

Reading them never needs the network again: `READERS[source.reader]` turns the folder into documents.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files, sha256_file
from pipeline.sources import huggingface, package, url
from pipeline.sources.declaration import Artefact, HuggingfaceSource, Package, Source, Url

Report = Callable[[int, int | None], None]
"""Told (bytes done, bytes in all if known) as a fetch goes on."""


def fetch(name: str, source: Source | Artefact, folder: Path, partial: Path, report: Report) -> list[dict[str, Any]]:
    """Bring `source` into the empty `folder`; gives `{path, bytes, sha256}` of each raw file, sorted by path.

    `partial` is scratch on the same file system that survives a kill, so that a download can go on. `folder` holds
    nothing until its content has been compared with the declared digest. Errors begin with the source's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial.mkdir(parents=True, exist_ok=True)
    if list_files(folder):
        raise EverystepError(f"source {name}: {folder} must be empty before a fetch; remove what stands there")
    try:
        match source:
            case Package():
                package.fetch(source, folder, partial, report)
            case Url():
                url.fetch(source, folder, partial, report)
            case HuggingfaceSource():
                huggingface.fetch(source, folder, partial, report)
    except EverystepError as error:
        raise type(error)(f"source {name}: {error}") from error  # bytes that differ stay an error of their kind
    return [_described(folder, path) for path in list_files(folder)]


def _described(folder: Path, path: str) -> dict[str, Any]:
    return {"path": path, "bytes": (folder / path).stat().st_size, "sha256": sha256_file(folder / path)}
