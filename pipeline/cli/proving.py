"""What auditors compute again: `verify`, `replay`, `audit`, `receipts`."""

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.base.console import note
from pipeline.base.errors import EverystepError
from pipeline.cli.arguments import Address, FollowLinks, Json, Trained, require_utf8
from pipeline.cli.common import ask_passphrase, open_release, require_release, require_torch, say, say_lines, with_bytes

if TYPE_CHECKING:
    from pipeline.audit.report import Report
    from pipeline.audit.verify_metadata import MetadataReport
    from pipeline.release.release import Release

commands = typer.Typer()


@commands.command()
def verify(
    address: Address,
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key of somebody who must have signed; may be repeated.")
    ] = None,
    metadata: Annotated[
        bool, typer.Option("--metadata", help="Read no rows, tables or tensors; of a release elsewhere little moves.")
    ] = False,
    root: Annotated[str | None, typer.Option(help="SHA-256 that release.json must have.")] = None,
    rung: Annotated[
        Literal["files", "consistent", "recomputed"], typer.Option(help="The rung of the ladder to stop at.")
    ] = "recomputed",
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Recompute a release as far as its bytes allow, and report what differs, who signed it, and what is their word.

    Exit codes: 0, every byte is what the release promises; 1, a file is changed, missing or unreadable; 2, misuse;
    3, every promised byte is right, but there are other files; 4, there are links in place of files, not followed.
    What Git, the Hub's client and file managers leave in a folder changes no exit code.
    """
    from pipeline.audit.verify import Wanted
    from pipeline.audit.verify import verify as check_release
    from pipeline.audit.verify_metadata import verify_metadata
    from pipeline.release.rungs import Rung, checked_sha256
    from pipeline.signing.keys import key_id, read_public

    if metadata and key:
        raise EverystepError("verify: give either --key or --metadata; a signature is of every byte")
    pinned = {key_id(public): public for public in map(read_public, key or [])}
    sha256 = None if root is None else checked_sha256(root, "--root")
    wanted = Wanted(Rung[rung.upper()], pinned, sha256)
    report: Report | MetadataReport = (
        verify_metadata(address, follow_links, sha256) if metadata else check_release(address, follow_links, wanted)
    )
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        say_lines(report.lines(address))
    sys.exit(report.exit_code)


@commands.command()
def replay(
    address: Trained,
    model: Annotated[
        str | None,
        typer.Option(help="Name of a model; with --evaluation all are the default.", callback=require_utf8),
    ] = None,
    start: Annotated[int | None, typer.Option("--from", help="Step of a checkpoint to start from.")] = None,
    stop: Annotated[int | None, typer.Option("--to", help="Step to train to.")] = None,
    evaluation: Annotated[
        bool, typer.Option("--evaluation", help="Compute losses, samples and scores of checkpoints instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Repeat a stretch of training, or the evaluation, and compare every digest or number."""
    require_torch("replay")
    from dataclasses import asdict

    from pipeline.release.release import Release
    from pipeline.release.rungs import Rung
    from trainer.replay import replay as replay_stretch
    from trainer.replay import state_at

    release = Release.open(address)
    if evaluation:
        if start is not None or stop is not None:
            raise EverystepError("replay: --evaluation covers all checkpoints; leave out --from and --to")
        _replay_evaluation(release, model, as_json)
        return
    if model is None or start is None or stop is None:
        raise EverystepError("replay: give --model, --from and --to, or --evaluation")
    if stop <= start:
        raise EverystepError(f"--to {stop}: give a step after {start}")
    with_bytes(release, {start: state_at(release, model, start)})
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets
    outcome = replay_stretch(release, model, start, stop)
    if as_json:
        print(json.dumps(asdict(outcome)))
    elif outcome.first_difference is None:
        say(f"same: {model}, steps {start} to {stop}, {outcome.digests_compared} digests of all weights compared")
        note(release.standing(Rung.REPLAYED))
    else:
        say(f"differs: {model}, first at step {outcome.first_difference}: {outcome.detail}")
    sys.exit(0 if outcome.first_difference is None else 1)


def _replay_evaluation(release: "Release", model: str | None, as_json: bool) -> None:
    """Compute every learning record, sample and score again; exits with 1 if something differs."""
    from pipeline.formats.manifests import Scored
    from pipeline.release.rungs import Rung
    from trainer.probe import probe
    from trainer.probe_scores import probe_scores

    models = release.models() if model is None else [model]
    scored = [release.manifest(Scored, name) for name in models if name in release.names(Scored)]
    steps = {each.of: [checkpoint.step for checkpoint in each.checkpoints] for each in scored}
    states = {name: [*with_bytes(release, release.states_at(name, of_it)).values()] for name, of_it in steps.items()}
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    compared = {name: len(release.states(name)) for name in models}
    faults = [fault for name in models for fault in probe(release, name)]
    probed = [probe_scores(release, each, states[each.of]) for each in scored]
    faults += [fault for each in probed for fault in each.faults]
    choices = sum(each.choices for each in probed)
    if missing := sorted({name for each in probed for name in each.missing}):
        note(f"note: not computed again, because data/tasks of the project is not here: {', '.join(missing)}")
    if as_json:
        told = {"checkpoints": compared, "choices": choices, "missing_tasks": missing, "differences": faults}
        print(json.dumps(told))
    else:
        for fault in faults:
            say(f"differs: {fault}")
        if not faults:
            say(f"same: losses and samples of {sum(compared.values())} checkpoints of {', '.join(models)}")
            if choices:
                say(f"same: {choices:,} log-likelihoods of their scores")
            note(release.standing(Rung.REPLAYED))
    sys.exit(1 if faults else 0)


@commands.command()
def audit(
    address: Address,
    sample: Annotated[int, typer.Option(min=1, help="Number of stretches to replay.")],
    beacon: Annotated[str, typer.Option(help="Public number, in hex, that chooses them.", callback=require_utf8)],
    beacon_source: Annotated[
        str | None, typer.Option(help="What the beacon is, for the receipt.", callback=require_utf8)
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Model to choose from; may be repeated (default: all).")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="Private key, to sign a receipt with.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to add the receipt to.")] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase of the key (default: ask, if it has one).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Replay stretches of training that a public number chooses, and sign what came out."""
    require_torch("audit")
    from pipeline.audit.sampled import Audited
    from pipeline.formats.receipts import Beacon, Words
    from pipeline.formats.sampling import parse_beacon
    from pipeline.release.release import Release
    from pipeline.release.rungs import Rung
    from pipeline.release.stretches import plan_audit
    from pipeline.signing.keys import read_private
    from pipeline.signing.receipts import program_of, receipt_of, statement_of, write_receipt
    from trainer.sampled import enter_class_of, replay_chosen

    if (key is None) != (out is None):
        raise EverystepError("audit: give --key and --out together, for a signed receipt, or neither")
    for name in model or []:
        require_utf8(name)
    release = require_release(Release.open(address), address)
    number = Beacon.from_json({"value": parse_beacon(beacon), "source": beacon_source}, "--beacon-source")
    plan = plan_audit(release, model or release.models(), number.value, sample)
    enter_class_of(release, plan.chosen)
    private = None if key is None else read_private(key, lambda: ask_passphrase(passphrase_file, confirm=False))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)  # now, and not after the work
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets
    found = replay_chosen(release, plan.chosen)
    receipt = receipt_of(release, plan, Words(number.source, program_of(release), *found))
    written = None
    if private is not None and out is not None:
        written = write_receipt(out, statement_of(release, plan, receipt), private)
    audited = Audited(plan.root_sha256, receipt, written)
    if as_json:
        print(json.dumps(audited.to_json()))
    else:
        for line in audited.lines():
            say(line)
        if audited.exit_code == 0:
            note(release.standing(Rung.REPLAYED))
    sys.exit(audited.exit_code)


@commands.command()
def receipts(
    address: Address,
    key: Annotated[
        list[Path] | None, typer.Option(help="Public key of an auditor whose word counts; may be repeated.")
    ] = None,
    inside: Annotated[
        Path | None, typer.Option("--in", help="Folder of receipts (default: the one beside the release).")
    ] = None,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Check the receipts of audits of a release, and print what was replayed."""
    from contextlib import nullcontext

    from pipeline.audit.receipts import check_receipts, receipts_beside
    from pipeline.signing.keys import key_id, read_public

    pinned = {key_id(public): public for public in map(read_public, key or [])}
    release = open_release(address, follow_links)
    if inside is not None and not inside.is_dir():
        raise EverystepError(f"--in {inside}: no such folder")
    with nullcontext(inside.resolve()) if inside else receipts_beside(release) as folder:
        found = check_receipts(release, folder, pinned)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        say_lines(found.lines(address))
    sys.exit(found.exit_code)
