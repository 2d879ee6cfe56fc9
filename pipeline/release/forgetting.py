"""Forgetting: which rows, steps and states of a release some documents touch, and what it is without them.

All of it is arithmetic on the document index, the order and the recipes, so the builder of a successor, its readers and
its auditors compute the same. All models of a release read the same rows at the same steps, so all have seen nothing of
a document until the same step; a training without it goes on from the last state that each of them has there.

A successor keeps at `data/parent` of the release before it what proves the states that it began with (see
`pipeline.release.ancestors`) and the manifest of the rows; with these its certificate, `manifests/forgotten.json`, is
computed again from the successor alone. Only that the rows outside the spans are the old ones needs the old rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.base.paths import PARENT, TOKENS
from pipeline.formats.canonical import Json
from pipeline.formats.forgotten import NONE, OUTPUT, Forgotten, read_forgotten, write_forgotten
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import ForgetParameters, Forgetting, RecipeParameters, Tokens, Trained, path_of
from pipeline.formats.order import steps_of_rows
from pipeline.formats.rows import DocumentIndex, Rows, rows_at_once, write_row_shard
from pipeline.release.ancestors import ancestors
from pipeline.release.release import Release

INDEX = TOKENS / "train.parquet"
IN_THAT_RELEASE = "forget them in that release, together with what this one has lost already"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What forgetting means for a model."""

    name: str
    steps: list[int]
    """Its steps that read any of the documents, ascending."""
    clean: int
    """Step of the state that a training without them goes on from."""
    is_stored: bool
    """Whether the release has the bytes of that state; else it is rebuilt first."""
    steps_again: int
    """Steps to train again: all after `clean`."""
    tokens_again: int
    """Tokens of these."""
    share: float
    """These as a share of the whole training."""


def index_of(release: Release) -> DocumentIndex:
    """The index of the training documents."""
    tokens = release.manifest(Tokens)
    return DocumentIndex(release.file(INDEX), tokens.width, tokens.splits.train.rows)


def forgotten_of(release: Release) -> Forgotten | None:
    """The spans that the rows of a release have lost; None if nothing was forgotten."""
    tokens = release.manifest(Tokens)
    if OUTPUT in tokens.outputs:
        release.file(TOKENS / tokens.shard(OUTPUT).path)
    return read_forgotten(release.folder / TOKENS, tokens)


def without(release: Release, spans: NDArray[np.int64]) -> Forgotten:
    """What a release has lost, and these spans, which are not among it."""
    before = forgotten_of(release)
    return Forgotten(spans, release.manifest(Tokens).end_token) if before is None else before.with_more(spans)


def steps_that_read(recipe: RecipeParameters, stop: int, rows: NDArray[np.int64], tokens: Tokens) -> list[int]:
    """The steps of one training, until `stop`, that read any of the rows."""
    first, num_steps = recipe.sample(recipe.begun_at), stop - recipe.begun_at
    numbers, num_rows = rows.astype(np.uint64), tokens.splits.train.rows
    read = steps_of_rows(numbers, recipe.data.global_batch, num_rows, recipe.data.seed, num_steps, first)
    return [recipe.begun_at + step + 1 for step in read]


def plan(release: Release, rows: NDArray[np.int64]) -> list[Model]:
    """What it means for each model of a release to forget something of these rows."""
    tokens = release.manifest(Tokens)
    recipes = {name: release.model(name).parameters for name in release.models()}
    read = {name: steps_that_read(recipe, recipe.schedule.steps, rows, tokens) for name, recipe in recipes.items()}
    clean = min((steps[0] if steps else recipes[name].schedule.steps) - 1 for name, steps in read.items())
    while not all(_has_state(release.model(name), clean) for name in read):
        clean -= 1
    for name in read:
        _require_clean_ancestors(release, name, rows)
    again = {name: recipe.schedule.steps - clean for name, recipe in recipes.items()}
    return [
        Model(
            name=name,
            steps=read[name],
            clean=clean,
            is_stored=clean in release.model(name).stored_steps,
            steps_again=again[name],
            tokens_again=again[name] * recipe.data.global_batch * (tokens.width - 1),
            share=again[name] / recipe.schedule.steps,
        )
        for name, recipe in recipes.items()
    ]


def tokens_without(release: Release, forgotten: Forgotten, folder: Path) -> dict[str, Json]:
    """Write to `folder` the spans, and the shards of the training rows of a release that have one, with the filler in
    each; return the manifest of the rows as they are then. Shards without a span are what they were."""
    tokens, shards = release.manifest(Tokens), []
    for shard, first in _shards(tokens):
        if forgotten.rows_between(first, first + shard.lines):
            release.file(TOKENS / shard.path)
            rows = Rows(release.folder / TOKENS, [shard], tokens.width, tokens.vocabulary)
            shards.append(write_row_shard(folder, shard.path, _filled(rows, forgotten, first), tokens.vocabulary))
        else:
            shards.append(shard)
    changed = {"train": shards, OUTPUT: [write_forgotten(folder, forgotten)]}
    tree = tokens.to_json()
    tree["outputs"] |= {name: [shard.to_json() for shard in listed] for name, listed in changed.items()}
    return tree


def certificate(release: Release, before: Release, chosen: ForgetParameters) -> dict[str, Json]:
    """The keys of `manifests/forgotten.json`: what `release` lost of what `before`, the release that it follows, had.

    Of `release` the index and the manifest of the rows are read, of `before` manifests alone.
    """
    index, tokens = index_of(release), release.manifest(Tokens)
    documents = index.chosen(chosen.documents, chosen.sources)
    new = Forgotten(index.spans_of(documents), tokens.end_token)
    shards = {shard.path: shard.sha256 for shard in before.manifest(Tokens).shards("train")}
    return {
        "filler": tokens.end_token,
        "documents": index.names_of(documents),
        "rows": len(new.rows),
        "ids": new.num_ids,
        "changed": {
            shard.path: {"before": shards[shard.path], "after": shard.sha256}
            for shard, first in _shards(tokens)
            if new.rows_between(first, first + shard.lines)
        },
        "models": {
            model.name: {
                "steps": model.steps,
                "clean": model.clean,
                "superseded": {
                    entry.revision: entry.state_digest
                    for entry in before.model(model.name).checkpoints
                    if entry.step > model.clean
                },
            }
            for model in plan(before, new.rows)
        },
    }


def forgetting_faults(release: Release) -> Iterator[str]:
    """What is wrong with what a release says that it has forgotten, as faults: its spans and its certificate, computed
    again from the release alone."""
    lost = forgotten_of(release)
    if lost is None:
        return
    yield from _held(release, lost)
    path = path_of(Forgetting).as_posix()
    if path not in release.files:  # it was trained on from a release that had forgotten
        return
    said, before = release.manifest(Forgetting), Release.open(release.folder / PARENT, release.follow_links)
    tokens, old, index = release.manifest(Tokens), before.manifest(Tokens), index_of(release)
    new = Forgotten(index.spans_of(index.chosen(said.parameters.documents, said.parameters.sources)), lost.filler)
    rest = Forgotten(new.lacks(lost), lost.filler)
    known = old.shard(OUTPUT).sha256 if OUTPUT in old.outputs else NONE
    if len(lost.lacks(new)) or rest.sha256 != known:
        yield f"{TOKENS / tokens.shard(OUTPUT).path}: its spans are not those of the documents in {path}"
        return
    if tokens.to_json() != _with_shards_of(tokens, old, lost):
        yield f"{tokens.path}: differs from that of the release before it in more than the rows with forgotten spans"
        return
    for key, value in certificate(release, before, said.parameters).items():
        if said.to_json()[key] != value:
            yield f"{path}: {key} is not what the index, the order and the release before it give"
    for name, model in said.models.items():
        parent = release.model(name).parameters.parent if name in release.models() else None
        if parent is None or parent.step != model.clean:
            yield f"{path}: {name} did not go on from step {model.clean}"


def _shards(tokens: Tokens) -> Iterator[tuple[Shard, int]]:
    """Each shard of the training rows, with the number of its first row."""
    first = 0
    for shard in tokens.shards("train"):
        yield shard, first
        first += shard.lines


def _held(release: Release, lost: Forgotten) -> Iterator[str]:
    """Rows that hold anything but the filler in a forgotten span."""
    tokens = release.manifest(Tokens)
    for shard, first in _shards(tokens):
        numbers = lost.rows_between(first, first + shard.lines)
        if not numbers:
            continue
        release.file(TOKENS / shard.path)
        rows = Rows(release.folder / TOKENS, [shard], tokens.width, tokens.vocabulary)
        for number, marks in zip(numbers, lost.marks(numbers, tokens.width), strict=True):
            if (rows[number - first][marks] != lost.filler).any():
                yield f"{TOKENS / shard.path}: row {number} holds ids in a span that is forgotten"


def _with_shards_of(tokens: Tokens, old: Tokens, lost: Forgotten) -> dict[str, Json]:
    """The manifest `old`, with what forgetting changes taken from `tokens`."""
    tree, ours = old.to_json(), {shard.path: shard for shard in tokens.shards("train")}
    shards = [
        ours.get(shard.path, shard) if lost.rows_between(first, first + shard.lines) else shard
        for shard, first in _shards(old)
    ]
    tree["outputs"] |= {"train": [shard.to_json() for shard in shards], OUTPUT: tokens.to_json()["outputs"][OUTPUT]}
    return tree


def _filled(rows: Rows, forgotten: Forgotten, first: int) -> Iterator[NDArray[np.unsignedinteger]]:
    """The rows of a shard, the first of which has the number `first`, in blocks with the filler in each span."""
    at_once = rows_at_once(rows.width)
    for start in range(0, len(rows), at_once):
        numbers = range(start, min(start + at_once, len(rows)))
        block = np.stack([rows[number] for number in numbers])
        block[forgotten.marks([first + number for number in numbers], rows.width)] = forgotten.filler
        yield block.astype(np.uint32)


def _has_state(trained: Trained, step: int) -> bool:
    if step < trained.stored_steps[0]:
        raise EverystepError(
            f"{trained.of}: its training began with step {trained.parameters.begun_at} of another release, and has no "
            f"state of its own before it read of these documents; {IN_THAT_RELEASE}"
        )
    return step in trained.stored_steps or trained.is_virtual(step)


def _require_clean_ancestors(release: Release, name: str, rows: NDArray[np.int64]) -> None:
    """Refuse to forget what the training that this one went on from has read."""
    for state in ancestors(release, name):
        before = state.release.model(state.model).parameters
        if read := steps_that_read(before, state.step, rows, release.manifest(Tokens)):
            raise EverystepError(
                f"{name}: its training began with step {state.step} of {state.release.name} {state.release.version}, "
                f"where step {read[0]} had read of these documents; {IN_THAT_RELEASE}"
            )
