"""Deduplication of two snapshots of the same documentation, as a corpus of crawls has them; against datatrove.

    python -m bench.snapshots > snapshots.json

Start it from a project whose sources are extracted: the release's versions. Older versions of the same two packages are
fetched and extracted beside them. What the newer version has stays; the sample holds a page of one in `EVERY` keys, in
both versions where both have it, and every pair of it is measured on its words.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench.corpora import documents
from bench.dedup import ROOT, cpu_seconds, every_pair, megabytes, removed_by, write_plain
from pipeline.base.paths import DOCUMENTS, FILTERED
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import pretty
from pipeline.formats.documents import Document, id_hash
from pipeline.formats.manifests import Deduplicated, Extracted, Filtered, read_manifest
from pipeline.formats.stages import manifest_path
from tests.stubs import write_stub

OLDER = {
    "aws-api": ("1.35.0", "a3c96fe0b6afe7d00bad6ffbe73f2610953065fcdf0ed697eba4e1e5287cc84f"),
    "google-api": ("2.140.0", "aeb4bb99e9fdd241473da5ff35464a0658fea0db76fe89c0f8c77ecfc3813404"),
}
EVERY = 60


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        folder = Path(name)
        project = make_project(folder / "everystep")
        os.chdir(project)
        names = [*OLDER, *(f"{name}-older" for name in OLDER)]
        found = [document for name in names for document in documents(name)]
        plain, out = folder / "plain", folder / "datatrove"
        write_plain(plain, found)
        seconds = {
            "everystep": cpu_seconds([sys.executable, "-m", "pipeline.stages", "dedup"], project),
            "datatrove": cpu_seconds(
                [sys.executable, "-m", "bench.dedup_peers", "datatrove", str(plain), str(out)], ROOT
            ),
        }
        manifest = read_manifest(Deduplicated, manifest_path("dedup"))
        removed = {key: removed_by(key, folder, found) for key in seconds}
        report = {
            "documents": len(found),
            "megabytes": round(megabytes(found), 1),
            "megabytes_per_cpu_second": {key: round(megabytes(found) / spent, 2) for key, spent in seconds.items()},
            "removed": manifest.removed,
            "removed_by_source": manifest.removed_by_source,
            "documents_by_source": dict(Counter(document.source for document in found)),
            "removed_by_datatrove": len(removed["datatrove"]),
            "against_every_pair": every_pair(found, [document for document in found if is_sampled(document)], removed),
        }
        os.chdir(ROOT)
    json.dump(report, sys.stdout, indent=1)
    print()


def is_sampled(document: Document) -> bool:
    """By the key of the page, the same in both versions."""
    return id_hash(document.id.partition("/")[2], "sample") % EVERY == 0


def make_project(project: Path) -> Path:
    """Both versions extracted, and passed on as a filter that lets everything through would."""
    tree: dict[str, Any] = load_yaml(Path("params.yaml"))
    newer = {name: tree["sources"][name] for name in OLDER}
    older = {
        f"{name}-older": newer[name] | {"version": version, "sha256": sha256, "priority": newer[name]["priority"] + 10}
        for name, (version, sha256) in OLDER.items()
    }
    tree["sources"] = newer | older
    tree["descriptions"] = {name: tree["descriptions"][name.removesuffix("-older")] for name in tree["sources"]}
    tree["dedup"]["max_removed_share"] = 1.0
    for part in ("pipeline", "manifests"):
        shutil.copytree(part if part == "manifests" else ROOT / part, project / part)
    (project / "params.yaml").write_bytes(pretty(tree))
    for name in newer:
        shutil.copytree(DOCUMENTS / name, project / DOCUMENTS / name)
    for name in older:
        for stage in ("fetch", "extract"):
            subprocess.run([sys.executable, "-m", "pipeline.stages", stage, name], cwd=project, check=True)
    here = Path.cwd()
    os.chdir(project)
    for name in tree["sources"]:
        shards = read_manifest(Extracted, manifest_path("extract", name)).shards("documents")
        (FILTERED / name).parent.mkdir(parents=True, exist_ok=True)
        (FILTERED / name).symlink_to((DOCUMENTS / name).absolute())
        write_stub(Filtered, name, outputs={"documents": shards})
    os.chdir(here)
    return project


if __name__ == "__main__":
    main()
