"""Tokenize: shuffled documents become rows of ids, an index of the documents in them, and the data order.

Reads `data/deduplicated` and `data/tokenizer`; writes `data/tokens` and `manifests/tokens.json`:

    train/000000.jsonl.zst ...         rows, `{"token_ids": [context + 1 ids]}`
    validation/000000.jsonl.zst ...    rows of held-out documents
    train.parquet, validation.parquet  the document index of each split
    order.jsonl.zst                    epoch 0 of the order as data: line i is {"row": row of sample i}
    removals.parquet                   documents that the mixture leaves out, unless each is taken once

Workers encode shards to scratch files of ids. Where a row begins depends only on counts of ids, so workers then cut
the shards of rows from these files. Of each source a sample and the longest document are compared id for id with
`tokenizers`; a difference stops the build. What `mixture` asks for is drawn from the encoded documents.

The name of a special token in a text gets ordinary ids; only this stage writes the real tokens. With
`fill_in_the_middle`, some training documents are encoded in pieces, in another order.
"""

import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import fresh_folder
from pipeline.base.params import load_section, source_names
from pipeline.base.paths import DEDUPLICATED, SPLITS, TOKENIZER, TOKENS, WORK
from pipeline.blocks.fill_in_the_middle import Filling
from pipeline.blocks.mixture import ONE
from pipeline.executor.ordered_map import ordered_map
from pipeline.formats.current import read_current, take_basis, write_manifest
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Deduplicated, TokenizerTrained, Tokens
from pipeline.formats.rows import ROWS_PER_SHARD, row_shard, rows_at_once, write_order, write_row_shard
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import DOCUMENT_INDEX, write_batches
from pipeline.formats.vocabulary import end_token
from pipeline.stages.tokenize.encode import EncodedShard, Ids, compare_with_reference, encode_shard, id_type
from pipeline.stages.tokenize.mix import MixtureParams, mix
from pipeline.stages.tokenize.params import TokenizeParams

SCRATCH = WORK / "tokenize"


class Cut(NamedTuple):
    """Shard of rows to write, and its ids: encoded shards, with the first and the last + 1 position in each."""

    name: str
    pieces: list[tuple[EncodedShard, int, int]]


class Packed(NamedTuple):
    """Files and counts of a split."""

    rows: list[Shard]
    documents: Shard
    counts: dict[str, Any]


def tokenize() -> None:
    """Tokenize the documents of the release."""
    params = load_section(TokenizeParams, "tokenize")
    basis = take_basis([manifest_path("dedup"), manifest_path("tokenizer")], ["mixture", "tokenize"])
    mixture = load_section(MixtureParams, "mixture")
    folder = fresh_folder(TOKENS)
    fresh_folder(SCRATCH)
    width = params.context + 1
    tokenizer = read_current(TokenizerTrained)
    tokenizer.check_file(TOKENIZER)
    vocabulary = tokenizer.vocabulary
    filling = _filling(params)
    fillings = {"train": filling, "validation": None}
    encoded = {split: _encode(split, vocabulary, fillings[split]) for split in SPLITS}
    checked = params.checked_documents
    compared = {split: compare_with_reference(parts, checked, fillings[split]) for split, parts in encoded.items()}
    available = tally(encoded["train"])
    passes = mixture.passes(available["tokens_by_source"], source_names())
    outputs: dict[str, list[Shard]] = {}
    if set(passes.values()) != {ONE}:
        encoded["train"], outputs["removals"] = _mix(encoded["train"], passes, folder)
    packed = {split: _pack(folder, split, parts, width, vocabulary) for split, parts in encoded.items()}
    filled: dict[str, Any] = {"filled_documents_by_source": _count_filled(encoded["train"], filling)} if filling else {}
    order = write_order(folder / "order.jsonl.zst", "order.jsonl.zst", packed["train"].counts["rows"], params.seed)
    outputs |= {split: packed[split].rows for split in SPLITS}
    outputs |= {f"{split}_index": [packed[split].documents] for split in SPLITS}
    write_manifest(
        Tokens,
        None,
        basis,
        parameters=params.model_dump(exclude_none=True) | {"mixture": mixture.model_dump()},
        outputs=outputs | {"order": [order]},
        width=width,
        vocabulary=vocabulary,
        end_token=end_token(TOKENIZER),
        available=available,
        passes={source: billionths / ONE for source, billionths in passes.items()},
        **filled,
        splits={split: packed[split].counts | {"compared_documents": compared[split]} for split in SPLITS},
    )
    shutil.rmtree(SCRATCH)


def _filling(params: TokenizeParams) -> Filling | None:
    rule = params.fill_in_the_middle
    return Filling(rule.share, rule.suffix_first_share, params.seed) if rule else None


def _encode(split: str, vocabulary: int, filling: Filling | None) -> list[EncodedShard]:
    """Encode the shards of a split."""
    scratch = fresh_folder(SCRATCH / split)
    shards = read_current(Deduplicated).shards(split)
    parts = [
        EncodedShard(DEDUPLICATED, shard, scratch / f"{number:06d}", id_type(vocabulary))
        for number, shard in enumerate(shards)
    ]
    with progress(f"tokenize {split}: encode", sum(shard.lines for shard in shards), "documents") as advance:
        for shard, _ in zip(shards, ordered_map(partial(encode_shard, filling=filling), parts), strict=True):
            advance(shard.lines)
    return parts


def _mix(parts: list[EncodedShard], passes: dict[str, int], folder: Path) -> tuple[list[EncodedShard], list[Shard]]:
    """Draw and shuffle the training documents, with the seed that shuffled them in `dedup`."""
    seed = read_current(Deduplicated).parameters.seed
    mixed, left_out = mix(parts, passes, seed, SCRATCH, folder)
    return mixed, [left_out]


def _pack(folder: Path, split: str, parts: list[EncodedShard], width: int, vocabulary: int) -> Packed:
    """Write the index of a split, and cut its stream of ids into rows."""
    counts = tally(parts)
    name = f"{split}.parquet"
    index = write_batches(folder / name, _placed(parts, width), DOCUMENT_INDEX, name, in_parts=True)
    num_tokens = counts["tokens"]
    if num_tokens < width:
        raise EverystepError(
            f"params.yaml: the {split} split has {num_tokens} tokens, fewer than a row of {width}; "
            "declare more text, a larger dedup.validation_share, or a smaller tokenize.context"
        )
    cuts = _cuts(split, parts, width, num_tokens // width)
    shards = []
    with progress(f"tokenize {split}: rows", num_tokens // width, "rows") as advance:
        for shard in ordered_map(partial(_write_cut, folder=folder, width=width, vocabulary=vocabulary), cuts):
            shards.append(shard)
            advance(shard.lines)
    rows = {"rows": num_tokens // width, "dropped_tail_tokens": num_tokens % width}
    return Packed(shards, index, counts | rows)


def _placed(parts: list[EncodedShard], width: int) -> Iterator[pa.RecordBatch]:
    """Yield the lines of the document index: each document with its place in the stream of ids."""
    position = 0
    for part in parts:
        table = part.table()
        stops = position + table["num_tokens"].to_numpy().cumsum()
        starts = stops - table["num_tokens"].to_numpy()
        placed = table.append_column(DOCUMENT_INDEX.field("first_row"), pa.array(starts // width))
        placed = placed.append_column(DOCUMENT_INDEX.field("offset"), pa.array((starts % width).astype(np.int32)))
        yield from placed.select(DOCUMENT_INDEX.names).to_batches()
        position = int(stops[-1]) if len(stops) else position


def _cuts(split: str, parts: list[EncodedShard], width: int, num_rows: int) -> list[Cut]:
    """Choose the pieces of encoded shards for each shard of rows."""
    sizes = [len(part.ids()) for part in parts]
    ends = np.cumsum(sizes, dtype=np.int64)
    cuts = []
    for number, row in enumerate(range(0, num_rows, ROWS_PER_SHARD)):
        begin, end = row * width, min(row + ROWS_PER_SHARD, num_rows) * width
        touched = range(int(np.searchsorted(ends, begin, "right")), int(np.searchsorted(ends, end, "left")) + 1)
        pieces = [
            (parts[i], max(begin - int(ends[i]) + sizes[i], 0), min(end - int(ends[i]) + sizes[i], sizes[i]))
            for i in touched
        ]
        cuts.append(Cut(row_shard(split, number), pieces))
    return cuts


def _write_cut(cut: Cut, folder: Path, width: int, vocabulary: int) -> Shard:
    return write_row_shard(folder, cut.name, _blocks(cut, width), vocabulary)


def _blocks(cut: Cut, width: int) -> Iterator[Ids]:
    """Yield the rows of a shard, as many at a time as are written together, shape (rows, width)."""
    size = rows_at_once(width) * width
    rest: Ids = np.empty(0, dtype=cut.pieces[0][0].dtype)
    for part, begin, end in cut.pieces:
        ids = part.ids()
        for start in range(begin, end, size):
            rest = np.concatenate([rest, ids[start : min(start + size, end)]])
            if len(rest) >= size:
                yield rest[:size].reshape(-1, width)
                rest = rest[size:]
    if len(rest):
        yield rest.reshape(-1, width)


def _count_filled(parts: list[EncodedShard], filling: Filling) -> dict[str, int]:
    """Count the training documents whose middle was moved to their end, by source; each copy counts."""
    found: Counter[str] = Counter()
    for part in parts:
        table = part.table()
        pairs = zip(table["id"].to_pylist(), table["source"].to_pylist(), strict=True)
        found.update(source for id, source in pairs if filling.chooses(id))
    return dict(sorted(found.items()))


def tally(parts: list[EncodedShard]) -> dict[str, Any]:
    """Count documents, bytes and tokens, in total, by source and by licence; each copy of a document counts."""
    found: Counter[tuple[str, str, str]] = Counter()
    for part in parts:
        grouped = part.table().group_by(["source", "license"], use_threads=False)
        for row in grouped.aggregate([("id", "count"), ("bytes", "sum"), ("num_tokens", "sum")]).to_pylist():
            for what, column in (("documents", "id_count"), ("bytes", "bytes_sum"), ("tokens", "num_tokens_sum")):
                found[what, row["source"], row["license"]] += row[column]
    counts: dict[str, Any] = {}
    for what in ("documents", "bytes", "tokens"):
        counts |= {what: 0, f"{what}_by_source": {}, f"{what}_by_license": {}}
    for (what, source, license), number in sorted(found.items()):
        counts[what] += number
        for of_kind, group in ((counts[f"{what}_by_source"], source), (counts[f"{what}_by_license"], license)):
            of_kind[group] = of_kind.get(group, 0) + number
    return counts
