"""What builders run: `recipes`, `plan`, `init`, `fork`, `forget`, `capsule`, `thaw`."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.base.console import note
from pipeline.base.errors import EverystepError
from pipeline.cli.arguments import Address, Json, Model, require_address, require_all_utf8, require_utf8
from pipeline.cli.common import open_release, say, show_table, with_bytes

if TYPE_CHECKING:
    from pipeline.release.release import Release

commands = typer.Typer()


@commands.command()
def recipes(
    folder: Annotated[Path, typer.Argument(help="Folder of a project or a release.")] = Path(), as_json: Json = False
) -> None:
    """List recipes with their size, tokens and checkpoints."""
    from dataclasses import asdict

    from trainer.catalog import list_recipes

    entries = [asdict(entry) for entry in list_recipes(folder)]
    if as_json:
        print(json.dumps({"recipes": entries}))
        return
    header = ["recipe", "family", "layers", "applied", "parameters", "if repeated", "context", "tokens", "steps"]
    rows = [[f"{value:,}" if isinstance(value, int) else value for value in entry.values()] for entry in entries]
    show_table([*header, "checkpoints"], rows)


@commands.command()
def plan(
    folder: Annotated[Path, typer.Argument(help="Folder of a project.")] = Path(),
    model: Annotated[
        list[str] | None,
        typer.Option(help="Name of a model; may be repeated (default: all).", callback=require_all_utf8),
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="STAGE=AMOUNT that it passes in a CPU second; may be repeated.", callback=require_all_utf8),
    ] = None,
    rates: Annotated[Path | None, typer.Option(help="File of rates, in place of ours.")] = None,
    as_json: Json = False,
) -> None:
    """Print what a project will cost, before anything runs: tokens, disk, memory, processor hours, GPU days."""
    from pipeline.base.params import model_names
    from pipeline.base.paths import PARAMS
    from pipeline.plan import table
    from pipeline.plan.plan import make_plan
    from pipeline.plan.rates import RATES, load_rates
    from trainer.planned import planned

    names = model_names(folder / PARAMS)
    unknown = sorted(set(model or []) - set(names))
    if unknown:
        raise EverystepError(f"--model {unknown[0]}: not a model of {folder / PARAMS}; there are {', '.join(names)}")
    trainings = [planned(name, folder) for name in model or names]
    figures = make_plan(folder, trainings, load_rates(rates or RATES, rate))
    if as_json:
        print(json.dumps({"figures": [figure._asdict() for figure in figures]}))
        return
    show_table(*table.figures_table(figures))
    show_table(*table.models_table(figures))
    show_table(*table.memory_table(figures))
    for line in table.notes(figures):
        say(line)


@commands.command()
def init(
    name: Annotated[Path | None, typer.Argument(help="Folder to create; its name becomes the release name.")] = None,
    example: Annotated[str | None, typer.Option(help="Name of an example, or a folder with your own.")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Look up the commits of named revisions on the Hub.")] = False,
    as_json: Json = False,
) -> None:
    """Create a release repository from an example, or list the examples."""
    from pipeline.build import init as starting

    root = starting.checkout()
    examples = starting.list_examples(root)
    if name is None or example is None:
        if name is not None or example is not None:
            raise EverystepError(f"init: give NAME and --example; the examples are {', '.join(examples)}")
        if as_json:
            print(json.dumps({"examples": examples}))
        else:
            show_table(["example", "title"], [[*pair] for pair in examples.items()])
        return
    folder = root / "examples" / example if example in examples else Path(example)
    if not (folder / "params.yaml").is_file():
        raise EverystepError(f"--example {example}: neither a folder with params.yaml nor one of {', '.join(examples)}")
    if pin:
        from pipeline.sources.huggingface import resolve
    made = starting.init(name, folder, root, resolve if pin else None)
    if as_json:
        print(json.dumps(made._asdict() | {"folder": str(made.folder)}))
        return
    for key in made.unpinned:
        note(f"note: {made.folder}/params.yaml: {key}: a name that can move; write a commit, or start again with --pin")
    if made.uncommitted:
        again = f"git -C {shlex.quote(str(made.folder))} commit --message 'Start from an example'"
        note(f"note: all files are staged but not committed: {made.uncommitted}; fix that, then run: {again}")
    for key, commit in made.pinned.items():
        say(f"{key}: {commit}")
    say(f"{made.folder}: {', '.join(made.models)} on {', '.join(made.sources) or 'published rows'}")
    say(f"next: cd {shlex.quote(str(made.folder))} && make setup && source .venv/bin/activate")
    say("then: dvc repro --dry --force lists what `make release` would run")


@commands.command()
def fork(
    address: Address,
    model: Model,
    step: Annotated[int, typer.Option(help="Step of a checkpoint to go on from.")],
    out: Annotated[Path, typer.Option(help="Folder to create; its name becomes the release name.")],
    base_model: Annotated[
        str | None, typer.Option(help="OWNER/NAME of that model on the Hub, for the card.", callback=require_utf8)
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a project that trains on from a checkpoint of a release."""
    from pipeline.build.fork import fork as make_fork
    from pipeline.build.init import checkout, refuse_taken

    refuse_taken(out)  # now, and not after a state was rebuilt
    release = open_release(address)
    state = with_bytes(release, release.states_at(model, [step]))[step]
    made = make_fork(str(address), state, out, checkout(), base_model)
    if as_json:
        print(json.dumps(made._asdict() | {"folder": str(made.folder)}))
        return
    folder = shlex.quote(str(made.folder))
    if made.uncommitted:
        again = f"git -C {folder} commit --message 'Start from a checkpoint'"
        note(f"note: all files are staged but not committed: {made.uncommitted}; fix that, then run: {again}")
    say(f"{out}: {model} from step {made.step} of {made.release} {made.version}")
    say(f"state: {made.state_digest}")
    why = f"as it is, steps {made.step + 1} to {made.steps} give the parent's digests"
    if made.step == made.steps:
        why = f"schedule.steps is {made.steps}, where the fork begins; write more"
    say(f"next: edit {out}/recipes/{model}.yaml ({why})")
    say(f"then: cd {folder} && make setup && source .venv/bin/activate && make release")


@commands.command()
def forget(
    address: Address,
    document: Annotated[
        list[str] | None, typer.Option(help="Id of a document to forget; may be repeated.", callback=require_all_utf8)
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Name of a source to forget; may be repeated.", callback=require_all_utf8)
    ] = None,
    match: Annotated[
        str | None, typer.Option(help="Forget every training document that contains this.", callback=require_utf8)
    ] = None,
    why: Annotated[
        str | None, typer.Option(help="With --out: the reason, for the certificate.", callback=require_utf8)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to create for the project that forgets; the new release gets its name."),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Successor that has forgotten documents of this release: check its certificate.",
            callback=require_address,
        ),
    ] = None,
    add_note: Annotated[
        bool, typer.Option("--notice", help="With --compare, if that is right: write notices/forgotten.json here.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what some documents touch and what forgetting them costs; with --out, create the project that forgets."""
    from pipeline.audit import forget as forgetting

    if (why is not None and not out) or (add_note and compare is None):
        raise EverystepError("forget: --why goes with --out, and --notice with --compare")
    if compare is not None and (document or source or match is not None or out):
        raise EverystepError(
            "forget: --compare takes the documents from the certificate; give it alone or with --notice"
        )
    release = open_release(address, False)
    if compare is not None:
        _compare_successor(release, open_release(compare, False), add_note, as_json)
        return
    found = forgetting.touched(release, document or [], source or [], match)
    if not out:
        if as_json:
            print(json.dumps(found.to_json()))
        else:
            say("\n".join(forgetting.told(found)))
            show_table(forgetting.COLUMNS, forgetting.costs(found))
        return
    from pipeline.build.forget import refuse_unexplained, successor
    from pipeline.build.init import checkout, refuse_taken

    refuse_taken(out)  # now, and not after states were rebuilt
    refuse_unexplained(why or "")
    states = [with_bytes(release, release.states_at(model.name, [model.clean]))[model.clean] for model in found.models]
    made = successor(address, release, states, found.ids_alone(), found.sources, why or "", out, checkout())
    if as_json:
        print(json.dumps(made._asdict() | {"folder": str(made.folder)}))
        return
    folder = shlex.quote(str(made.folder))
    if made.uncommitted:
        again = f"git -C {folder} commit --message 'Forget documents'"
        note(f"note: all files are staged but not committed: {made.uncommitted}; fix that, then run: {again}")
    say(f"{out}: {made.release} {made.version} without {forgetting.count(len(found.documents), 'document')}")
    for name, step in made.states.items():
        say(f"{name}: goes on from step {step}")
    say(f"next: cd {folder} && make setup && source .venv/bin/activate && make release")


def _compare_successor(release: "Release", successor: "Release", add_note: bool, as_json: bool) -> None:
    from pipeline.audit.forget import compare
    from pipeline.release.notices import add_notice, notice_of

    faults = compare(release, successor)
    written = str(add_notice(release, notice_of(successor))) if add_note and not faults else None
    if as_json:
        print(json.dumps({"faults": faults, "notice": written}))
    else:
        what = f"the certificate of {successor.name} {successor.version}"
        for fault in faults:
            say(fault)
        say(f"{'differs' if faults else 'same'}: {what}, computed again from {release.name} {release.version}")
        if written:
            say(f"{written}: says so to readers; publish it beside the release")
    sys.exit(1 if faults else 0)


@commands.command()
def capsule(
    project: Annotated[Path, typer.Argument(help="Folder of a project that is built and committed.")],
    out: Annotated[Path, typer.Argument(help="Folder to create.")],
    torch_index: Annotated[
        str | None, typer.Option(help="Index that serves the build of torch, where pip's own does not.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one folder that rebuilds a release without any network: code, packages, sources."""
    from pipeline.base.console import in_bytes
    from pipeline.build.capsule import capsule as pack

    packed = pack(project, out, torch_index)
    if as_json:
        print(json.dumps(packed._asdict()))
        return
    say(
        f"{out}: commit {packed.commit}, {packed.packages} packages, {packed.artefacts} artefacts; "
        f"{packed.files} files, {in_bytes(packed.bytes)}\n"
        f"rebuild it anywhere: python{sys.version_info.major}.{sys.version_info.minor} {out}/thaw.py OUT"
    )


@commands.command()
def thaw(
    capsule: Annotated[Path, typer.Argument(help="Folder that `everystep capsule` made.")],
    out: Annotated[Path, typer.Argument(help="Folder to create; the release is built there.")],
) -> None:
    """Rebuild a release from a capsule, without any network, and compare it with what was committed."""
    from pipeline.base.errors import Differs
    from pipeline.build.thaw import Changed, Refused
    from pipeline.build.thaw import thaw as rebuild

    try:
        rebuild(capsule, out)
    except Changed as error:
        raise Differs(str(error)) from error
    except Refused as error:
        raise EverystepError(str(error)) from error
