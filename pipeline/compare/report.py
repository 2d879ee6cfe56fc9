"""What `everystep diff` prints: lines and tables for a person, one object for a program."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from pipeline.base.columns import table
from pipeline.compare.builds import Build
from pipeline.compare.checkpoints import CheckpointComparison, CheckpointSide, compare_checkpoints
from pipeline.compare.compare import BuildComparison, compare_builds, told
from pipeline.compare.difference import Difference, shown
from pipeline.compare.sides import Pair
from pipeline.compare.tensors import Number, TensorDifference

KINDS = {
    "code": "files of code",
    "environment": "pins and numerics",
    "params": "keys of params and recipes",
    "data": "input files",
    "stage": "stages",
    "count": "counts in manifests",
    "token": "keys of the tokenizer",
    "document": "documents",
    "row": "rows",
    "step": "steps of a log",
    "state": "checkpoints",
    "tensor": "tensors of the first of these",
    "evaluation": "evaluations",
    "release": "name and version",
    "lock": "entries of the lock",
    "file": "files",
}
"""Kinds of differences in the order of the pipeline, in words."""


class Answer(NamedTuple):
    """What a comparison says."""

    same: bool
    tree: dict[str, Any]
    """For a program."""
    lines: list[str]
    """For a person."""


def compare_sides(sides: Pair, most: int, moments: bool, metadata: bool) -> Answer:
    """Compare two sides of one kind; a person reads the first `most` differences of each kind.

    With `moments`, those of two checkpoints are compared tensor by tensor; with `metadata`, no rows, tables or tensors
    of two builds are read.
    """
    a, b = sides
    if isinstance(a, Build) and isinstance(b, Build):
        builds = compare_builds(a, b, most, metadata)
        return Answer(not builds.findings, builds_to_json(a, b, builds), [*build_lines(a, b, builds, most)])
    assert isinstance(a, CheckpointSide) and isinstance(b, CheckpointSide)
    found = compare_checkpoints(a, b, moments)
    return Answer(is_same(found), checkpoints_to_json(a, b, found), [*checkpoint_lines(a, b, found, most)])


def builds_to_json(a: Build, b: Build, found: BuildComparison) -> dict[str, Any]:
    """The comparison of two builds for a program."""
    first = first_of(found)
    return {
        "same": not found.findings,
        "a": {"address": a.address, "is": a.title},
        "b": {"address": b.address, "is": b.title},
        "basis": found.basis,
        "first": asdict(first) if first else None,
        "fork": found.fork._asdict() if found.fork else None,
        "stages": [
            {
                "stage": change.stage,
                "is_cause": change.is_cause,
                "why": change.why,
                "reasons": [asdict(reason) for reason in change.reasons],
                "follows": change.follows,
            }
            for change in found.stages
        ],
        "differences": {
            kind: {"count": each.count, "follow": each.follow, "first": [asdict(one) for one in each.first]}
            for kind, each in _in_order(found)
        },
        "documents": [asdict(counts) for counts in found.documents],
        "tensors": [asdict(tensor) for tensor in found.tensors],
        "agree": found.findings.agree,
        "same_files": found.files,
        "not_compared": found.findings.notes,
    }


def checkpoints_to_json(a: CheckpointSide, b: CheckpointSide, found: CheckpointComparison) -> dict[str, Any]:
    """The comparison of two checkpoints for a program."""
    return {
        "same": is_same(found),
        "a": {"address": a.title},
        "b": {"address": b.title},
        "keys": [asdict(key) for key in found.keys],
        "compared_tensors": found.num_tensors,
        "why_unread": found.why_unread or None,
        "tensors": [asdict(tensor) for tensor in found.tensors],
        "other_moments": found.other_moments,
        "moments": [asdict(tensor) for tensor in found.moments],
        "notes": found.notes,
    }


def first_of(found: BuildComparison) -> Difference | None:
    """The first difference in the order of the pipeline: that of the first stage that is a cause, else of any kind."""
    cause = next((change for change in found.stages if change.is_cause), None)
    if cause and cause.reasons:
        return cause.reasons[0]
    if cause:
        return Difference(kind="stage", where=f"{cause.stage}: {cause.why}", stage=cause.stage)
    return next((each.first[0] for _, each in _in_order(found) if each.first), None)


def build_lines(a: Build, b: Build, found: BuildComparison, most: int) -> Iterator[str]:
    """The comparison of two builds for a person; of each kind the first `most`."""
    yield f"A: {a.title}, {a.address}"
    yield f"B: {b.title}, {b.address}"
    if not found.findings:
        amount = f"all {found.files:,} files" if found.files else "every stage"
        yield f"same: {amount}, {found.basis}"
        yield from _notes(found.findings.notes)
        return
    yield from _first(found)
    if found.fork:
        parent = "A" if found.fork.side == "B" else "B"
        yield f"{found.fork.side} goes on from {found.fork.model} at step {found.fork.step} of {parent}"
    yield from found.findings.agree
    yield ""
    rows = [[KINDS.get(kind, kind), f"{each.count:,}", f"{each.follow:,}"] for kind, each in _in_order(found)]
    yield from table(["what", "differ", "follow from these"], rows)
    for kind, each in _in_order(found):
        if each.first and most:
            yield from ["", f"{KINDS.get(kind, kind)}:"]
            yield from (f"  {one}" for one in each.first[:most])
            if each.count > most:
                yield f"  and {each.count - most:,} more"
    if found.documents:
        yield ""
        columns = ["source", "licence", "only in A", "only in B", "other text", "moved"]
        counts = [[*map(str, asdict(each).values())] for each in found.documents]
        yield from table(columns, counts)
    yield ""
    yield f"compared {found.basis}"
    yield from _notes(found.findings.notes)


def checkpoint_lines(a: CheckpointSide, b: CheckpointSide, found: CheckpointComparison, most: int) -> Iterator[str]:
    """The comparison of two checkpoints for a person; the first `most` tensors."""
    yield f"A: {a.title}"
    yield f"B: {b.title}"
    only_said = "" if found.tensors or is_same(found) else "not in weights: "
    yield f"{'same' if is_same(found) else 'differ'}: {only_said}{_weights(found)}"
    if found.other_moments:
        yield "moments of the optimizer differ" + ("" if found.moments else "; --moments compares them")
    if found.keys:
        yield ""
        yield from table(["key", "A", "B"], [[key.where, *_values(key)] for key in found.keys[: max(most, 20)]])
        if len(found.keys) > max(most, 20):
            yield f"and {len(found.keys) - max(most, 20):,} more keys"
    for title, tensors in (("tensor", found.tensors), ("moments", found.moments)):
        if tensors:
            yield ""
            yield from _tensor_table(title, tensors, most)
    if found.notes:
        yield ""
        yield from _notes(found.notes)


def is_same(found: CheckpointComparison) -> bool:
    """Whether nothing differs."""
    return not (found.keys or found.tensors or found.moments or found.other_moments)


def _in_order(found: BuildComparison) -> list[tuple[str, Any]]:
    order = list(KINDS)
    return sorted(found.findings.kinds.items(), key=lambda pair: order.index(pair[0]))


def _first(found: BuildComparison) -> Iterator[str]:
    cause = next((change for change in found.stages if change.is_cause), None)
    first = first_of(found)
    if cause and cause.reasons and cause.reasons[0].kind == "stage":
        yield f"differ, first in the stage {cause.stage}, which only {cause.reasons[0].only_in} has"
    elif cause and cause.reasons:
        yield f"differ, first in {cause.stage}, because of {cause.why}"
    elif first:
        unchanged = "" if found.stages else "; no stage came out differently"
        yield f"differ, first in {first}{unchanged}"
    else:
        yield "differ"


def _weights(found: CheckpointComparison) -> str:
    if found.num_tensors is None:
        return found.why_unread
    if not found.tensors:
        return f"all {found.num_tensors:,} tensors of weights, bit for bit"
    in_a = [tensor for tensor in found.tensors if tensor.a is not None]
    numbers = sum(tensor.differ or 0 for tensor in in_a), sum(tensor.numbers or 0 for tensor in in_a)
    measured = f", {numbers[0]:,} of their {numbers[1]:,} numbers" if numbers[1] else ""
    only_in_b = len(found.tensors) - len(in_a)
    more = f"; {only_in_b:,} more are only in B" if only_in_b else ""
    return f"{len(in_a):,} of the {found.num_tensors:,} tensors of weights in A{measured}{more}"


def _tensor_table(title: str, tensors: list[TensorDifference], most: int) -> Iterator[str]:
    measured = sorted((tensor for tensor in tensors if tensor.differ), key=_by_distance)
    others = [tensor for tensor in tensors if not tensor.differ]
    yield from (told(tensor) for tensor in others[:most])
    if len(others) > most:
        yield f"and {len(others) - most:,} more of other shapes or names"
    if measured:
        header = [title, "dtype and shape", "differ", "of", "largest", "at", "moved", "first at"]
        yield from table(header, [_row(tensor) for tensor in measured[:most]])
        if len(measured) > most:
            yield f"and {len(measured) - most:,} more"


def _by_distance(tensor: TensorDifference) -> tuple[float, str]:
    """Those that moved farthest first, and before them those whose distance is not a number."""
    return -math.inf if tensor.moved is None else -tensor.moved, tensor.name


def _row(tensor: TensorDifference) -> list[str]:
    about = tensor.a or ""
    return [
        tensor.name,
        about if about == tensor.b else f"{about} -> {tensor.b}",
        f"{tensor.differ:,}",
        f"{tensor.numbers:,}",
        _number(tensor.largest),
        str(tensor.largest_at),
        "" if tensor.moved is None else f"{tensor.moved:.4%}",
        str(tensor.first_at),
    ]


def _number(value: Number | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _values(key: Difference) -> list[str]:
    return ["" if key.only_in == "B" else shown(key.a), "" if key.only_in == "A" else shown(key.b)]


def _notes(notes: list[str]) -> Iterator[str]:
    yield from (f"note: {note}" for note in dict.fromkeys(notes))
