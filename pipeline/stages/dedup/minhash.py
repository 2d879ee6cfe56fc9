"""Sketches: what deduplication keeps of each shard of documents on disk between its passes.

The documents of a sketch are in the order of the shuffle, held-out ones last. A sketch is three files: their lines,
their ids, and a matrix of 64-bit numbers with a column for each document, whose rows are mapped into memory.
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
BATCH = 256  # texts that are folded and hashed at a time
HELD_OUT, KEY, SIZE, LINE_END, ID_END, FINGERPRINT, BANDS = 0, 1, 2, 3, 4, 5, 7
"""Rows of the matrix: 1 in the held-out split, else 0; the hash of the shuffle; bytes of the text; where the line ends,
where the id ends; two rows of the fingerprint; and from there on the keys of the bands."""
Numbers = NDArray[np.int64]


class Sketch(NamedTuple):
    """Sketch of a shard of filtered documents. Documents are numbered across sketches, from `first` in this one."""

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
        """Map the matrix, without reading it."""
        return np.memmap(self.scratch("numbers"), "<u8", "r").reshape(-1, self.stop - self.first)

    def lines(self, places: Numbers) -> list[bytes]:
        """Read the lines of the documents at some places of the sketch."""
        return _pieces(self.scratch("lines"), self.numbers()[LINE_END], places)

    def ids(self, places: Numbers) -> list[bytes]:
        """Read their ids, in UTF-8."""
        return _pieces(self.scratch("ids"), self.numbers()[ID_END], places)


def write_sketch(sketch: Sketch, rules: DuplicateRules, validation_share: float, seed: int) -> None:
    """Read a shard, and write the three files of its sketch."""
    lines: list[bytes] = []
    ids: list[str] = []
    matrices = []
    for batch in batched(promised_lines(sketch.folder, sketch.shard), BATCH):
        batch_ids, texts = decode_texts(batch, sketch.path)
        lines += batch
        ids += batch_ids
        folded = fold_all(texts)
        numbers = np.empty((BANDS + rules.bands, len(batch)), dtype=np.uint64)
        numbers[HELD_OUT] = np.array(id_hashes(batch_ids, "validation", seed)) < share_limit(validation_share)
        numbers[KEY] = id_hashes(batch_ids, "shuffle", seed)
        numbers[SIZE] = [len(text.encode()) for text in texts]
        numbers[FINGERPRINT : FINGERPRINT + 2] = fingerprints(folded)
        numbers[BANDS:] = band_keys(folded, rules.shingle_words, rules.bands, rules.rows, SEED).T
        matrices.append(numbers)
    numbers = np.concatenate(matrices, axis=1)
    order = np.lexsort((numbers[KEY], numbers[HELD_OUT]))
    numbers = np.take(numbers, order, axis=1)
    numbers[LINE_END] = _write_pieces(sketch.scratch("lines"), [lines[place] + b"\n" for place in order.tolist()])
    numbers[ID_END] = _write_pieces(sketch.scratch("ids"), [ids[place].encode() for place in order.tolist()])
    sketch.scratch("numbers").write_bytes(numbers.data)


def shingles_of(task: tuple[Sketch, Numbers], size: int) -> tuple[Hashes, Numbers]:
    """Compute the sets of shingles of the documents at some places of a sketch, and the length of each."""
    sketch, places = task
    pieces = []
    for batch in batched(sketch.lines(places), BATCH):
        pieces.append(shingle_sets(fold_all(decode_texts(batch, sketch.path)[1]), size))
    lengths = [np.diff(stops, prepend=0) for _, stops in pieces]
    return np.concatenate([sets for sets, _ in pieces]), np.concatenate(lengths)


def _write_pieces(path: Path, pieces: list[bytes]) -> Numbers:
    """Write the pieces to one file, and return where each ends."""
    path.write_bytes(b"".join(pieces))
    return np.cumsum([len(piece) for piece in pieces])


def _pieces(path: Path, ends: Hashes, places: Numbers) -> list[bytes]:
    starts = np.where(places > 0, ends[places - 1], 0)
    spans = zip(starts.tolist(), ends[places].tolist(), strict=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return [content[start:end] for start, end in spans]
