"""Show: what is in a release, from its manifests, for a person or (as one JSON object) for a program.

Each manifest and `params.yaml` are compared with the root manifest first: what is shown is what the release promises.
"""

from pathlib import Path
from typing import Any

from pipeline.audit.verify import verified_file
from pipeline.formats.errors import well_shaped
from pipeline.formats.files import list_files
from pipeline.formats.project import MANIFESTS, PARAMS
from pipeline.release.facts import gather
from pipeline.release.layout import members, read_root


def summarize(release: Path) -> dict[str, Any]:
    """The facts that `everystep show` prints."""
    root = read_root(release)
    files = list_files(release)
    manifests = [path for path in root["files"] if path.startswith(f"{MANIFESTS}/")]
    for path in [PARAMS.as_posix(), *manifests]:
        verified_file(release, root, path)
    with well_shaped(release / MANIFESTS):
        facts = gather(release, members(root, "sources"), members(root, "models"))
    return {
        "name": root["name"],
        "version": root["version"],
        "files": len(files),
        "bytes": sum((release / file).lstat().st_size for file in files),
        **facts,
    }
