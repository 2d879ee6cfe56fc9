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

from pipeline.base.errors import EverystepError
from pipeline.base.parquet import batches, damage_named, open_parquet
from pipeline.base.paths import REMOVALS_FILE, SPLITS, TOKENS
from pipeline.base.suggest import CANDIDATES, NAMED, did_you_mean
from pipeline.formats.bounds import MAX_PASSES, MAX_READS
from pipeline.formats.forgotten import Forgotten
from pipeline.formats.index_groups import documents_of_rows
from pipeline.formats.manifests import Checkpoint, Tokens, path_of
from pipeline.formats.order import first_sample, rows_of_samples, steps_of_rows
from pipeline.formats.rows import IDS_AT_ONCE, DocumentIndex
from pipeline.formats.tables import stored_batches
from pipeline.release.forgetting import forgotten_of, index_of
from pipeline.release.release import Release


@dataclass(frozen=True)
class _Training:
    """The order in which a model read its rows, and its checkpoints."""

    seed: int
    global_batch: int
    begun_at: int
    begun_with: int
    steps: int
    rows: int
    checkpoints: list[Checkpoint]

    @classmethod
    def of(cls, release: Release, model: str) -> "_Training":
        trained, rows = release.model(model), release.manifest(Tokens).splits.train.rows
        recipe = trained.parameters
        if not rows:
            raise EverystepError(
                f"{release.folder / path_of(Tokens)}: splits.train.rows: 0; a training needs at least one row"
            )
        if recipe.data.global_batch > rows * MAX_PASSES:
            raise EverystepError(
                f"{release.folder}: a step of {recipe.data.global_batch:,} samples passes over the {rows:,} rows more "
                f"than {MAX_PASSES:,} times; no training does"
            )
        return cls(
            seed=recipe.data.seed,
            global_batch=recipe.data.global_batch,
            begun_at=recipe.begun_at,
            begun_with=recipe.sample(recipe.begun_at),
            steps=recipe.schedule.steps,
            rows=rows,
            checkpoints=trained.checkpoints,
        )


def trace_step(release: Release, model: str, step: int) -> list[dict[str, Any]]:
    """Every piece of a document in the batch that led from state `step - 1` to state `step`, in reading order.

    `sample` is the position in the batch; `row`, `start` and `stop` say where in the rows the piece lies. Of a release
    that has forgotten documents, `forgotten` says whether there is filler in its place.
    """
    training = _Training.of(release, model)
    first, steps = training.begun_at + 1, training.steps
    if not first <= step <= steps:
        trained = f"for {steps} steps" if first == 1 else f"from step {training.begun_at} to step {steps}"
        raise EverystepError(f"--step {step}: {model} was trained {trained}; give {first} to {steps}")
    sample = first_sample(step - 1, training.global_batch, training.begun_at, training.begun_with)
    rows = rows_of_samples(sample, sample + training.global_batch, training.rows, training.seed)
    tokens = release.manifest(Tokens)
    groups = tokens.shard("train_index").groups
    if groups is None:
        raise EverystepError(
            f"{release.folder / path_of(Tokens)}: outputs.train_index: has no digests of its row groups"
        )
    with release.window(_index_path("train")) as window:
        documents = documents_of_rows(window, groups, tokens.width, training.rows, rows.tolist())
    pieces = [{"sample": sample, **asdict(span)} for sample, spans in enumerate(documents) for span in spans]
    lost = forgotten_of(release)
    return pieces if lost is None else [{**piece, "forgotten": _is_lost(lost, piece)} for piece in pieces]


def trace_document(release: Release, model: str, id: str) -> dict[str, Any]:
    """What became of a document: its rows (a range for each copy), the steps that saw any of them, and the first
    checkpoint after the first of these steps.

    Of a training that went on from another one, only its own steps are listed, and `begun_at` says after which.
    A document that was forgotten has rows, in which there is filler, and no steps. One that was removed is answered
    from the record of removals, a held-out one as such. For an unknown id the error lists ids that begin with it,
    contain it or resemble it.
    """
    training = _Training.of(release, model)
    copies = _index(release, "train").rows_of_document(id)
    if not copies:
        return {"id": id, **absent(release, id)}
    if _is_forgotten(release, id):
        forgotten = {"split": "train", "forgotten": True, "steps": [], "first_checkpoint": None}
        return {"id": id, "rows": _bounds(copies), **forgotten}
    _require_countable(copies, training)
    rows = np.unique(np.fromiter(chain.from_iterable(copies), dtype=np.uint64))
    num_steps = training.steps - training.begun_at
    seen = steps_of_rows(rows, training.global_batch, training.rows, training.seed, num_steps, training.begun_with)
    steps = [training.begun_at + step + 1 for step in seen]
    after = [entry.revision for entry in training.checkpoints if steps and entry.step >= steps[0]]
    return {
        "id": id,
        "split": "train",
        "rows": _bounds(copies),
        "steps": steps,
        "first_checkpoint": after[0] if after else None,
        **({"begun_at": training.begun_at} if training.begun_at else {}),
    }


def _index(release: Release, split: str) -> DocumentIndex:
    """The document index of a split."""
    tokens = release.manifest(Tokens)
    rows = {"train": tokens.splits.train.rows, "validation": tokens.splits.validation.rows}[split]
    return DocumentIndex(release.file(_index_path(split)), tokens.width, rows)


def _is_forgotten(release: Release, id: str) -> bool:
    lost = forgotten_of(release)
    if lost is None:
        return False
    index = index_of(release)
    return bool((index.having(lost.spans) & index.chosen([id], [])).any())


def _is_lost(lost: Forgotten, piece: dict[str, Any]) -> bool:
    marks = lost.marks([piece["row"]], piece["stop"])
    return bool(marks[0, piece["start"]])


def _require_countable(copies: list[range], training: _Training) -> None:
    """Refuse numbers that would list more steps than anybody can read."""
    end = training.begun_with + (training.steps - training.begun_at) * training.global_batch
    passes = end // training.rows + 1
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


def absent(release: Release, id: str, option: str = "--document") -> dict[str, Any]:
    """Say why a document, which the reader named with `option`, is not in the training rows."""
    held_out = _index(release, "validation").rows_of_document(id)
    if held_out:
        return {"split": "validation", "rows": _bounds(held_out), "steps": [], "first_checkpoint": None}
    removals = [release.file(path) for path in sorted(release.files) if path.endswith(f"/{REMOVALS_FILE}")]
    for path in removals:
        for batch in stored_batches(path):
            for row in batch.filter(pc.equal(batch.column("id"), id)).to_pylist():
                return {"split": None, "removed": row, "steps": [], "first_checkpoint": None}
    indexes = [release.file(_index_path(split)) for split in SPLITS]
    raise EverystepError(f"{option} {id}: {_nearly([*indexes, *removals], id)}")


def _nearly(tables: list[Path], id: str) -> str:
    """Suggest ids for one that no table has, in one pass over the tables."""
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
