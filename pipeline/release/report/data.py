"""The data of the explorer: files of which a browser reads ranges, each computed from other files of the release.

    report/data/documents.jsonl     the training documents, sorted by id
    report/data/documents.places    the same in the order in which they were packed: where each begins, and its line
    report/data/MODEL.losses        the loss of each token of the sampled training rows, at each stored checkpoint

A browser reads neither Parquet nor zstd; `docs/formats.md` says what the bytes are. What it reads as it is has no copy
here: the ids of the rows (`data/search`), the tokenizer, the logs, the samples of text and the manifests. The functions
give the same bytes for the same files, so `verify` calls them again and compares.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.base.paths import RESULTS
from pipeline.formats import losses
from pipeline.formats.manifests import Tokens
from pipeline.formats.tables import BATCH, DOCUMENT_INDEX, json_lines, read_table
from pipeline.release.forgetting import INDEX, forgotten_of, index_of
from pipeline.release.release import Release

FOLDER = Path("report/data")
DOCUMENTS, PLACES = FOLDER / "documents.jsonl", FOLDER / "documents.places"
SHOWN = ("first_row", "id", "license", "num_tokens", "offset")
"""Columns of the document index that a line has; `source` is how the id begins."""
UNITS_PER_NAT, LARGEST = 1000, 2**16 - 1
LINE_FEED = 10
Pieces = Iterator[bytes]


def data_files(release: Release) -> Iterator[tuple[Path, Pieces]]:
    """The path and the bytes of each file, one after another."""
    lines = _DocumentLines(release)
    yield DOCUMENTS, lines.pieces()
    yield PLACES, iter([lines.places()])
    for model in release.models():
        yield losses_file(model), loss_records(release, model)


def losses_file(model: str) -> Path:
    """Path of the losses of a model."""
    return FOLDER / f"{model}.losses"


def data_paths(models: Iterable[str]) -> list[Path]:
    """The paths of all files, in the order of `data_files`."""
    return [DOCUMENTS, PLACES, *map(losses_file, models)]


class _DocumentLines:
    """The documents as lines, sorted by id; two copies of one by their place."""

    def __init__(self, release: Release) -> None:
        table = read_table(release.file(INDEX), DOCUMENT_INDEX)
        self.width = release.manifest(Tokens).width
        self.table = table.select(SHOWN)
        if (lost := forgotten_of(release)) is not None:
            self.table = self.table.append_column("forgotten", pa.array(index_of(release).having(lost.spans)))
        keys = [(name, "ascending") for name in ("id", "first_row", "offset")]
        self.order = pc.sort_indices(self.table, sort_keys=keys)
        self.starts = np.zeros(len(self.order) + 1, dtype=np.uint64)

    def pieces(self) -> Pieces:
        """The lines, some thousands at a time; notes where each begins."""
        for first in range(0, len(self.order), BATCH):
            batch = self.table.take(self.order.slice(first, BATCH)).combine_chunks().to_batches()[0]
            content = json_lines(batch)
            ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == LINE_FEED) + 1
            self.starts[first + 1 : first + 1 + len(ends)] = self.starts[first] + ends.astype(np.uint64)
            yield content

    def places(self) -> bytes:
        """For each document, in the order of the index, the place of its first id and the byte of its line."""
        places = np.empty((len(self.order), 2), dtype="<u8")
        places[:, 0] = self.table["first_row"].to_numpy() * self.width + self.table["offset"].to_numpy()
        places[self.order.to_numpy(), 1] = self.starts[:-1]
        return places.tobytes()


def loss_records(release: Release, model: str) -> Pieces:
    """A record for each sampled row, ascending: its number, then the losses of its targets at each checkpoint."""
    revisions = [state.revision for state in release.states(model).values()]
    context = release.manifest(Tokens).width - 1
    path = release.file(RESULTS / model / losses.NAME)
    waiting = pa.table([], schema=pa.schema([]))
    for batch in losses.losses_batches(path, revisions, ["split", "row", *revisions]):
        sampled = pa.Table.from_batches([batch.filter(pc.equal(batch["split"], losses.TRAINED_ON))])
        waiting = pa.concat_tables([waiting, sampled]) if len(waiting) else sampled
        whole = len(waiting) // context
        yield b"".join(_record(waiting.slice(row * context, context), revisions) for row in range(whole))
        waiting = waiting.slice(whole * context)


def _record(targets: pa.Table, revisions: list[str]) -> bytes:
    """One row: its number as u64, then in_units of each target, checkpoint after checkpoint."""
    number = np.array([targets["row"][0].as_py()], dtype="<u8")
    return b"".join([number.tobytes(), *(in_units(targets[name].to_numpy()).tobytes() for name in revisions)])


def in_units(losses: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Losses in thousandths of a nat, half to even; what is larger than 65.535 nats is 65.535."""
    return np.minimum(np.rint(losses.astype(np.float64) * UNITS_PER_NAT), LARGEST).astype("<u2")
