"""What deduplication keeps of each shard of documents, on disk, between its passes.

The documents of a shard stand in the order of the shuffle, held-out ones last. Three files: their lines; their ids;
and a matrix of 64-bit numbers with a column for each document, of which rows are mapped into memory.
"""

import mmap
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.batches import batched
from pipeline.base.paths import FILTERED, WORK
from pipeline.blocks.duplicates import SEED, DuplicateRules
from pipeline.blocks.shingles import Hashes, band_keys, fingerprints, fold_all, shingle_sets
from pipeline.formats.documents import decode_texts, id_hashes, share_limit
from pipeline.formats.lines import Shard, promised_lines

SCRATCH = WORK / "dedup"
BATCH = 256  # texts signed at a time
HELD_OUT, KEY, SIZE, LINE_END, ID_END, FINGERPRINT, BANDS = 0, 1, 2, 3, 4, 5, 7
"""Rows of numbers: of the held-out split or not; the hash of the shuffle; bytes of the text; where the line ends, where
the id ends; two rows of the fingerprint; and from there on the bands."""
Numbers = NDArray[np.int64]


class Part(NamedTuple):
    """One shard of filtered documents. Documents are numbered through the parts; `first` is its first one's."""

    source: str
    shard: Shard
    first: int

    @property
    def folder(self) -> Path:
        return FILTERED / self.source

    @property
    def path(self) -> Path:
        return self.folder / self.shard.path

    @property
    def stop(self) -> int:
        return self.first + self.shard.lines

    def scratch(self, suffix: str) -> Path:
        return SCRATCH / f"{self.first:012d}.{suffix}"

    def numbers(self) -> Hashes:
        return np.memmap(self.scratch("numbers"), "<u8", "r").reshape(-1, self.stop - self.first)


def sign(part: Part, rules: DuplicateRules, validation_share: float, seed: int) -> None:
    """Write the three files of a part."""
    lines: list[bytes] = []
    ids: list[str] = []
    signed = []
    for batch in batched(promised_lines(part.folder, part.shard), BATCH):
        batch_ids, texts = decode_texts(batch, part.path)
        lines += batch
        ids += batch_ids
        folded = fold_all(texts)
        numbers = np.empty((BANDS + rules.bands, len(batch)), dtype=np.uint64)
        numbers[HELD_OUT] = np.array(id_hashes(batch_ids, "validation", seed)) < share_limit(validation_share)
        numbers[KEY] = id_hashes(batch_ids, "shuffle", seed)
        numbers[SIZE] = [len(text.encode()) for text in texts]
        numbers[FINGERPRINT : FINGERPRINT + 2] = fingerprints(folded)
        numbers[BANDS:] = band_keys(folded, rules.shingle_words, rules.bands, rules.rows, SEED).T
        signed.append(numbers)
    numbers = np.concatenate(signed, axis=1)
    order = np.lexsort((numbers[KEY], numbers[HELD_OUT]))
    numbers = np.take(numbers, order, axis=1)
    numbers[LINE_END] = _write_pieces(part.scratch("lines"), [lines[place] + b"\n" for place in order.tolist()])
    numbers[ID_END] = _write_pieces(part.scratch("ids"), [ids[place].encode() for place in order.tolist()])
    part.scratch("numbers").write_bytes(numbers.data)


def lines_of(part: Part, places: Numbers) -> list[bytes]:
    """The lines of documents that stand at some places in their part."""
    return _pieces(part.scratch("lines"), part.numbers()[LINE_END], places)


def ids_of(part: Part, places: Numbers) -> list[bytes]:
    """Their ids, in UTF-8."""
    return _pieces(part.scratch("ids"), part.numbers()[ID_END], places)


def shingles_of(task: tuple[Part, Numbers], size: int) -> tuple[Hashes, Numbers]:
    """The sets of the shingles of documents at some places of a part, and the length of each."""
    part, places = task
    pieces = []
    for batch in batched(lines_of(part, places), BATCH):
        pieces.append(shingle_sets(fold_all(decode_texts(batch, part.path)[1]), size))
    lengths = [np.diff(stops, prepend=0) for _, stops in pieces]
    return np.concatenate([sets for sets, _ in pieces]), np.concatenate(lengths)


def _write_pieces(path: Path, pieces: list[bytes]) -> Numbers:
    """Where each ends in the file."""
    path.write_bytes(b"".join(pieces))
    return np.cumsum([len(piece) for piece in pieces])


def _pieces(path: Path, ends: Hashes, places: Numbers) -> list[bytes]:
    starts = np.where(places > 0, ends[places - 1], 0)
    spans = zip(starts.tolist(), ends[places].tolist(), strict=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [content[start:end] for start, end in spans]
