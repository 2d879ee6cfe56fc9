"""Two runs that differ, narrowed to one operator: `transcript`, `dispute`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.base.errors import EverystepError
from pipeline.base.files import read_small
from pipeline.cli.arguments import Json, Model, OnlyModel, Trained, require_address
from pipeline.cli.common import only_model, refuse_folder, require_torch, say

if TYPE_CHECKING:
    from pipeline.release.release import Release
    from trainer.dispute.sides import Outcome

commands = typer.Typer()


@commands.command()
def transcript(
    address: Trained,
    model: Model,
    step: Annotated[int, typer.Option(help="Step to write down: the update that led to its state.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    opened: Annotated[
        int | None, typer.Option("--open", min=0, help="Number of an operation to give leaf by leaf.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train one step again and write down every operator, with digests of what it reads and writes."""
    require_torch("transcript")
    from pipeline.formats.transcript import write
    from pipeline.release.release import Release
    from trainer.dispute.run import record

    refuse_folder(out)
    recorded = record(Release.open(address), model, step, opened).transcript
    if opened is not None and opened >= len(recorded.operations):
        last = len(recorded.operations) - 1
        raise EverystepError(f"--open {opened}: the operations of this step are 0 to {last}; nothing was written")
    write(out, recorded)
    if as_json:
        print(json.dumps({"model": model, "step": step, "operations": len(recorded.operations), "root": recorded.root}))
    else:
        say(f"{out}: {model}, step {step}, {len(recorded.operations):,} operations")
        say(f"root {recorded.root}")


@commands.command()
def dispute(
    a: Annotated[
        str | None, typer.Argument(help="Release, project or transcript of one side.", callback=require_address)
    ] = None,
    b: Annotated[str | None, typer.Argument(help="The same for the other side.", callback=require_address)] = None,
    model: OnlyModel = None,
    release: Annotated[
        str | None,
        typer.Option(help="Release whose step this machine trains, if neither side is one.", callback=require_address),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File to write the evidence to.")] = None,
    check: Annotated[Path | None, typer.Option(help="File of evidence to check, instead of two sides.")] = None,
    as_json: Json = False,
) -> None:
    """Narrow the difference between two runs to one operator, or check the evidence for it."""
    from dataclasses import asdict

    from pipeline.formats.transcript import Transcript
    from pipeline.release.release import Release
    from trainer.dispute import sides

    require_torch("dispute")
    reference = None if release is None else Release.open(release)
    if check is not None:
        if a is not None or model is not None or out is not None:
            raise EverystepError("dispute: --check takes all but --release from the evidence; give it without sides")
        _check_evidence(check, reference, as_json)
    if a is None or b is None:
        raise EverystepError("dispute: give two sides, each a release, a project or a transcript, or --check EVIDENCE")
    refuse_folder(out)
    opened = [sides.open_side(side) for side in (a, b)]
    names = [side.head.model for side in opened if isinstance(side, Transcript)]
    if model is None:
        model = names[0] if names else only_model(next(side for side in opened if isinstance(side, Release)))
    found = sides.dispute(opened[0], opened[1], model, reference, out)
    if as_json:
        print(json.dumps(_plain(asdict(found))))
    else:
        _tell_dispute(found, a, b, out)
    sys.exit(0 if found.step is None else 1)


def _plain(tree: Any) -> Any:
    """Turn the typed parts of a tree into JSON."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return tree.to_json() if hasattr(tree, "to_json") else tree


def _tell_dispute(found: "Outcome", a: str, b: str, out: Path | None) -> None:
    from trainer.dispute.compare import place

    if found.step is None:
        what = f"{found.operations:,} operations of a step" if found.operations else "every step and stored state"
        say(f"same: {found.model}, {what}")
        return
    if found.finding is None:
        say(f"differs: {found.model}, first at step {found.step}: {found.keys}")
        say(f"this machine gets {_whose(found.machine)}")
        for who, address in (("A", a), ("B", b)):
            if who != found.machine:
                arguments = f"--model {found.model} --step {found.step} --out {who.lower()}.jsonl"
                say(f"{who} writes the step down where it was trained: everystep transcript {address} {arguments}")
        say("then give the transcript in place of the release, to name the operator")
        return
    finding = found.finding
    shown = finding.operation or finding.other
    say(f"differs: {found.model}, step {found.step}, operation {finding.number:,} of {found.operations:,}")
    if shown is not None:
        say(f"  operator  {shown.operator}")
        say(f"  where     {place(shown)}")
    say(f"  tensor    {finding.tensor}")
    say(f"  {finding.kind:<9} {finding.detail}")
    if found.machine is not None:
        say(f"this machine agrees with {found.machine}")
    if found.evidence_bytes is not None:
        say(f"{out}: {found.evidence_bytes:,} bytes of evidence; to check it: everystep dispute --check {out}")
    elif out is not None:
        say(f"no evidence: {found.no_evidence}")


def _whose(machine: str | None) -> str:
    return "neither what A nor what B logs" if machine == "neither" else f"what {machine} logs"


def _check_evidence(path: Path, release: "Release | None", as_json: bool) -> None:
    """Print which side one operator proves right, and exit: with 0 if it is one of them, with 1 otherwise."""
    from trainer.dispute.compare import describe, place
    from trainer.dispute.evidence import check

    verdict = check(read_small(path), str(path), release)
    evidence, operation = verdict.evidence, verdict.evidence.a.operation
    if as_json:
        keys = {"model": evidence.model, "step": evidence.step, "operation": evidence.number}
        roots = {"a": evidence.a.transcript, "b": evidence.b.transcript}
        print(json.dumps(keys | {"operator": operation.operator, "right": verdict.right, "transcripts": roots}))
    else:
        say(f"{evidence.model}, step {evidence.step}, operation {evidence.number:,}: {place(operation)}")
        say(f"  operator  {operation.operator}")
        say(f"  tensor    {describe(operation.writes[evidence.output])}")
        say(f"  A         transcript {evidence.a.transcript}")
        say(f"  B         transcript {evidence.b.transcript}")
        say(f"right: {verdict.right}")
        if verdict.right == "both":
            names = f"A {operation.operator}, B {evidence.b.operation.operator}"
            say(f"each computed its own operator right ({names}); the code of the run decides which one it is")
    sys.exit(0 if verdict.right in ("A", "B") else 1)
