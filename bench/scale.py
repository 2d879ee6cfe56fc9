"""The data side at growing sizes: CPU seconds and peak memory of each stage, ten times the documents at a time.

    python -m bench.scale [--megabytes 10 100 1000] [--without-filter] > scale.json

Start it from a project whose sources are extracted. The text is theirs; where it ends, it is repeated with lines and
sentences in another seeded order. Filter (without caps), dedup, tokenizer and tokenize run as they stand. Memory is
what all processes of a stage hold together (proportional set size, sampled four times a second).
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

from bench.corpora import documents, shuffled
from pipeline.base.paths import DOCUMENTS, EVALUATION_NGRAMS, FILTERED, MANIFESTS
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import pretty
from pipeline.formats.documents import Document
from pipeline.formats.manifests import Extracted, Filtered
from pipeline.formats.stages import manifest_path
from tests.shards import write_sharded
from tests.stubs import write_stub

ROOT = Path(__file__).parents[1]
SOURCES = ("aws-api", "google-api")
STAGES = (*(("filter", source) for source in SOURCES), ("dedup",), ("tokenizer",), ("tokenize",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[10, 100, 1000])
    parser.add_argument("--without-filter", action="store_true", help="begin with dedup")
    arguments = parser.parse_args()
    report = [measure(size, not arguments.without_filter) for size in arguments.megabytes]
    json.dump({"sizes": report, "growth": [growth(*pair) for pair in pairwise(report)]}, sys.stdout, indent=1)
    print()


def measure(megabytes: float, filtered: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        project = Path(name)
        counts = make_project(project, megabytes, filtered)
        chosen = [stage for stage in STAGES if filtered or stage[0] != "filter"]
        stages = {" ".join(stage): run_stage(project, *stage) for stage in chosen}
    total = sum(stage["cpu_seconds"] for stage in stages.values())
    return counts | {
        "stages": stages,
        "cpu_seconds": round(total, 1),
        "megabytes_per_cpu_second": round(counts["megabytes"] / total, 2),
        "peak_megabytes": max(stage["peak_megabytes"] for stage in stages.values()),
    }


def growth(small: dict[str, Any], large: dict[str, Any]) -> dict[str, float]:
    keys = ("documents", "megabytes", "cpu_seconds", "peak_megabytes")
    return {key: round(large[key] / small[key], 2) for key in keys}


def make_project(project: Path, megabytes: float, filtered: bool) -> dict[str, float]:
    tree = load_yaml(Path("params.yaml"))
    tree["sources"] = {name: tree["sources"][name] | {"cap_bytes": None} for name in SOURCES}
    tree["dedup"]["max_removed_share"] = 1.0
    (project / "params.yaml").write_bytes(pretty(tree))
    for part in ("pipeline", "trainer"):
        shutil.copytree(ROOT / part, project / part)
    shutil.copytree(EVALUATION_NGRAMS, project / EVALUATION_NGRAMS)
    (project / MANIFESTS).mkdir()
    for stage in ("evaluation_sets", "evaluation_ngrams"):
        shutil.copy(manifest_path(stage), project / manifest_path(stage))
    made = {"documents": 0, "megabytes": 0.0}

    def counted(source: str) -> Iterator[Document]:
        taken = 0
        for document in endless(source):
            taken += len(document.text.encode())
            if taken > megabytes * 1e6 / len(SOURCES):
                return
            made["documents"] += 1
            made["megabytes"] += len(document.text.encode()) / 1e6
            yield document

    folder, kind = (DOCUMENTS, Extracted) if filtered else (FILTERED, Filtered)
    shards = {source: write_sharded(project / folder / source, counted(source)) for source in SOURCES}
    here = Path.cwd()
    os.chdir(project)
    for source, written in shards.items():
        write_stub(kind, source, outputs={"documents": written})
    os.chdir(here)
    return {"documents": made["documents"], "megabytes": round(made["megabytes"], 1)}


def endless(source: str) -> Iterator[Document]:
    yield from documents(source)
    for copy in count(1):
        yield from (shuffled(document, copy) for document in documents(source))


def run_stage(project: Path, stage: str, *of: str) -> dict[str, float]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    command = [sys.executable, "-m", "pipeline.stages", stage, *of]
    process = subprocess.Popen(command, cwd=project, start_new_session=True, stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, held_by_session(process.pid))
        time.sleep(0.25)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "cpu_seconds": round(cpu, 1),
        "seconds": round(time.monotonic() - began, 1),
        "peak_megabytes": round(peak),
    }


def held_by_session(session: int) -> float:
    """MB that the processes of a session hold together."""
    held = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                held += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (OSError, ValueError):  # it ended meanwhile
            continue
    return held * 1024 / 1e6


if __name__ == "__main__":
    main()
