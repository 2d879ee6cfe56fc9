"""Held out: no document of one split is in the other, neither by its id nor by its text."""

from collections.abc import Iterator

import numpy as np

from pipeline.audit.recompute.columns import index_batches, index_path, joined
from pipeline.formats.documents import id_hashes
from pipeline.release.release import Release


def held_out_faults(release: Release) -> Iterator[str]:
    """Each held-out document that is a training document too."""
    for column in ("id", "text_sha256"):
        trained = joined(
            np.array(id_hashes(batch.column(column).to_pylist(), "audit"), dtype=np.uint64)
            for batch in index_batches(release, "train", [column])
        )
        for batch in index_batches(release, "validation", ["id", column] if column != "id" else ["id"]):
            keys = np.array(id_hashes(batch.column(column).to_pylist(), "audit"), dtype=np.uint64)
            for place in np.flatnonzero(np.isin(keys, trained)).tolist():
                id = batch.column("id")[place].as_py()
                yield f"{index_path('validation')}: {id}: a training document has the same {column}"
