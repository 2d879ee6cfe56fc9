"""`everystep dispute A B`: each side is a release or project that has a log, or a transcript of one step."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import write_bytes
from pipeline.base.paths import RUNS
from pipeline.formats import log, transcript
from pipeline.formats.transcript import Transcript
from pipeline.release.release import Release
from trainer.dispute import evidence
from trainer.dispute.compare import Finding, first_difference, first_step, require_one_run
from trainer.dispute.run import record


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How far a dispute was narrowed. `step` is null if the runs are the same; `finding` if only logs were compared."""

    model: str
    step: int | None
    keys: str
    """What differs in the logs."""
    operations: int
    """Operations of the step."""
    finding: Finding | None
    machine: str | None
    """Which side this machine agrees with: `A`, `B` or `neither`; null if it did not train the step."""
    evidence_bytes: int | None
    """Size of the evidence that was written."""
    no_evidence: str
    """Why there is none."""


def open_side(address: str) -> Release | Transcript:
    """Open one side: a file is a transcript, anything else a release or project."""
    if Path(address).is_file():
        return transcript.read(Path(address))
    return Release.open(address)


def dispute(
    a: Release | Transcript, b: Release | Transcript, model: str, reference: Release | None, out: Path | None
) -> Outcome:
    """Narrow down where two sides differ. If `reference` or a side is a release, this machine trains the step."""
    if isinstance(a, Release) and isinstance(b, Release):
        return _of_logs(a, b, model)
    heads = [side.head for side in (a, b) if isinstance(side, Transcript)]
    if model != heads[0].model:
        raise EverystepError(f"--model {model}: the transcript is of {heads[0].model}")
    step = heads[0].step
    for side in (a, b):
        if isinstance(side, Release):
            reference = reference or side
    mine = record(reference, model, step).transcript if reference else None
    ours, theirs = (_speaking_for(side, mine, model, step) if isinstance(side, Release) else side for side in (a, b))
    finding = first_difference(ours, theirs)
    size, reason = None, ""
    if out is not None and finding is not None:
        size, reason = _write_evidence(out, reference, finding, ours, theirs)
    return Outcome(
        model=model,
        step=None if finding is None else step,
        keys="",
        operations=len(ours.operations),
        finding=finding,
        machine=None if mine is None or finding is None else _agrees(mine, ours, theirs, finding.number),
        evidence_bytes=size,
        no_evidence=reason,
    )


def _of_logs(a: Release, b: Release, model: str) -> Outcome:
    require_one_run(a, b, model)
    found = first_step(a, b, model)
    machine = None
    if found is not None:
        entry = record(a, model, found[0]).transcript.entry
        machine = next((who for who, side in (("A", a), ("B", b)) if _entry(side, model, found[0]) == entry), "neither")
    return Outcome(
        model=model,
        step=found[0] if found else None,
        keys=found[1] if found else "",
        operations=0,
        finding=None,
        machine=machine,
        evidence_bytes=None,
        no_evidence="",
    )


def _speaking_for(release: Release, mine: Transcript | None, model: str, step: int) -> Transcript:
    """Take this machine's transcript for that of a release, if it gives the entry of its log."""
    assert mine is not None
    if _entry(release, model, step) != mine.entry:
        raise Differs(
            f"{release.address}: this machine does not get what is logged at step {step}, so it cannot speak for it; "
            "give a transcript that its maker made (`everystep transcript`)"
        )
    return mine


def _entry(release: Release, model: str, step: int) -> log.Entry:
    path = release.file(RUNS / model / log.JSONL)
    for entry in log.read(path):
        if entry.step == step:
            return entry
    raise Differs(f"{path}: has no entry for step {step}")


def _agrees(mine: Transcript, a: Transcript, b: Transcript, number: int) -> str:
    """Tell which side has what this machine has, at the operation and at all before it."""
    for who, side in (("A", a), ("B", b)):
        pairs = list(zip(mine.operations, side.operations, strict=False))[: number + 1]
        if all(x.same_task(y) and x.same_result(y) for x, y in pairs) and len(pairs) == min(
            number + 1, len(mine.operations)
        ):
            return who
    return "neither"


def _write_evidence(
    out: Path, reference: Release | None, finding: Finding, a: Transcript, b: Transcript
) -> tuple[int | None, str]:
    if reference is None:
        raise EverystepError("--out: the evidence needs the tensors of the step; name a release with --release")
    if finding.kind not in ("result", "program") or finding.operation is None or finding.other is None:
        return None, "no operator is in dispute"
    recorded = record(reference, a.head.model, a.head.step, finding.number)
    try:
        content = evidence.make(recorded, finding, a, b)
    except EverystepError as error:
        return None, str(error)
    write_bytes(out, content)
    return len(content), ""
