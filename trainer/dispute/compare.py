"""Two runs that should be equal: the first step that differs, and in two transcripts of it the first operation.

Needs no torch: it compares logs and digests.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from pipeline.base.errors import EverystepError
from pipeline.base.paths import RUNS
from pipeline.formats import log
from pipeline.formats.canonical import Json
from pipeline.formats.transcript import Claim, Operation, Transcript
from pipeline.release.release import Release


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The first difference of two transcripts.

    `result`: one operator gave different results on equal tensors. `program`: different operators were applied.
    `memory`: a tensor changed after an operator had written it. `entry`: no operator differs, but the entry does.
    """

    kind: Literal["result", "program", "memory", "entry"]
    number: int
    """Number of the operation; for `memory`, of the first one that read something else."""
    written_by: int | None = None
    """For `memory`, the number of the operation that wrote the tensor."""
    operation: Operation | None
    """The operation that is disputed: as A has it; for `memory`, the one that wrote the tensor, if any did."""
    other: Operation | None
    """The same as B has it."""
    tensor: str
    """Name of the tensor that differs, or a description of it."""
    detail: str
    """What differs."""


def require_one_run(a: Release, b: Release, model: str) -> None:
    """Require that two runs of a model were to be equal: recipe, model and rows. The error names the first key."""
    ours, theirs = a.model(model), b.model(model)
    pairs: list[tuple[str, Json, Json]] = [
        ("recipe", ours.parameters.to_json(), theirs.parameters.to_json()),
        ("model", ours.model, theirs.model),
        ("rows", _rows(ours.inputs), _rows(theirs.inputs)),
    ]
    for what, mine, its in pairs:
        _require_same(what, mine, its)


def first_step(a: Release, b: Release, model: str) -> tuple[int, str] | None:
    """Return the first step at which the logs or the stored states of two runs differ, and in what; None if none."""
    path = RUNS / model / log.JSONL
    states = [{entry.step: entry.state_digest for entry in release.model(model).checkpoints} for release in (a, b)]
    step = 0
    for ours, theirs in zip_longest(log.read(a.file(path)), log.read(b.file(path))):
        if ours is None or theirs is None or ours.step != theirs.step:
            longer, shorter = (a, b) if theirs is None else (b, a)
            raise EverystepError(
                f"{shorter.address}: its log of {model} ends at step {step} or lacks the next, that of "
                f"{longer.address} does not; compare whole runs"
            )
        step = ours.step
        keys = [key for key, value in ours.to_json().items() if theirs.to_json()[key] != value]
        if keys:
            return step, ", ".join(keys)
        if states[0].get(step) != states[1].get(step):
            return step, "the optimizer's state"
    if not step:
        raise EverystepError(f"{a.address}: its log of {model} has no steps")
    return None


def first_difference(a: Transcript, b: Transcript) -> Finding | None:
    """Return the first difference of two transcripts; None if they are the same. All operations before it are equal."""
    _require_same_step(a, b)
    for number, (ours, theirs) in enumerate(zip(a.operations, b.operations, strict=False)):
        if not ours.same_task(theirs):
            if (ours.operator, ours.arguments) == (theirs.operator, theirs.arguments):
                return _changed(a, b, number)
            return _result("program", number, ours, theirs)
        if not ours.same_result(theirs):
            return _result("result", number, ours, theirs)
    if len(a.operations) != len(b.operations):
        number = min(len(a.operations), len(b.operations))
        pair = [one.operations[number] if number < len(one.operations) else None for one in (a, b)]
        return _result("program", number, *pair)
    for key, value in a.entry.to_json().items():
        if b.entry.to_json()[key] != value:
            about = f"every operator gave the same, but A logs {value} and B {b.entry.to_json()[key]}"
            return Finding(kind="entry", number=len(a.operations), operation=None, other=None, tensor=key, detail=about)
    return None


def place(operation: Operation) -> str:
    """Say where in a step an operation is."""
    parts = [] if operation.micro_batch is None else [f"micro-batch {operation.micro_batch}"]
    return ", ".join([*parts, operation.phase, *([operation.module] if operation.module else [])])


def describe(claim: Claim) -> str:
    """Name a tensor, or say what it is."""
    return claim.tensor or f"{claim.dtype} of shape {claim.shape}"


def _result(kind: Literal["result", "program"], number: int, a: Operation | None, b: Operation | None) -> Finding:
    shown = a or b
    assert shown is not None
    written = shown.writes
    if kind == "result" and a and b:
        pairs = zip(a.writes, b.writes, strict=False)
        output, (ours, theirs) = next((place, pair) for place, pair in enumerate(pairs) if not pair[0].same(pair[1]))
        tensor = describe(ours)
        detail = f"A has {_shown(ours)}, B has {_shown(theirs)}"
        if output:
            detail = f"of its results number {output}: {detail}"
    else:
        tensor = describe(written[0]) if written else ""
        names = [f"{one.operator} {_listed(one)}" if one else "nothing" for one in (a, b)]
        detail = f"A computes {names[0]}, B computes {names[1]}"
    return Finding(kind=kind, number=number, operation=a, other=b, tensor=tensor, detail=detail)


def _changed(a: Transcript, b: Transcript, number: int) -> Finding:
    """Find out whose memory changed: what an operation read should be what another one wrote before, on both sides."""
    ours, theirs = a.operations[number], b.operations[number]
    index, pair = next(
        (index, pair)
        for index, pair in enumerate(zip(ours.reads, theirs.reads, strict=False))
        if not pair[0].same(pair[1])
    )
    readers = f"operation {number} ({ours.operator}) reads it as {_shown(pair[0])} in A, {_shown(pair[1])} in B"
    source = pair[0].written_by
    if source is None or source >= number:
        return Finding(
            kind="memory",
            number=number,
            operation=ours,
            other=theirs,
            tensor=describe(pair[0]),
            detail=f"no operation wrote argument {index} before; {readers}",
        )
    writer = a.operations[source]
    kept = [any(claim.same(read) for claim in writer.writes) for read in pair]
    whose = {(True, False): "; it changed in B", (False, True): "; it changed in A"}.get((kept[0], kept[1]), "")
    return Finding(
        kind="memory",
        number=number,
        written_by=source,
        operation=writer,
        other=b.operations[source],
        tensor=describe(pair[0]) if pair[0].tensor else describe(writer.writes[0]),
        detail=f"A and B agree on what operation {source} wrote, but {readers}{whose}",
    )


def _require_same_step(a: Transcript, b: Transcript) -> None:
    for key in ("model", "step"):
        if getattr(a.head, key) != getattr(b.head, key):
            ours, theirs = getattr(a.head, key), getattr(b.head, key)
            raise EverystepError(f"these are transcripts of different steps: {key}: A has {ours}, B has {theirs}")
    _require_same("recipe", a.head.recipe, b.head.recipe)
    _require_same("rows", a.head.rows, b.head.rows)
    if a.head.state_before != b.head.state_before:
        raise EverystepError(
            f"A and B differ before step {a.head.step}; make transcripts of an earlier step, after one whose state is "
            "the same in both"
        )


def _require_same(what: str, ours: Json, theirs: Json) -> None:
    for key, mine, its in _leaves(what, ours, theirs):
        raise EverystepError(
            f"these are not two runs that should be equal: {key}: A has {mine!r:.80}, B has {its!r:.80}"
        )


def _leaves(name: str, ours: Json, theirs: Json) -> Iterator[tuple[str, Json, Json]]:
    """Yield each key that differs, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            yield from _leaves(f"{name}: {key}" if ":" not in name else f"{name}.{key}", ours.get(key), theirs.get(key))
    elif ours != theirs:
        yield name, ours, theirs


def _rows(inputs: dict[str, str]) -> dict[str, str]:
    """Keep the inputs of a run that say which rows it reads."""
    return {name: digest for name, digest in inputs.items() if not name.startswith("recipes/")}


def _listed(operation: Operation) -> str:
    return "on " + ", ".join(describe(claim) for claim in operation.reads) if operation.reads else ""


def _shown(claim: Claim) -> str:
    """Print the numbers of a short tensor, or the beginning of a digest."""
    numbers = claim.numbers
    if numbers is not None:
        return ", ".join(map(str, numbers)) if len(numbers) != 1 else str(numbers[0])
    return f"{claim.digest or 'nothing'!s:.12}"
