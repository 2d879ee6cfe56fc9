"""The log-likelihoods of the scores of a release, computed again: the same bits in the class `portable`.

A release holds the minimal pairs and not the items of stock tasks, so the others are computed where the folder
`data/tasks` of its project is. In the class `native` another processor may round differently, as in `trainer.probe`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.paths import SCORES, TASKS, TOKENIZER
from pipeline.formats import checkpoints as ck
from pipeline.formats.manifests import Scored, TasksMade
from pipeline.formats.scores import ITEMS_FILE, SCORED_ITEMS
from pipeline.formats.tables import read_table
from pipeline.formats.tasks import Item, read_task
from pipeline.release.release import Release, State
from trainer.launch import MOST, default_processes, launch
from trainer.likelihoods import Scores, score_checkpoints
from trainer.probe import TOLERANCE
from trainer.score import ask, encoder, item_rows


class Probed(NamedTuple):
    """What came out for one model."""

    faults: list[str]
    choices: int
    """Choices of the items that were computed again, of all checkpoints."""
    missing: list[str]
    """Tasks whose items are not at hand."""


def probe_scores(release: Release, scored: Scored, states: Sequence[State]) -> Probed:
    """Compute what the checkpoints of a model say of the items at hand, and name what differs. `states` have bytes."""
    made = release.manifest(TasksMade)
    items: dict[str, list[Item]] = {}
    for name in made.tasks:
        if folder := _folder_of(release, made, name):
            items[name] = list(read_task(folder, made.shard_of(name)))
    asked = list(ask(items, encoder(release.file(TOKENIZER)), scored.context))
    short = [each.prompts for each in asked if each.is_short]
    folders = [state.file(ck.WEIGHTS).parent for state in states]
    numerics, spec = states[0].record.numerics.name, states[0].spec
    found: Scores = launch(score_checkpoints, default_processes(MOST), numerics, scored.of, spec, folders, short)
    table = SCORES / scored.of / ITEMS_FILE
    said = [row for row in read_table(release.file(table), SCORED_ITEMS).to_pylist() if row["task"] in items]
    again = list(item_rows(asked, made.tasks, [state.revision for state in states], found))
    allowed = 0.0 if numerics == "portable" else TOLERANCE
    faults = [] if len(said) == len(again) else [f"{table}: has {len(said)} choices, the items give {len(again)}"]
    for theirs, ours in zip(said, again, strict=False):
        if not _is_near(theirs, ours, allowed):
            where = f"{table}: {theirs['revision']}: {theirs['task']}: {theirs['item']}: choice {theirs['choice']}"
            faults.append(f"{where}: is {theirs['log_likelihood']}, computed again {ours['log_likelihood']}")
    return Probed(faults, len(again), [name for name in made.tasks if name not in items])


def _is_near(theirs: dict[str, Any], ours: dict[str, Any], allowed: float) -> bool:
    if not allowed or theirs["log_likelihood"] is None or ours["log_likelihood"] is None:
        return theirs == ours
    far = abs(theirs["log_likelihood"] - ours["log_likelihood"])
    rest = {"log_likelihood": None, "greedy": None}  # the greedy token may be another where two are as likely
    return far <= allowed * abs(theirs["log_likelihood"]) and theirs | rest == ours | rest


def _folder_of(release: Release, made: TasksMade, name: str) -> Path | None:
    """A folder that has the items of a task: the release or project itself, or the project around a release."""
    file = TASKS / made.shard_of(name).path
    if file.as_posix() in release.files:
        return release.file(file).parent
    around = release.folder.resolve().parent / file
    return around.parent if release.mirror is None and around.is_file() else None
