"""What researchers ask of a training that can be repeated: `whatif`."""

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from pipeline.base.console import note
from pipeline.base.errors import EverystepError
from pipeline.cli.arguments import Json, Model, Trained, require_all_utf8, require_utf8
from pipeline.cli.common import how_to_load, require_torch, say, say_lines, show_table, with_bytes

commands = typer.Typer()


@commands.command()
def whatif(
    address: Trained,
    model: Model,
    start: Annotated[int, typer.Option("--from", help="Step of the checkpoint to start from.")],
    stop: Annotated[int | None, typer.Option("--to", help="Step to train to (default: the last).")] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Id of a document to leave out; may be repeated.", callback=require_all_utf8),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--without-source", "--source", help="Source to leave out, every document of it.", callback=require_utf8
        ),
    ] = None,
    seed_order: Annotated[
        int | None, typer.Option(min=0, max=2**53 - 1, help="Read rows in the order of this seed.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Multiply the learning rate of every step by this.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to create for the weights that come out.")] = None,
    as_json: Json = False,
) -> None:
    """Repeat the end of a training with one thing changed, and print what that changes."""
    require_torch("whatif")
    from pipeline.audit import whatif as asked
    from pipeline.release.release import Release
    from trainer.changes import Change, require_possible
    from trainer.counterfactual import counterfactual
    from trainer.replay import state_at

    changes = {"--without": without, "--without-source": source, "--seed-order": seed_order, "--rate": rate}
    given = [name for name, value in changes.items() if value not in (None, [])]
    if len(given) > 1:
        raise EverystepError(f"whatif: {' and '.join(given)}: change one thing, so that what differs has one cause")
    release = Release.open(address)
    trained = release.model(model).parameters
    last = trained.schedule.steps if stop is None else stop
    if not start < last <= trained.schedule.steps:
        raise EverystepError(f"--from {start} --to {last}: give steps in this order, up to {trained.schedule.steps}")
    if out is not None and out.exists():
        raise EverystepError(f"{out}: already exists; name a new folder")
    require_possible(trained, seed_order, rate)
    documents = None
    if without or source is not None:
        documents = asked.left_out(release, model, without or [], [] if source is None else [source], start, last)
    change = Change(forgotten=documents.spans if documents else None, order=seed_order, rate=rate)
    before, published = state_at(release, model, start), release.state(model, last)
    with_bytes(release, {state.step: state for state in (before, published) if state.model == model})
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets
    with counterfactual(release, before, published, change) as found:
        told = {"seed_order": seed_order, "rate": rate, "without": without or None, "without_source": source}
        told = {key: value for key, value in told.items() if value is not None}
        is_same = found.record.state_digest == published.record.state_digest
        if out is not None and is_same:
            note(f"note: {out} is not written: it would be the published state; `everystep pull` gives that")
        elif out is not None:
            asked.write_changed(release, out, before, published, found.record, found.folder, told)
    if as_json:
        print(
            json.dumps(
                {
                    "model": model,
                    "start": start,
                    "stop": last,
                    "change": told,
                    "left_out": documents.to_json() if documents else None,
                    "same": is_same,
                    "first_difference": found.first_difference,
                    "distance": found.distance,
                    "moved": found.moved,
                    "published": published.record.state_digest,
                    "changed": found.record.state_digest,
                    "held_out": [
                        {"source": one.source, "published": one.to_json(), "changed": other.to_json()}
                        for one, other in found.held_out
                    ],
                }
            )
        )
        return
    if documents:
        say_lines(asked.told_of_documents(documents, start))
    if is_same:
        what = f"{model}, steps {start} to {last}" + ("" if told else ", with nothing changed")
        say(f"same: {what}: every loss, norm and digest is the published one")
        say(f"step {last}: {found.record.state_digest}")
        return
    say(f"first step that comes out differently: {found.first_difference}")
    if found.held_out:
        show_table(asked.COLUMNS, asked.losses(found.held_out))
    share = f", {100 * found.distance / found.moved:.1f} % of their way from step {start}" if found.moved else ""
    say(f"weights: {found.distance:.4f} from the published ones{share}")
    say(f"step {last} as published: {published.record.state_digest}")
    say(f"step {last} as changed:   {found.record.state_digest}")
    if out is not None:
        say(f"{out}: no checkpoint of this release; {how_to_load(out)}")
