"""Trace: which documents a training step saw, and which steps saw a document.

Both directions are arithmetic on three published things: the order (a function of seed and step), the width of
a row, and the index of which document lies where. No text is needed.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audit.suggest import CANDIDATES, NAMED, did_you_mean
from pipeline.audit.verify import model_manifest, verified_file, verified_manifest
from pipeline.base.errors import EverystepError, well_shaped
from pipeline.base.parquet import batches, damage_named, open_parquet
from pipeline.base.paths import REMOVALS_FILE, SPLITS, TOKENS
from pipeline.formats.bounds import MAX_CONTEXT, MAX_GLOBAL_BATCH, MAX_PASSES, MAX_READS, MAX_ROWS, MAX_STEPS, whole
from pipeline.formats.canonical import Json
from pipeline.formats.order import rows_of_step, steps_of_rows
from pipeline.formats.release import read_root
from pipeline.formats.rows import IDS_AT_ONCE, DocumentIndex
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import stored_batches


@dataclass(frozen=True)
class _Traced:
    """What is read of a release: each file after its digest was found right."""

    release: Path
    root: dict[str, Json]
    follow_links: bool

    def file(self, path: str) -> Path:
        return verified_file(self.release, self.root, path, self.follow_links)

    def order(self, model: str) -> dict[str, Any]:
        """Seed, batch, steps and rows of a training, and its checkpoints."""
        trained = model_manifest(self.release, self.root, model, self.follow_links)
        tokens = verified_manifest(self.release, self.root, "tokenize", follow_links=self.follow_links)
        with well_shaped(self.release / manifest_path("train", model)):
            steps = whole(trained, "parameters", "schedule", "steps", least=1, most=MAX_STEPS)
            rows = whole(tokens, "splits", "train", "rows", least=1, most=MAX_ROWS)
            global_batch = whole(trained, "parameters", "data", "global_batch", least=1, most=MAX_GLOBAL_BATCH)
            if global_batch > rows * MAX_PASSES:
                raise EverystepError(
                    f"{self.release}: a step of {global_batch:,} samples passes over the {rows:,} rows more than "
                    f"{MAX_PASSES:,} times; no training does"
                )
            return {
                "seed": trained["parameters"]["data"]["seed"],
                "global_batch": global_batch,
                "steps": steps,
                "rows": rows,
                "checkpoints": [
                    {"step": whole(entry, "step", most=steps), "revision": str(entry["revision"])}
                    for entry in trained["checkpoints"]
                ],
            }

    def index(self, split: str) -> DocumentIndex:
        """The document index of a split."""
        tokens = verified_manifest(self.release, self.root, "tokenize", follow_links=self.follow_links)
        path = self.file(_index_path(split))
        with well_shaped(self.release / manifest_path("tokenize")):
            width = whole(tokens, "width", least=2, most=MAX_CONTEXT + 1)
            return DocumentIndex(path, width, whole(tokens, "splits", split, "rows", most=MAX_ROWS))

    def tables(self) -> list[Path]:
        """The files in which every known id stands: the index of each split, and what each stage removed."""
        removals = sorted(path for path in self.root["files"] if path.endswith(f"/{REMOVALS_FILE}"))
        return [self.file(path) for path in [*map(_index_path, SPLITS), *removals]]


def trace_step(release: Path, model: str, step: int, follow_links: bool = False) -> list[dict[str, Any]]:
    """Every piece of a document in the batch that led from state `step - 1` to state `step`, in reading order.

    `sample` is the position in the batch; `row`, `start` and `stop` say where in the rows the piece lies.
    """
    traced = _Traced(release, read_root(release, follow_links), follow_links)
    order = traced.order(model)
    if not 1 <= step <= order["steps"]:
        raise EverystepError(
            f"--step {step}: {model} was trained for {order['steps']} steps; give 1 to {order['steps']}"
        )
    index = traced.index("train")
    rows = rows_of_step(step - 1, order["global_batch"], order["rows"], order["seed"])
    documents = index.documents_of_rows(rows.tolist())
    return [{"sample": sample, **asdict(span)} for sample, spans in enumerate(documents) for span in spans]


def trace_document(release: Path, model: str, id: str, follow_links: bool = False) -> dict[str, Any]:
    """What became of a document: its rows (a range for each copy), the steps that saw any of them, and the first
    checkpoint after the first of these steps.

    A document that was removed is answered from the record of removals, a held-out one as such. For an unknown id the
    error lists ids that begin with it, contain it or resemble it.
    """
    traced = _Traced(release, read_root(release, follow_links), follow_links)
    order = traced.order(model)
    copies = traced.index("train").rows_of_document(id)
    if not copies:
        return {"id": id, **_absent(traced, id)}
    _require_countable(copies, order)
    rows = np.unique(np.fromiter(chain.from_iterable(copies), dtype=np.uint64))
    seen = steps_of_rows(rows, order["global_batch"], order["rows"], order["seed"], order["steps"])
    steps = [step + 1 for step in seen]
    after = [entry["revision"] for entry in order["checkpoints"] if steps and entry["step"] >= steps[0]]
    return {
        "id": id,
        "split": "train",
        "rows": _bounds(copies),
        "steps": steps,
        "first_checkpoint": after[0] if after else None,
    }


def _require_countable(copies: list[range], order: dict[str, Any]) -> None:
    """Refuse numbers that would list more steps than anybody can read."""
    passes = order["steps"] * order["global_batch"] // order["rows"] + 1
    rows = sum(map(len, copies))
    if passes > MAX_PASSES or passes * rows > MAX_READS:
        raise EverystepError(
            f"the manifests claim {passes:,} passes over {rows:,} rows of this document; "
            f"at most {MAX_PASSES:,} passes and {MAX_READS:,} readings are listed"
        )


def _bounds(copies: list[range]) -> list[list[int]]:
    return [[rows.start, rows.stop] for rows in copies]


def _index_path(split: str) -> str:
    return (TOKENS / f"{split}.parquet").as_posix()


def _absent(traced: _Traced, id: str) -> dict[str, Any]:
    """Why a document is not in the training rows."""
    held_out = traced.index("validation").rows_of_document(id)
    if held_out:
        return {"split": "validation", "rows": _bounds(held_out), "steps": [], "first_checkpoint": None}
    tables = traced.tables()
    for path in tables[len(SPLITS) :]:
        for batch in stored_batches(path):
            for row in batch.filter(pc.equal(batch.column("id"), id)).to_pylist():
                return {"split": None, "removed": row, "steps": [], "first_checkpoint": None}
    raise EverystepError(f"--document {id}: {_nearly(tables, id)}")


def _nearly(tables: list[Path], id: str) -> str:
    """What to say of an id that no table has: the ids that it may stand for, in one pass over them."""
    half = len(id) // 2
    begins, contains, near = _Found(), _Found(), _Found()
    for path in tables:
        for ids in _ids(path):
            begins.add(ids, pc.starts_with(ids, id))
            contains.add(ids, pc.match_substring(ids, id, ignore_case=True))
            if half:  # one wrong letter leaves one half as it is
                near.add(ids, pc.or_(pc.starts_with(ids, id[:half]), pc.ends_with(ids, id[half:])))
    for what, found in (("begin with it", begins), ("contain it", contains)):
        if found.total:
            shown = sorted(found.ids)[:NAMED] + ["..."] * (found.total > NAMED)
            return f"not an id of this release; {found.total:,} {what}: {', '.join(shown)}"
    hint = did_you_mean(id, near.ids)
    return f"not known to this release{hint or '; ids read SOURCE/KEY, as `everystep trace --step` prints them'}"


class _Found:
    """The first `CANDIDATES` ids that fit, and how many do."""

    def __init__(self) -> None:
        self.total = 0
        self.ids: list[str] = []

    def add(self, ids: pa.Array, fits: pa.Array) -> None:
        self.total += pc.sum(fits).as_py() or 0
        if len(self.ids) < CANDIDATES:
            self.ids += ids.filter(fits)[: CANDIDATES - len(self.ids)].to_pylist()


def _ids(path: Path) -> Iterator[pa.Array]:
    with open_parquet(path) as file, damage_named(path):
        for batch in batches(file, path, IDS_AT_ONCE, ("id",), range(file.num_row_groups)):
            yield batch.column(0)
