"""Show: what is in a release, from its manifests, for a person or (as one JSON object) for a program.

Each manifest and `params.yaml` are compared with the root manifest first: what is shown is what the release promises.
Files beside the promised ones are not counted.
"""

from pathlib import Path
from typing import Any

from pipeline.audit.verify import verified_file
from pipeline.base.errors import well_shaped
from pipeline.base.files import safe_join
from pipeline.base.paths import MANIFESTS, PARAMS
from pipeline.formats.release import ROOT, SUMS, members, read_root
from pipeline.release.facts import gather


def summarize(release: Path, follow_links: bool = False) -> dict[str, Any]:
    """The facts that `everystep show` prints."""
    root = read_root(release, follow_links)
    manifests = [path for path in root["files"] if path.startswith(f"{MANIFESTS}/")]
    for path in [PARAMS.as_posix(), *manifests]:
        verified_file(release, root, path, follow_links)
    with well_shaped(release / MANIFESTS):
        facts = gather(release, members(root, "sources"), members(root, "models"))
    files = [safe_join(release, path, follow_links) for path in (ROOT, SUMS, *root["files"])]
    present = [file for file in files if file.is_file()]
    return {
        "name": root["name"],
        "version": root["version"],
        "files": len(present),
        "bytes": sum(file.stat().st_size for file in present),
        **facts,
    }
