"""How fast a row and the documents of a step are found, in a made-up release of a million documents.

    python -m bench.lookup [documents] > lookup.json

The index is written by our own writer and lies in a temporary folder; ids, sources and lengths are made up. `cold`
opens the index and answers once, in a process that has read nothing of it; the other figures are medians over random
questions to an open one. Milliseconds of wall time.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.formats.order import rows_of_step
from pipeline.formats.rows import DocumentIndex, Rows, rows_at_once, write_row_shard
from pipeline.formats.tables import DOCUMENT_INDEX, write_batches

WIDTH, VOCABULARY, SEED, AT_ONCE, QUESTIONS = 257, 32768, 7, 10_000, 50
BATCHES = (4, 64, 512)


def main() -> None:
    documents = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as folder:
        report = {"documents": documents, **of_the_index(Path(folder), documents)}
        report |= {f"row of {width} ids by number": of_rows(Path(folder), width) for width in (257, 2049)}
    json.dump(report | {"cores": len(os.sched_getaffinity(0))}, sys.stdout, indent=1)
    print()


def of_the_index(folder: Path, documents: int) -> dict[str, Any]:
    draw = np.random.default_rng(SEED)
    lengths = draw.integers(20, 800, documents)
    num_rows = int(lengths.sum()) // WIDTH
    path = folder / "train.parquet"
    began = time.perf_counter()
    write_batches(path, made_up(lengths), DOCUMENT_INDEX, path.name)
    report = {"index_bytes": path.stat().st_size, "write_seconds": round(time.perf_counter() - began, 2)}
    report["open"] = median(lambda _: DocumentIndex(path, WIDTH, num_rows))
    for batch in BATCHES:
        asked = [rows_of_step(step, batch, num_rows, SEED).tolist() for step in range(QUESTIONS)]
        report[f"step of {batch} rows, cold"] = median(
            lambda i, asked=asked: DocumentIndex(path, WIDTH, num_rows).documents_of_rows(asked[i])  # type: ignore[misc]
        )
        index = DocumentIndex(path, WIDTH, num_rows)
        report[f"step of {batch} rows"] = median(
            lambda i, index=index, asked=asked: index.documents_of_rows(asked[i])  # type: ignore[misc]
        )
    report["rows of a document"] = median(lambda i: index.rows_of_document(f"source-0/document/{i * 10:012d}"))
    return report


def made_up(lengths: np.ndarray) -> Iterator[pa.RecordBatch]:
    stops = lengths.cumsum()
    for begin in range(0, len(lengths), AT_ONCE):
        numbers = range(begin, min(begin + AT_ONCE, len(lengths)))
        starts = stops[numbers.start : numbers.stop] - lengths[numbers.start : numbers.stop]
        columns = {
            "id": [f"source-{i % 10}/document/{i:012d}" for i in numbers],
            "source": [f"source-{i % 10}" for i in numbers],
            "license": ["CC0-1.0"] * len(numbers),
            "text_sha256": [f"{i * 0x9E3779B97F4A7C15 % 2**64:016x}" * 4 for i in numbers],
            "first_row": starts // WIDTH,
            "offset": (starts % WIDTH).astype(np.int32),
            "num_tokens": lengths[numbers.start : numbers.stop],
            "bytes": lengths[numbers.start : numbers.stop] * 4,
        }
        yield pa.RecordBatch.from_pydict(columns, DOCUMENT_INDEX)


def of_rows(folder: Path, width: int) -> float:
    draw = np.random.default_rng(SEED)
    at_once = rows_at_once(width)
    blocks = (draw.integers(0, VOCABULARY, (at_once, width), dtype=np.uint16) for _ in range(4096 // at_once))
    shard = write_row_shard(folder, f"{width}.jsonl.zst", blocks, VOCABULARY)
    rows = Rows(folder, [shard], width, VOCABULARY)
    asked = draw.integers(0, len(rows), 500).tolist()
    return median(lambda i: rows[asked[i]], len(asked))


def median(question: Callable[[int], object], times: int = QUESTIONS) -> float:
    seconds = []
    for i in range(times):
        began = time.perf_counter()
        question(i)
        seconds.append(time.perf_counter() - began)
    return round(statistics.median(seconds) * 1000, 2)


if __name__ == "__main__":
    main()
