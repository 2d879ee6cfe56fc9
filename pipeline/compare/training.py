"""Trainings of one name: the first step whose line of the log differs, the stored states that differ, the evaluations.

Steps that only one side has because it goes on from a state of the other (a fork) do not count as differences.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.base.paths import RUNS
from pipeline.compare.builds import Build, ReleaseBuild, files_of_both
from pipeline.compare.difference import Difference, Findings, Side, keys_that_differ, only_in
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
    pairs: list[tuple[Side, Build, Build]] = [("B", b, a), ("A", a, b)]
    for side, build, other in pairs:
        tree = build.tree(path_of(Parent).as_posix())
        if tree and isinstance(other, ReleaseBuild):
            declared = tree["parameters"]
            if declared["release_sha256"] == root_sha256(other.release):
                return Begun(side, declared["model"], declared["step"])
    return None


def compare_training(a: Build, b: Build, model: str, trees: tuple[Json, Json], findings: Findings) -> int | None:
    """Find the steps and states of a model that differ; returns the first state that both store, and that differs."""
    stage = f"train@{model}"
    begun = max((tree["parameters"].get("parent") or {}).get("step", -1) for tree in trees)
    logs = files_of_both(a, b, [f"{RUNS}/{model}/{log.JSONL}"], findings)
    if logs:
        _compare_logs(*logs[0], begun, stage, findings)
    states = [{entry["step"]: entry for entry in tree["checkpoints"]} for tree in trees]
    first = None
    for step in sorted(states[0].keys() | states[1].keys()):
        one, other = (side.get(step) for side in states)
        if one and other and one["state_digest"] != other["state_digest"]:
            first = step if first is None else first
            what = "weights" if one["weights_digest"] != other["weights_digest"] else "moments"
            findings.add([Difference(kind="state", where=f"{model} {one['revision']}: other {what}", stage=stage)])
        elif not (one and other) and step > begun:
            revision = (one or other or {})["revision"]
            side = only_in(one is not None, other is not None)
            findings.add([Difference(kind="state", where=f"{model} {revision}", only_in=side, stage=stage)])
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


def _compare_logs(left: Path, right: Path, begun: int, stage: str, findings: Findings) -> None:
    """Count the steps of both whose lines differ; those of one side alone are one difference."""
    model = stage.partition("@")[2]
    same: list[int] = []
    first_other = None
    for old, new in _paired(log.read(left), log.read(right)):
        if old and new and old == new:
            same = same if first_other else [*same[:1], new.step]
        elif old and new:
            first_other = first_other or old.step
            keys = list(keys_that_differ(old.to_json(), new.to_json()))
            where = f"{model} step {old.step}: {keys[0].path}"
            findings.add([Difference(kind="step", where=where, a=keys[0].a, b=keys[0].b, stage=stage)])
        elif (entry := old or new) and entry.step > begun:
            side = only_in(old is not None, new is not None)
            findings.add(
                [Difference(kind="step", where=f"{model} steps from {entry.step} on", only_in=side, stage=stage)]
            )
            break
    if same:
        then = f", and others from step {first_other} on" if first_other else ""
        findings.agree.append(f"{model}: both have the same steps {same[0]} to {same[-1]}{then}")


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
