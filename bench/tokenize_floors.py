"""What each library of the stage `tokenize` takes by itself: no arrangement of the stage can be faster than their sum.

    python -m bench.tokenize_floors [PROJECT] > floors.json

PROJECT has gone as far as the stage `tokenize`. Its training documents pass through each library in blocks of the size
that the stage uses, and only the library's calls are counted: CPU seconds, one thread, the least of the turns for each.
The document index, whose calls are many, is written by our function, once more. `reference` is `encode_batch_fast` on
every tenth of the blocks, times their number.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer

from pipeline.base.paths import DEDUPLICATED, TOKENIZER, TOKENS
from pipeline.blocks.token_ids import Encoder
from pipeline.formats.documents import decode_columns
from pipeline.formats.lines import LineFile, _compressor
from pipeline.formats.manifests import Deduplicated, TokenizerTrained, read_manifest
from pipeline.formats.rows import _digits_of_ids, _written_rows, rows_at_once
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import DOCUMENT_INDEX, open_table, write_batches
from pipeline.stages.tokenize.encode import _blocks, id_type

TURNS, WIDTH, EVERY = 3, 257, 10


class Clock:
    """CPU seconds by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, call: Callable[..., Any], *arguments: object) -> Any:
        began = time.process_time()
        result = call(*arguments)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
        return result


def main() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else ".")
    shards = read_manifest(Deduplicated, manifest_path("dedup")).shards("train")
    paths = [DEDUPLICATED / shard.path for shard in shards]
    vocabulary = read_manifest(TokenizerTrained, manifest_path("tokenizer")).vocabulary
    turns = [turn(paths, vocabulary) for _ in range(TURNS)]
    size = turns[0].pop("bytes")
    least = {name: round(min(turn[name] for turn in turns), 3) for name in turns[0]}
    total = sum(seconds for name, seconds in least.items() if name != "reference")
    ratio = round(least["reference"] / total, 1)
    report = {"megabytes": round(size / 1e6, 1), "vocabulary": vocabulary, "seconds": least, "ratio_of_all": ratio}
    json.dump(report, sys.stdout, indent=1)
    print()


def turn(paths: list[Path], vocabulary: int) -> dict[str, float]:
    clock, encoder, size, number = Clock(), Encoder(TOKENIZER), 0, 0
    reference = Tokenizer.from_file(str(TOKENIZER))
    compressor, digest, block = _compressor(digits=True), hashlib.sha256(), rows_at_once(WIDTH)
    read = hashlib.sha256()
    _digits_of_ids(vocabulary)
    rest = np.empty(0, dtype=id_type(vocabulary))
    for path in paths:
        with LineFile(path) as file:
            blocks = _blocks(file.frames())
            while (lines := clock("zstd, documents", next, blocks, None)) is not None:
                clock("SHA-256, documents", read.update, lines)
                texts = clock("JSON", decode_columns, lines, path)["text"]
                ids, _ = clock("gigatoken", encoder.encode, texts)
                if number % EVERY == 0:
                    some = texts.to_pylist()
                    clock("reference", reference.encode_batch_fast, some)
                size, number = size + pc.sum(pc.binary_length(texts)).as_py(), number + 1
                rest = np.concatenate([rest, ids.astype(rest.dtype)])
                while len(rest) >= block * WIDTH:
                    rows, rest = rest[: block * WIDTH].reshape(-1, WIDTH), rest[block * WIDTH :]
                    frames = clock("digits", list, _written_rows(rows, vocabulary))
                    for frame in frames:
                        clock("SHA-256, rows", digest.update, frame)
                        clock("zstd, rows", compressor.compress, frame)
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        index = open_table(TOKENS / "train.parquet", DOCUMENT_INDEX).read().to_batches()
        clock("document index", write_batches, Path(name) / "index", index, DOCUMENT_INDEX, "index", True)
    clock.seconds["reference"] *= number / len(range(0, number, EVERY))
    return clock.seconds | {"bytes": size}


if __name__ == "__main__":
    pa.set_cpu_count(1)
    main()
