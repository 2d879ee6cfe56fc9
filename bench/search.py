"""What the search index costs and how fast it answers, beside infini-gram's on the same rows.

    python -m bench.search [RELEASE] > search.json

Each row is a document to infini-gram 2.6.0, from `.venv/clients/infini-gram` (`make .venv/tested`); without it, only
ours is measured. Both sort with one processor. Build: seconds of a processor, megabytes at the most. Questions: runs of
1 to 30 ids of the rows, some with an id changed; microseconds of wall time, the index open and its pages in memory.
"""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.paths import TOKENS
from pipeline.formats.manifests import Tokens
from pipeline.formats.rows import Rows
from pipeline.formats.search_index import rows_per_shard
from pipeline.release.release import Release
from pipeline.search.answers import count, following
from pipeline.search.index import Index, open_index
from pipeline.search.timeline import timeline_of
from pipeline.stages.search import cuts_of, write_cut

QUESTIONS, SEED = 2000, 1
THEIRS = Path(sys.prefix) / "clients" / "infini-gram"
PROGRAM = Path(__file__).parent.parent / "tests" / "pipeline" / "search" / "their_counts.py"


def main() -> None:
    release = Release.open(Path(sys.argv[1] if len(sys.argv) > 1 else "release"))
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as folder:
        report: dict[str, Any] = {"build": built(release, Path(folder))}
        asked, rows = questions(release)
        with open_index(release) as index:
            report |= {"places": index.places, "questions": answered(release, index, asked)}
            expected = [index.find(ids).count for ids in asked]
        if THEIRS.is_dir():
            report["infini-gram"] = theirs(Path(folder) / "theirs", rows, asked, expected)
    json.dump(report | {"cores": len(os.sched_getaffinity(0))}, sys.stdout, indent=1)
    print()


def built(release: Release, folder: Path) -> dict[str, Any]:
    """Build the index in a process of its own."""
    tokens = release.manifest(Tokens)
    for shard in tokens.shards("train"):
        release.file(TOKENS / shard.path)
    with get_context("spawn").Pool(1) as pool:
        seconds, megabytes = pool.apply(partial(_build, release.folder / TOKENS, folder / "ours", tokens))
    size = sum(path.stat().st_size for path in (folder / "ours").iterdir())
    places = tokens.splits.train.rows * tokens.width
    return {"cpu_seconds": seconds, "megabytes": megabytes, "bytes_a_token": round(size / places, 3)}


def _build(rows: Path, folder: Path, tokens: Tokens) -> tuple[float, int]:
    folder.mkdir()
    begun = time.process_time()
    for cut in cuts_of(tokens.shards("train"), rows_per_shard(tokens.width)):
        write_cut(cut, folder, rows, tokens.width, tokens.vocabulary)
    seconds = round(time.process_time() - begun, 2)
    return seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def questions(release: Release) -> tuple[list[list[int]], np.ndarray]:
    """(runs of ids, all rows)."""
    tokens, draw = release.manifest(Tokens), random.Random(SEED)  # noqa: S311
    rows = np.array([*Rows(release.folder / TOKENS, tokens.shards("train"), tokens.width, tokens.vocabulary)])
    asked = []
    for _ in range(QUESTIONS):
        length = draw.choice([1, 2, 3, 5, 8, 30])
        start = draw.randrange(tokens.width - length + 1)
        ids = rows[draw.randrange(len(rows)), start : start + length].tolist()
        if draw.random() < 0.3:
            ids[draw.randrange(length)] = draw.randrange(tokens.vocabulary)
        asked.append(ids)
    return asked, rows


def answered(release: Release, index: Index, asked: list[list[int]]) -> dict[str, Any]:
    timeline = timeline_of(release, release.models()[0])
    rare = [ids for ids in asked if index.find(ids).count < 1000]
    return {
        "count": timed(index.find, asked),
        "longest": timed(index.longest, asked),
        "count until a step, below 1,000 places": timed(lambda ids: count(index, ids, timeline), rare),
        "next, below 1,000 places": timed(lambda ids: following(index, ids), rare),
    }


def timed(ask: Callable[[list[int]], object], asked: list[list[int]]) -> dict[str, int]:
    """Median and 99th percentile of the second round."""
    for ids in asked:
        ask(ids)
    seconds = []
    for ids in asked:
        begun = time.perf_counter()
        ask(ids)
        seconds.append(time.perf_counter() - begun)
    return told(seconds)


def told(seconds: list[float]) -> dict[str, int]:
    return {
        "median": round(statistics.median(seconds) * 1e6),
        "of 100, 99 below": round(float(np.quantile(seconds, 0.99)) * 1e6),
    }


def theirs(folder: Path, rows: np.ndarray, asked: list[list[int]], expected: list[int]) -> dict[str, Any]:
    folder.mkdir()
    np.save(folder / "rows.npy", rows)
    environment = os.environ | {"PYTHONPATH": str(THEIRS)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, PROGRAM, "build", folder], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    index = [path for path in folder.iterdir() if path.name in ("tokenized.0", "table.0", "offset.0")]
    done = subprocess.run(
        [sys.executable, PROGRAM, "count", folder],
        env=environment,
        input=json.dumps(asked * 2),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["counts"][: len(asked)] == expected, "infini-gram counts something else"
    return {
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
        "bytes_a_token": round(sum(path.stat().st_size for path in index) / rows.size, 3),
        "count": told(found["seconds"][len(asked) :]),
    }


if __name__ == "__main__":
    main()
