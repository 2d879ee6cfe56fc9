"""What the recomputations read of tables: some columns, every row group in the order of the file, whatever a footer
claims of it. Ids are compared by 64-bit hashes, so a table of any size needs 8 bytes a row."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.base.paths import REMOVALS_FILE, SPLITS, TOKENS
from pipeline.formats.documents import id_hashes
from pipeline.formats.manifests import Deduplicated, Extracted, Filtered, Tokens
from pipeline.formats.stages import output_folder
from pipeline.formats.tables import DOCUMENT_INDEX, REMOVALS, column_batches
from pipeline.release.release import Release

Keys = NDArray[np.uint64]
Stage = Extracted | Filtered | Deduplicated | Tokens


class Removed(NamedTuple):
    """A table of removals and the manifest of the stage that wrote it."""

    path: str
    manifest: Stage

    def batches(self, release: Release, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Some columns of it, in pieces."""
        return column_batches(release.file(self.path), REMOVALS, columns)


def removals(release: Release) -> list[Removed]:
    """The tables of removals of a release, in the order of the stages. A mixture has one if it left documents out."""
    sources = release.sources()
    manifests: list[Stage] = [release.manifest(Extracted, name) for name in sources]
    manifests += [release.manifest(Filtered, name) for name in sources]
    manifests += [release.manifest(Deduplicated), release.manifest(Tokens)]
    return [
        Removed((output_folder(manifest.stage, manifest.of) / REMOVALS_FILE).as_posix(), manifest)
        for manifest in manifests
        if "removals" in manifest.outputs
    ]


def index_path(split: str) -> str:
    """Where the document index of a split is."""
    return (TOKENS / f"{split}.parquet").as_posix()


def index_batches(release: Release, split: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of the document index of a split, in pieces."""
    return column_batches(release.file(index_path(split)), DOCUMENT_INDEX, columns)


def keys_of(ids: Iterable[str]) -> Keys:
    """A 64-bit key of each id."""
    return np.array(id_hashes(ids, "audit"), dtype=np.uint64)


def index_keys(release: Release, splits: Iterable[str] = SPLITS) -> Keys:
    """The keys of all documents in the rows, in the order of the index."""
    return joined(
        keys_of(batch.column("id").to_pylist()) for split in splits for batch in index_batches(release, split, ["id"])
    )


def joined(arrays: Iterable[Keys]) -> Keys:
    """Keys in a row."""
    return np.concatenate([np.empty(0, dtype=np.uint64), *arrays])


def repeated(keys: Keys) -> Keys:
    """The keys that occur more than once."""
    ordered = np.sort(keys)
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def is_ascending(places: Iterable[tuple[Any, ...]]) -> bool:
    """Whether each place is after the one before it."""
    return all(one < other for one, other in pairwise(places))
