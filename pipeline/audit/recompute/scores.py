"""Scores: the metrics of every model computed again from its log-likelihoods, and what a release knows of the items.

The log-likelihoods themselves come again with `everystep replay --evaluation`, which needs torch and the items.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from pipeline.base.paths import SCORES, TASKS, TOKENIZER
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.canonical import Json, canonical, pretty
from pipeline.formats.manifests import Scored, ScoredCheckpoint, TasksMade, Trained
from pipeline.formats.model import ModelSpec
from pipeline.formats.scores import ITEMS_FILE, SCORED_ITEMS, SCORES_FILE
from pipeline.formats.stages import output_folder
from pipeline.formats.tables import ITEMS, read_table
from pipeline.formats.tables import ITEMS_FILE as ITEMS_OF_TASKS
from pipeline.formats.tasks import Item, read_task
from pipeline.formats.vocabulary import end_token
from pipeline.release import harness
from pipeline.release.metrics import scores_of, told_last
from pipeline.release.release import Release

Row = dict[str, Any]
SAME = ("task", "item", "choice", "gold", "tokens", "bytes", "characters")
"""Columns that do not depend on the checkpoint."""


def score_faults(release: Release) -> Iterator[str]:
    """Each metric and fact of the scores that does not come again."""
    for name in release.names(Scored):
        scored = release.manifest(Scored, name)
        yield from _facts(release, scored)
        table = SCORES / name / ITEMS_FILE
        rows: list[Row] = read_table(release.file(table), SCORED_ITEMS).to_pylist()
        odd = [f"{table}: {fault}" for fault in _table(release, scored, rows)]
        yield from odd
        if not odd:
            yield from _lines(release, scored, rows)


def _facts(release: Release, scored: Scored) -> Iterator[str]:
    """What the manifest says beside the scores."""
    trained = release.manifest(Trained, scored.of)
    spec = ModelSpec.from_json(trained.model, str(trained.path))
    declared: list[int | str] = release.params()["score"]["checkpoints"]
    for key, said, found in (
        ("tokenizer_sha256", scored.tokenizer_sha256, release.files[TOKENIZER.as_posix()].digest),
        ("context", scored.context, spec.context),
        ("parameters.checkpoints", scored.parameters.checkpoints, declared),
        ("checkpoints", scored.checkpoints, list(_checkpoints(release, trained, declared))),
    ):
        if said != found:
            yield f"{scored.path}: {key}: is {said}, the rest of the release gives {found}"


def _checkpoints(release: Release, trained: Trained, declared: Sequence[int | str]) -> Iterator[ScoredCheckpoint]:
    """The declared checkpoints, as the manifest and the log of the model have them."""
    ends = {"first": trained.stored_steps[0], "last": trained.stored_steps[-1]}
    steps = {ends.get(str(step), step) for step in declared}
    stored = {entry.step: (entry.revision, entry.weights_digest) for entry in trained.checkpoints}
    path = output_folder("train", trained.of) / log.JSONL
    entries = {entry.step: entry for entry in log.read(release.file(path)) if entry.step in steps}
    for step in sorted(map(int, steps)):
        if step in stored:
            revision, digest = stored[step]
            yield ScoredCheckpoint(revision=revision, step=step, weights_digest=digest, storage="stored")
        elif step in entries and (virtual := entries[step].weights_digest):
            revision = ck.revision(step, entries[step].tokens)
            yield ScoredCheckpoint(revision=revision, step=step, weights_digest=virtual, storage="virtual")


def _table(release: Release, scored: Scored, rows: Sequence[Row]) -> Iterator[str]:
    """What is wrong with the form of the table: each checkpoint has every item of every task, in their order."""
    made = release.manifest(TasksMade)
    wanted = read_table(release.file(TASKS / ITEMS_OF_TASKS), ITEMS).to_pydict()
    items = [*zip(wanted["task"], wanted["item"], strict=True)]
    by_revision = [(revision, [*own]) for revision, own in groupby(rows, key=lambda row: row["revision"])]
    if [revision for revision, _ in by_revision] != [entry.revision for entry in scored.checkpoints]:
        yield "its checkpoints are not those of the manifest, in their order"
        return
    first = by_revision[0][1]
    for revision, own in by_revision:
        if [_same(row) for row in own] != [_same(row) for row in first]:
            yield f"{revision}: its items are not those of the first checkpoint"
    choices = [[*own] for _, own in groupby(first, key=lambda row: (row["task"], row["item"]))]
    if [(own[0]["task"], own[0]["item"]) for own in choices] != items:
        yield f"its items are not those of {TASKS / ITEMS_OF_TASKS}, in their order"
        return
    for own in choices:
        if [row["choice"] for row in own] != [*range(len(own))] or sum(row["gold"] for row in own) != 1:
            yield f"{own[0]['task']}: {own[0]['item']}: its choices are not numbered, or not one of them is right"
    for row in rows:
        value = row["log_likelihood"]
        if (value is None) != (row["greedy"] is None) or not (value is None or -math.inf < value <= 0):
            yield f"{row['revision']}: {row['task']}: {row['item']}: a log-likelihood is {value}"
    for shard in made.shards("pairs"):
        release.file(TASKS / shard.path)
        name = shard.path.partition(".")[0]
        again = [*_known(name, read_task(release.folder / TASKS, shard), made.tasks[name].delimiter)]
        if again != [[row[key] for key in _KNOWN] for row in first if row["task"] == name]:
            yield f"{name}: its choices are not those of {TASKS / shard.path}"


_KNOWN = ("item", "choice", "gold", "bytes", "characters")


def _known(name: str, items: Iterator[Item], delimiter: str) -> Iterator[list[Json]]:
    for item in items:
        for place, choice in enumerate(item.choices):
            text = choice.continuation
            yield [item.id, place, place == item.gold, len(text.encode()), len(text.removeprefix(delimiter))]


def _same(row: Row) -> list[Json]:
    return [*(row[name] for name in SAME), row["log_likelihood"] is None]


def _lines(release: Release, scored: Scored, rows: Sequence[Row]) -> Iterator[str]:
    """The metrics, in each of the files that have them."""
    folder, (files, facts) = SCORES / scored.of, given_by(release, scored, rows)
    for name, content in files.items():
        if release.read(folder / name) != content:
            yield f"{folder / name}: is not what {folder / ITEMS_FILE} gives"
    for key, found in facts.items():
        if getattr(scored, key) != found:
            yield f"{scored.path}: {key}: is not what {folder / ITEMS_FILE} gives"


def given_by(release: Release, scored: Scored, rows: Sequence[Row]) -> tuple[dict[str, bytes], dict[str, Json]]:
    """The files beside the table that its rows give, by name, and the facts of the manifest."""
    tasks = release.manifest(TasksMade).tasks
    lines = [*scores_of(rows, tasks, {entry.revision: entry.step for entry in scored.checkpoints})]
    files = {SCORES_FILE: b"".join(canonical(line.to_json()) + b"\n" for line in lines)}
    for entry in scored.checkpoints:
        of_it = [line for line in lines if line.revision == entry.revision]
        files[f"{entry.revision}.json"] = pretty(harness.results(_model(release, scored, entry), of_it, tasks))
    return files, told_last(lines)


def _model(release: Release, scored: Scored, entry: ScoredCheckpoint) -> harness.Model:
    return harness.Model(
        name=scored.of,
        revision=entry.revision,
        weights_digest=entry.weights_digest,
        parameters=release.manifest(Trained, scored.of).parameters_unique,
        context=scored.context,
        end_token=end_token(release.file(TOKENIZER)),
    )
