"""Replaced: each document with replaced personal data is listed once, is of its source, and is in the rows or was
removed by the filter later; and the step rewrote as many texts."""

from collections.abc import Iterator

import numpy as np

from pipeline.audit.recompute.columns import Keys, index_keys, joined, keys_of, removals, repeated
from pipeline.audit.recompute.reasons import step_of
from pipeline.base.paths import REPLACED_FILE
from pipeline.formats.manifests import Filtered
from pipeline.formats.stages import output_folder
from pipeline.formats.tables import PERSONAL_DATA, REPLACED, column_batches
from pipeline.release.release import Release

STEP = "personal_data"


def replaced_faults(release: Release) -> Iterator[str]:
    """Each line that no document explains, and each source whose step rewrote another number of texts."""
    reached = _reached(release)
    for name in release.sources():
        filtered = release.manifest(Filtered, name)
        path = output_folder(filtered.stage, name) / REPLACED_FILE
        keys: list[Keys] = []
        for batch in column_batches(release.file(path), REPLACED, REPLACED.names):
            rows = batch.to_pylist()
            keys.append(keys_of(row["id"] for row in rows))
            for row, is_reached in zip(rows, np.isin(keys[-1], reached).tolist(), strict=True):
                counts = [row[kind] for kind in PERSONAL_DATA]
                if row["source"] != name or row["id"].partition("/")[0] != name or not is_reached:
                    yield f"{path}: {row['id']}: no such document of {name} came to the step {STEP}"
                elif min(counts) < 0 or not any(counts):
                    yield f"{path}: {row['id']}: replaced nothing"
        every = joined(keys)
        if len(repeated(every)):
            yield f"{path}: lists a document twice"
        steps = {tally.step: tally for tally in filtered.steps}
        rewritten = len(every) - steps[STEP].removed.get(STEP, 0) if STEP in steps else 0
        if (steps[STEP].rewritten if STEP in steps else 0) != rewritten:
            yield f"{filtered.path}: steps: {STEP}: rewritten is {steps[STEP].rewritten}, {path} gives {rewritten}"


def _reached(release: Release) -> Keys:
    """The documents that may have come to the step: all but those that were removed before it."""
    keys = [index_keys(release)]
    for removed in removals(release):
        if removed.manifest.stage == "extract":
            continue
        order = [*removed.manifest.parameters.to_json().get("steps", [])]
        early = {*order[: order.index(STEP)]} if STEP in order else set()
        for batch in removed.batches(release, ["id", "reason"]):
            rows = batch.to_pylist()
            keys.append(keys_of(row["id"] for row in rows if step_of(row["reason"]) not in early))
    return joined(keys)
