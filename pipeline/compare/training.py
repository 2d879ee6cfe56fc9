"""Trainings of one name: the first step whose line of the log differs, the stored states that differ, the evaluations.

Steps that only one side has because it goes on from a state of the other (a fork) are no difference.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.paths import RUNS
from pipeline.compare.builds import Build
from pipeline.compare.difference import Difference, Findings, Side, keys_that_differ
from pipeline.formats import log
from pipeline.formats.canonical import Json
from pipeline.formats.manifests import Parent, path_of
from pipeline.release.ancestors import root_sha256

Pair = tuple[log.Entry | None, log.Entry | None]


class Begun(NamedTuple):
    """One side that goes on from a state of the other."""

    side: Side
    """The fork."""
    model: str
    """Name of the model there."""
    step: int
    """Step of the state."""


def forked(a: Build, b: Build) -> Begun | None:
    """Whether one side is a fork of the other."""
    for side, build, other in (("B", b, a), ("A", a, b)):
        tree = build.tree(path_of(Parent).as_posix())
        parent = other.release
        if tree and parent is not None and parent.version is not None:
            declared = tree["parameters"]
            if declared["release_sha256"] == root_sha256(parent):
                return Begun("B" if side == "B" else "A", declared["model"], declared["step"])
    return None


def compare_training(a: Build, b: Build, model: str, trees: tuple[Json, Json], findings: Findings) -> int | None:
    """Find the steps and states of a model that differ; returns the first state that both store, and that differs."""
    stage = f"train@{model}"
    begun = max((tree["parameters"].get("parent") or {}).get("step", 0) for tree in trees)
    logs = [_log(build, model, findings) for build in (a, b)]
    if logs[0] and logs[1]:
        _compare_logs(logs[0], logs[1], begun, stage, findings)
    states = [{entry["step"]: entry for entry in tree["checkpoints"]} for tree in trees]
    first = None
    for step in sorted(states[0].keys() | states[1].keys()):
        one, other = (side.get(step) for side in states)
        if one and other:
            if one["state_digest"] == other["state_digest"]:
                continue
            first = step if first is None else first
            pair = [(entry["weights_digest"], entry["loss"]) for entry in (one, other)]
            what = "weights" if pair[0][0] != pair[1][0] else "moments"
            about: dict[str, Any] = {"where": f"{model} {one['revision']}: other {what}"}
        elif begun and step <= begun:
            continue
        else:
            about = {"where": f"{model} {(one or other)['revision']}", "only_in": "A" if one else "B"}
        findings.add([Difference(kind="state", stage=stage, **about)])
    return first


def compare_results(model: str, trees: tuple[Json, Json], findings: Findings) -> None:
    """Find the checkpoints that both sides evaluated, with other losses."""
    results = [{result["step"]: result for result in tree["results"]} for tree in trees]
    for step in sorted(results[0].keys() & results[1].keys()):
        losses = [side[step]["loss"] for side in results]
        if losses[0] != losses[1]:
            where = f"{model} step {step}: validation loss"
            stage = f"evaluate@{model}"
            findings.add([Difference(kind="evaluation", where=where, a=losses[0], b=losses[1], stage=stage)])


def _log(build: Build, model: str, findings: Findings) -> Path | None:
    path = (RUNS / model / log.JSONL).as_posix()
    return available(build, path, findings)


def available(build: Build, path: str, findings: Findings) -> Path | None:
    """The verified file of a side; of a project that has not brought it, a note instead."""
    release = build.release
    if release is None or path not in release.files:
        findings.notes.append(f"{build.address} does not promise {path}, so it was not compared")
        return None
    if release.version is None and not (release.folder / path).is_file():
        findings.notes.append(f"{release.folder / path} is not there, so it was not compared; run `dvc pull`")
        return None
    return release.file(path)


def _compare_logs(left: Path, right: Path, begun: int, stage: str, findings: Findings) -> None:
    """Count the steps of both whose lines differ; those of one side alone are one difference."""
    for old, new in _paired(log.read(left), log.read(right)):
        if old is None or new is None:
            step = (old or new).step  # type: ignore[union-attr]  # one of them is there
            if step > begun:
                only = f"{stage.partition('@')[2]} steps from {step} on"
                findings.add([Difference(kind="step", where=only, only_in="A" if old else "B", stage=stage)])
                return
        elif old != new:
            keys = list(keys_that_differ(old.to_json(), new.to_json()))
            where = f"{stage.partition('@')[2]} step {old.step}: {keys[0].path}"
            findings.add([Difference(kind="step", where=where, a=keys[0].a, b=keys[0].b, stage=stage)])


def _paired(
    left: Iterator[log.Entry], right: Iterator[log.Entry]
) -> Iterator[tuple[log.Entry | None, log.Entry | None]]:
    """The entries of both logs by step, ascending; where one has none, null."""
    one, other = next(left, None), next(right, None)
    while one or other:
        if other is None or (one is not None and one.step < other.step):
            yield one, None
            one = next(left, None)
        elif one is None or other.step < one.step:
            yield None, other
            other = next(right, None)
        else:
            yield one, other
            one, other = next(left, None), next(right, None)
