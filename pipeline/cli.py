"""The command `everystep`: what readers of a release run, and what its builders look up.

The top floor: the only module that sees both `pipeline` and `trainer`. Each command loads what it needs when it
runs, so verifying and pulling need neither torch nor DVC. Results go to stdout, messages to stderr; exit codes:
0 fine, 1 the bytes differ, 2 misuse.
"""

import json
import signal
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.formats.errors import Differs, EverystepError

app = typer.Typer(
    help="Rebuild, publish and prove open language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
export = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Release = Annotated[Path, typer.Argument(help="The folder of a release.")]
Trained = Annotated[Path, typer.Argument(help="The folder of a release, or of a project that has trained.")]
Folder = Annotated[Path, typer.Argument(help="The folder of a project or of a release.")]
Model = Annotated[str, typer.Option(help="A model of the release, as `everystep show` lists them.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for a program.")]


app.add_typer(export, name="export")


def main() -> None:
    """Run a command; a mendable fault is one message and an exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `everystep ... | head` ends like any Unix program
    try:
        app()
    except EverystepError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a folder that may not be written, a disk that is full
        print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        sys.exit(EverystepError.exit_code)


@app.command()
def show(
    what: Annotated[str, typer.Argument(help="The folder of a release; or the word `duplicates`.")],
    folder: Annotated[
        Path | None, typer.Argument(help="For duplicates: a project or a release; here if left out.")
    ] = None,
    id: Annotated[str | None, typer.Option(help="For duplicates: compare this removed document's text.")] = None,
    largest: Annotated[int, typer.Option(min=1, help="For duplicates: so many clusters.")] = 20,
    as_json: Json = False,
) -> None:
    """Print what is in a release: models, sources, licences, what was removed; or clusters of duplicates."""
    if what == "duplicates":
        _show_duplicates(folder or Path(), id, largest, as_json)
    elif folder is not None or id is not None:
        raise EverystepError(f"{what}: only `everystep show duplicates` takes a second folder or --id")
    else:
        _show_release(Path(what), as_json)


def _show_duplicates(folder: Path, id: str | None, largest: int, as_json: bool) -> None:
    from dataclasses import asdict

    from pipeline.audit.duplicates import clusters, compare

    if id is not None:
        found = compare(folder, id)
        if as_json:
            print(json.dumps(asdict(found)))
        else:
            print("\n".join(found.difference))
            print(f"\nsimilarity: {found.recorded} when it was removed, {found.measured} measured now on the words")
        sys.exit(0 if found.recorded == found.measured else 1)
    all_of_them = clusters(folder)
    if as_json:
        print(json.dumps({"clusters": [asdict(cluster) for cluster in all_of_them[:largest]]}))
        return
    removed = sum(cluster.exact + cluster.near for cluster in all_of_them)
    print(f"{removed:,} documents were removed for {len(all_of_them):,} that stayed; the largest clusters:\n")
    rows = [[c.kept, f"{c.exact:,}", f"{c.near:,}", f"{c.least_similar:.3f}", c.examples[0]] for c in all_of_them]
    _table(["kept", "exact", "near", "least similar", "for example"], rows[:largest])


def _show_release(release: Path, as_json: bool) -> None:
    from pipeline.audit.show import summarize
    from pipeline.release.card import spelled

    facts = summarize(release)
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{facts['name']} {facts['version']}: {facts['files']:,} files, {facts['bytes'] / 1e6:,.1f} MB")
    print(f"rows: {facts['rows']['train']:,} to train on, {facts['rows']['validation']:,} held out\n")
    _table(
        ["model", "parameters", "tokens", "checkpoints", "validation loss", "bits per byte", "numerics"],
        [
            [
                model["name"],
                f"{model['parameters']:,}",
                f"{model['tokens']:,}",
                str(len(model["checkpoints"])),
                f"{model['validation_loss']:.4f}",
                f"{model['bits_per_byte']:.4f}",
                model["numerics"],
            ]
            for model in facts["models"]
        ],
    )
    _table(
        ["source", "licence", "documents found", "kept", "tokens", "title"],
        [
            [
                s["name"],
                s["license"],
                f"{s['documents_found']:,}",
                f"{s['documents_kept']:,}",
                f"{s['tokens']:,}",
                s["title"],
            ]
            for s in facts["sources"]
        ],
    )
    _table(
        ["licence", "documents", "tokens", "share of tokens"],
        [[r["license"], f"{r['documents']:,}", f"{r['tokens']:,}", f"{r['share']:.1%}"] for r in facts["licenses"]],
    )
    columns = ("documents", "rewritten", "removed")
    _table(
        ["step of cleaning", *columns, "found"],
        [
            [step["step"], *(f"{step[column]:,}" for column in columns), spelled(step["counts"])]
            for step in facts["cleaning"]
        ],
    )
    removed = [(stage, *pair) for stage, reasons in facts["removed"].items() for pair in sorted(reasons.items())]
    _table(["stage", "removed because", "documents"], [[stage, reason, f"{n:,}"] for stage, reason, n in removed])


@app.command()
def recipes(folder: Folder = Path(), as_json: Json = False) -> None:
    """Print the recipes of a project or a release: each model's size, tokens and checkpoints."""
    from dataclasses import asdict

    from trainer.catalog import list_recipes

    entries = [asdict(entry) for entry in list_recipes(folder)]
    if as_json:
        print(json.dumps({"recipes": entries}))
        return
    header = ["recipe", "family", "layers", "applied", "parameters", "if repeated", "context", "tokens", "steps"]
    rows = [[f"{value:,}" if isinstance(value, int) else value for value in entry.values()] for entry in entries]
    _table([*header, "checkpoints"], rows)


@app.command()
def init(
    name: Annotated[Path | None, typer.Argument(help="A new folder, called as the release shall be.")] = None,
    example: Annotated[str | None, typer.Option(help="One of the examples, or a folder that holds one.")] = None,
    pin: Annotated[bool, typer.Option("--pin", help="Ask the Hub for the commits of named revisions.")] = False,
    as_json: Json = False,
) -> None:
    """Make a new release repository from an example; without one, list the examples."""
    from pipeline import init as starting
    from pipeline.console import note

    root = starting.checkout()
    examples = starting.list_examples(root)
    if name is None or example is None:
        if name is not None or example is not None:
            raise EverystepError(f"init: give NAME and --example; the examples are {', '.join(examples)}")
        if as_json:
            print(json.dumps({"examples": examples}))
        else:
            _table(["example", "title"], [[*pair] for pair in examples.items()])
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
    for key, commit in made.pinned.items():
        print(f"{key}: {commit}")
    print(f"{made.folder}: {', '.join(made.models)} on {', '.join(made.sources) or 'published rows'}")
    print(f"next: cd {made.folder} && make setup && source .venv/bin/activate && dvc repro --dry --force")


@app.command()
def verify(release: Release, as_json: Json = False) -> None:
    """Recompute every digest; fail on any changed, missing or extra file."""
    from pipeline.audit.verify import verify as find_faults

    faults = find_faults(release)
    if as_json:
        print(json.dumps({"release": release.name, "verified": not faults, "faults": faults}))
    elif faults:
        print("\n".join(faults))
        print(f"{release}: {len(faults)} faults; this is not the release that was published")
    else:
        print(f"{release}: every file is what the release promises")
    sys.exit(1 if faults else 0)


@app.command()
def pull(
    release: Release,
    model: Model,
    step: Annotated[int, typer.Option(help="A step of the checkpoint schedule.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
) -> None:
    """Write one checkpoint, verified, in a layout that transformers loads."""
    from pipeline.audit.verify import verified_file
    from pipeline.release.layout import read_root
    from trainer.pull import pull as pull_checkpoint

    root = read_root(release)
    revision = _revision(release, root, model, step)
    origin = {"release": root["name"], "release_version": root["version"]}
    pull_checkpoint(partial(verified_file, release, root), model, revision, out, origin)
    print(f"{out}: {model} {revision}; {_how_to_load(out)}")


@app.command()
def average(
    release: Release,
    model: Model,
    last: Annotated[int, typer.Option(min=2, help="How many checkpoints, from the last one backwards.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
) -> None:
    """Write the mean of a model's last checkpoints, verified, in a layout that transformers loads."""
    from pipeline.audit.verify import verified_file
    from pipeline.release.layout import read_root
    from trainer.average import average as average_checkpoints

    root = read_root(release)
    trained = sorted(step for step in _stored_steps(release, root, model) if step > 0)
    if last > len(trained):
        raise EverystepError(
            f"--last {last}: {model} has {len(trained)} checkpoints behind step 0, which is untrained: "
            f"{', '.join(map(str, trained))}"
        )
    revisions = [_revision(release, root, model, step) for step in trained[-last:]]
    origin = {"release": root["name"], "release_version": root["version"]}
    average_checkpoints(partial(verified_file, release, root), model, revisions, out, origin)
    print(f"{out}: {model}, mean of {', '.join(revisions)}; {_how_to_load(out)}")


@app.command()
def sample(
    release: Trained,
    model: Model,
    step: Annotated[int | None, typer.Option(help="A step of the checkpoint schedule; unset: the last.")] = None,
    prompt: Annotated[str, typer.Option(help="The text to continue; unset: a document from its beginning.")] = "",
    tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="Divides the logits; 0: always the likeliest.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=1, help="Draw among so many likeliest tokens.")] = 50,
    seed: Annotated[int, typer.Option(min=0, max=2**53 - 1, help="The same seed gives the same text.")] = 0,
    as_json: Json = False,
) -> None:
    """Continue a text with one checkpoint, verified, token by token."""
    _require_torch("sample")
    from dataclasses import asdict

    from pipeline.audit.project import root_of
    from pipeline.audit.verify import verified_file
    from pipeline.console import note
    from trainer.sample import ENOUGH, Request
    from trainer.sample import sample as continue_text

    root = root_of(release)
    revision = _revision(release, root, model, max(_stored_steps(release, root, model)) if step is None else step)
    request = Request(prompt=prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed)
    show = (lambda piece: None) if as_json else _show_text
    answer = continue_text(partial(verified_file, release, root), model, revision, request, show)
    if as_json:
        print(json.dumps(asdict(answer)))
        return
    print()
    if answer.ended != ENOUGH:
        note(f"note: stopped at the {answer.ended}, after {len(answer.token_ids)} of {tokens} tokens")


@export.callback()
def _export() -> None:
    """Write the rows of a release in the layouts of other trainers."""


@export.command("tokens")
def export_tokens(
    folder: Folder,
    layout: Annotated[Literal["mobilellm", "llm360"], typer.Option(help="Whose files to write.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    nodes: Annotated[int | None, typer.Option(min=1, help="For mobilellm: folders, one for 8 ranks.")] = None,
    chunks: Annotated[int | None, typer.Option(min=1, help="For llm360: files, one before each checkpoint.")] = None,
    global_batch: Annotated[int | None, typer.Option(min=1, help="Rows a step reads; unset: the fewest.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps to write; unset: those of one epoch.")] = None,
) -> None:
    """Write the training rows, verified, as the files that MobileLLM's or LLM360's trainers read."""
    from pipeline.audit.tokens import export_llm360, export_mobilellm

    if (nodes if layout == "mobilellm" else chunks) is None or (chunks if layout == "mobilellm" else nodes) is not None:
        raise EverystepError("export tokens: give --nodes with --layout mobilellm, --chunks with --layout llm360")
    if layout == "mobilellm":
        done = export_mobilellm(folder, out, nodes or 1, global_batch, steps)
    else:
        done = export_llm360(folder, out, chunks or 1, global_batch, steps)
    print(
        f"{out}: {done.rows:,} rows in {done.files} files, {done.steps:,} steps of {done.global_batch}; "
        f"{done.left_out:,} rows of the epoch are left out\n"
        f"a recipe reads it with layout: {layout}, width: {done.width}, seed: {done.seed}, "
        f"global_batch: {done.global_batch}"
    )


@app.command()
def trace(
    release: Release,
    model: Model,
    step: Annotated[int | None, typer.Option(help="Print the documents in the batch of this step.")] = None,
    document: Annotated[str | None, typer.Option(help="Print the steps that saw this document.")] = None,
    as_json: Json = False,
) -> None:
    """Print the documents that a step saw, or the steps that saw a document."""
    from pipeline.audit import trace as tracing

    if (step is None) == (document is None):
        raise EverystepError("trace: give either --step or --document")
    if step is not None:
        spans = tracing.trace_step(release, model, step)
        if as_json:
            print(json.dumps(spans))
            return
        header = ["sample", "row", "ids", "source", "licence", "document"]
        rows = [
            [str(s["sample"]), str(s["row"]), f"{s['start']}..{s['stop']}", s["source"], s["license"], s["id"]]
            for s in spans
        ]
        _table(header, rows)
        return
    found = tracing.trace_document(release, model, str(document))
    print(json.dumps(found) if as_json else _tell(found))


@app.command()
def replay(
    release: Trained,
    model: Model,
    start: Annotated[int, typer.Option("--from", help="A stored step.")],
    stop: Annotated[int, typer.Option("--to", help="The step to train to.")],
    as_json: Json = False,
) -> None:
    """Train a stretch again from the released bytes alone, and compare every digest."""
    _require_torch("replay")
    from dataclasses import asdict

    from pipeline.audit.project import root_of
    from pipeline.audit.verify import verified_file
    from trainer.replay import replay as replay_stretch

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets

    root = root_of(release)
    _revision(release, root, model, start)
    outcome = replay_stretch(partial(verified_file, release, root), release, model, start, stop)
    if as_json:
        print(json.dumps(asdict(outcome)))
    elif outcome.first_difference is None:
        print(f"same: {model}, steps {start} to {stop}, {outcome.digests_compared} digests of all weights compared")
    else:
        print(f"differs: {model}, first at step {outcome.first_difference}: {outcome.detail}")
    sys.exit(0 if outcome.first_difference is None else 1)


def _require_torch(command: str) -> None:
    if not find_spec("torch"):
        fix = "pip install 'everystep[train]'"
        raise EverystepError(f"{command}: needs torch, which a reader's installation lacks; {fix}")


def _revision(release: Path, root: dict[str, Any], model: str, step: int) -> str:
    """The name of a stored state; an unknown one is told which ones there are."""
    steps = _stored_steps(release, root, model)
    if step not in steps:
        raise EverystepError(
            f"step {step}: no checkpoint of {model} there; it has {', '.join(map(str, sorted(steps)))}"
        )
    if not steps[step].startswith(f"step{step:06d}-"):
        raise Differs(f"{release}: the manifest of {model} gives step {step} the revision {steps[step]!r}")
    return steps[step]


def _stored_steps(release: Path, root: dict[str, Any], model: str) -> dict[int, str]:
    """The steps of a model's stored states, with the revision of each."""
    from pipeline.audit.verify import model_manifest
    from pipeline.formats.errors import well_shaped

    trained = model_manifest(release, root, model)
    with well_shaped(f"{release}: manifest of {model}"):
        return {int(entry["step"]): str(entry["revision"]) for entry in trained["checkpoints"]}


def _how_to_load(out: Path) -> str:
    remote = ", trust_remote_code=True" if list(out.glob("modeling_*.py")) else ""
    return f"load it with transformers.AutoModelForCausalLM.from_pretrained({str(out)!r}{remote})"


def _show_text(piece: str) -> None:
    """Print a piece of text at once. What a model says must not steer the terminal: control characters are drawn."""
    drawn = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
    drawn |= dict.fromkeys(range(0x7F, 0xA0), 0xFFFD)
    print(piece.translate(drawn), end="", flush=True)


def _tell(found: dict[str, Any]) -> str:
    if "removed" in found:
        row = found["removed"]
        detail = f" ({row['detail']})" if row["detail"] else ""
        kept = f"; {row['kept']} stayed, similarity {row['similarity']}" if row["kept"] else ""
        return f"{found['id']}: removed by {row['stage']} as {row['reason']}{detail}{kept}"
    if found["split"] == "validation":
        return f"{found['id']}: held out for validation; no step saw it"
    where = " and ".join(f"rows {start} to {stop - 1}" for start, stop in found["rows"] if start < stop)
    if not where:
        return f"{found['id']}: fell with the tail that fills no row; no step saw it"
    if not found["steps"]:
        return f"{found['id']}: in the training rows ({where}), but no step has read them"
    steps = ", ".join(map(str, found["steps"]))
    return f"{found['id']}: {where}; seen by steps {steps}; first checkpoint after it: {found['first_checkpoint']}"


def _table(header: list[str], rows: list[list[str]]) -> None:
    widths = [max(len(line[i]) for line in [header, *rows]) for i in range(len(header))]
    for line in [header, ["-" * width for width in widths], *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()


if __name__ == "__main__":
    main()
