"""Our rows as the arrays that other trainers read first, in the order in which ours reads them.

    npy        train.bin: ids alone, row after row, as OLMo-core and nanoGPT read them
    megatron   train.bin, train.idx: the same ids, and an index in which each row is a sequence and a document
    parquet    train-00000.parquet ...: one column `input_ids`, for `datasets` and the trainer of transformers
    mds        shard.00000.mds ..., index.json: one column `tokens`, for mosaicml-streaming and llm-foundry

All hold whole steps of `global_batch` rows; row i of a layout is sample i. Ids are little-endian and take two bytes
where the vocabulary allows it. A block of rows is in memory at a time. The bytes are a function of the rows, the order
and the options; those of parquet also of pyarrow's version.
"""

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audit.export_rows import Exported, Numbers, PublishedRows
from pipeline.base.arrow import arrow_numbers
from pipeline.base.console import Advance, progress
from pipeline.base.files import atomic_writer, new_folder, write_bytes
from pipeline.release.release import Release

FLAT = "train.bin"
"""nanoGPT opens this name and no other; OLMo-core takes any."""
INDEX_MAGIC, INDEX_VERSION = b"MMIDIDX\x00\x00", 1
INDEX_HEAD = struct.Struct("<9sQBQQ")  # magic, version, code of the type, sequences, entries of the list of documents
INDEX_CODES = {"<u2": 8, "<i4": 4}
ENTRIES_AT_ONCE = 1 << 16
ROW_GROUPS_PER_FILE = 128  # of at most 4 MiB of ids
MDS_VERSION, MDS_SHARD_BYTES = 2, 1 << 26


@dataclass(frozen=True)
class _Job:
    """The rows to write, the samples 0 to `num_rows` (excluded), into `folder`."""

    folder: Path
    source: PublishedRows
    num_rows: int
    advance: Advance

    @property
    def is_short(self) -> bool:
        """Whether two bytes hold every id."""
        return self.source.rows.vocabulary <= 1 << 16

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[Numbers]:
        for block in self.source.blocks(start, self.num_rows if stop is None else stop):
            yield block
            self.advance(len(block))


def export_arrays(release: Release, out: Path, layout: str, global_batch: int | None, steps: int | None) -> Exported:
    """Write one of `WRITERS`. Without `global_batch` a step is one row, without `steps` it is one epoch."""
    batch = global_batch or 1
    source = PublishedRows.open(release)
    counts = source.counts(steps or source.steps(batch), batch)
    with new_folder(out) as scratch, progress(f"export {layout}", counts[0], "rows") as advance:
        files = WRITERS[layout](_Job(scratch, source, counts[0], advance))
    short = source.rows.vocabulary <= 1 << 16
    return Exported(layout, files, *counts, dtype=("uint16" if short else "uint32") if layout == "npy" else "")


def _write_npy(job: _Job) -> int:
    _write_flat(job, "<u2" if job.is_short else "<u4")
    return 1


def _write_megatron(job: _Job) -> int:
    """Megatron knows no uint32; ids are below 2^31, so its int32 has the same bytes."""
    kind = "<u2" if job.is_short else "<i4"
    _write_flat(job, kind)
    width, num_rows = job.source.rows.width, job.num_rows
    row_bytes = width * np.dtype(kind).itemsize
    with atomic_writer(job.folder / "train.idx") as file:
        file.write(INDEX_HEAD.pack(INDEX_MAGIC, INDEX_VERSION, INDEX_CODES[kind], num_rows, num_rows + 1))
        for numbers in _ranges(num_rows):  # ids of each sequence
            file.write(np.full(len(numbers), width, "<i4").tobytes())
        for numbers in _ranges(num_rows):  # the byte at which it begins
            file.write((numbers * row_bytes).astype("<i8").tobytes())
        for numbers in _ranges(num_rows + 1):  # the sequence with which each document begins, and the end
            file.write(numbers.astype("<i8").tobytes())
    return 2


def _write_flat(job: _Job, kind: str) -> None:
    with atomic_writer(job.folder / FLAT) as file:
        for block in job.blocks():
            file.write(block.astype(kind).tobytes())


def _ranges(count: int) -> Iterator[Numbers]:
    for start in range(0, count, ENTRIES_AT_ONCE):
        yield np.arange(start, min(start + ENTRIES_AT_ONCE, count), dtype=np.int64)


def _write_parquet(job: _Job) -> int:
    schema = pa.schema([pa.field("input_ids", pa.list_(pa.int32()), nullable=False)])
    rows_per_file = ROW_GROUPS_PER_FILE * job.source.rows_at_once
    starts = range(0, job.num_rows, rows_per_file)
    for number, start in enumerate(starts):
        with (
            atomic_writer(job.folder / f"train-{number:05d}.parquet") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for block in job.blocks(start, min(start + rows_per_file, job.num_rows)):
                ids = arrow_numbers(block.astype(np.int32).ravel())
                ends = arrow_numbers(np.arange(len(block) + 1, dtype=np.int32) * np.int32(block.shape[1]))
                rows = pa.ListArray.from_arrays(ends, ids)
                writer.write_batch(pa.RecordBatch.from_arrays([rows], schema=schema), row_group_size=len(block))
    return len(starts)


def _write_mds(job: _Job) -> int:
    """A shard is the number of rows, the byte at which each begins and the last ends, a description, the rows."""
    row_bytes = 4 * job.source.rows.width
    about = _mds_description(job.source.rows.width)
    description = json.dumps(about, sort_keys=True).encode()
    rows_per_shard = max(1, (MDS_SHARD_BYTES - 8 - len(description)) // (4 + row_bytes))
    shards: list[dict[str, Any]] = []
    for start in range(0, job.num_rows, rows_per_shard):
        stop = min(start + rows_per_shard, job.num_rows)
        name = f"shard.{len(shards):05d}.mds"
        head = 4 * (stop - start + 2) + len(description)
        places = head + np.arange(stop - start + 1, dtype=np.int64) * row_bytes
        with atomic_writer(job.folder / name) as file:
            file.write(struct.pack("<I", stop - start) + places.astype("<u4").tobytes() + description)
            for block in job.blocks(start, stop):
                file.write(block.astype("<i4").tobytes())
        raw = {"basename": name, "bytes": int(places[-1]), "hashes": {}}
        shards.append(about | {"raw_data": raw, "samples": stop - start, "zip_data": None})
    write_bytes(job.folder / "index.json", json.dumps({"shards": shards, "version": 2}, sort_keys=True).encode())
    return len(shards) + 1


def _mds_description(width: int) -> dict[str, Any]:
    """What the reader must know of a shard: one column, an array of int32 of the row's width."""
    return {
        "column_encodings": [f"ndarray:int32:{width}"],
        "column_names": ["tokens"],
        "column_sizes": [4 * width],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "size_limit": MDS_SHARD_BYTES,
        "version": MDS_VERSION,
    }


WRITERS: dict[str, Callable[[_Job], int]] = {
    "npy": _write_npy,
    "megatron": _write_megatron,
    "parquet": _write_parquet,
    "mds": _write_mds,
}
"""Each writes the rows of a job in the layout of its name, and gives the number of files."""
