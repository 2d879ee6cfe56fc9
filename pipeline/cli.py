"""The command `everystep`: what readers of a release run, and what its builders look up.

The top floor: the only module that sees both `pipeline` and `trainer`. Each command loads what it needs when it
runs, so verifying and pulling need neither torch nor DVC. Results go to stdout, messages to stderr; exit codes:
0 fine, 1 the bytes differ, 2 misuse, 4 a link in the place of a file of a release (docs/audit.md). Text from outside
goes through `printable` before it reaches a terminal.
"""

import io
import json
import shlex
import shutil
import signal
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.base.columns import table
from pipeline.base.console import exit_codes, note, printable
from pipeline.base.errors import EverystepError, how_to_install

if TYPE_CHECKING:
    from pipeline.audit.show import Summary
    from pipeline.release.facts import SourceFacts
    from pipeline.release.release import Release

app = typer.Typer(
    help="Rebuild, publish and prove open language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
export = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def _require_utf8(text: str | None) -> str | None:
    """Refuse a text that is not UTF-8; Python hands its bytes over as half a surrogate pair each."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(
            f"{printable(text or '')}: not UTF-8, as all names and texts of a release are"
        ) from error
    return text


Address = Annotated[Path, typer.Argument(help="Folder of a release.")]
Trained = Annotated[Path, typer.Argument(help="Folder of a release, or of a project with trained models.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a project or a release.")]
Model = Annotated[str, typer.Option(help="Name of a model; `everystep show` lists them.", callback=_require_utf8)]
OnlyModel = Annotated[
    str | None,
    typer.Option("--model", help="Name of a model (default: the only one there is).", callback=_require_utf8),
]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Read what links point at, as in the Hub's cache.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


app.add_typer(export, name="export")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"everystep {version('everystep')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Take what no command takes."""


def main() -> None:
    """Run a command; an error that a user can fix is one message and an exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `everystep ... | head` ends like any Unix program
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    with exit_codes():
        app()


def _say(text: str = "") -> None:
    """A line of a result for a person."""
    print(printable(text))


@app.command()
def show(address: Address, follow_links: FollowLinks = False, as_json: Json = False) -> None:
    """Print what is in a release: models, sources, licences, cleaning and removals."""
    from pipeline.audit.show import summarize

    facts = summarize(_open_release(address, follow_links))
    if as_json:
        print(json.dumps(facts.to_json()))
    else:
        _show_facts(facts)


@app.command()
def duplicates(
    folder: Folder = Path(),
    id: Annotated[
        str | None, typer.Option(help="Id of one removed document, to compare it.", callback=_require_utf8)
    ] = None,
    largest: Annotated[int, typer.Option(min=1, help="Number of clusters to show.")] = 20,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print the largest clusters of duplicates, or compare one removed document with the one that was kept."""
    from dataclasses import asdict

    from pipeline.audit.duplicates import clusters, compare
    from pipeline.release.release import Release

    release = Release.open(folder, follow_links)
    if id is not None:
        found = compare(release, id)
        if as_json:
            print(json.dumps(asdict(found)))
        else:
            _say("\n".join(found.difference))
            _say(f"\nsimilarity: {found.recorded} when it was removed, {found.measured} measured now on the words")
        sys.exit(0 if found.recorded == found.measured else 1)
    all_of_them = clusters(release)
    if as_json:
        print(json.dumps({"clusters": [asdict(cluster) for cluster in all_of_them[:largest]]}))
        return
    removed = sum(cluster.exact + cluster.near for cluster in all_of_them)
    _say(f"{removed:,} documents are duplicates of {len(all_of_them):,} that were kept; the largest clusters:\n")
    rows = [[c.kept, f"{c.exact:,}", f"{c.near:,}", f"{c.least_similar:.3f}", c.examples[0]] for c in all_of_them]
    _table(["kept", "exact", "near", "least similar", "for example"], rows[:largest])


@app.command("personal-data")
def personal_data(
    folder: Folder = Path(),
    largest: Annotated[int, typer.Option(min=1, help="Number of documents to show.")] = 20,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print where personal data was replaced, and how much of each kind."""
    from pipeline.audit.personal_data import replaced
    from pipeline.formats.tables import PERSONAL_DATA
    from pipeline.release.release import Release

    found = replaced(Release.open(folder, follow_links), largest)
    if as_json:
        print(json.dumps(found._asdict()))
        return
    _say(f"personal data was replaced in {sum(total['documents'] for total in found.sources):,} documents:\n")
    columns = ["documents", *PERSONAL_DATA]
    _table(["source", *columns], [[row["source"], *(f"{row[name]:,}" for name in columns)] for row in found.sources])
    if found.documents:
        rows = [[row["id"], *(f"{row[kind]:,}" for kind in PERSONAL_DATA)] for row in found.documents]
        _table(["document", *PERSONAL_DATA], rows)


def _show_facts(facts: "Summary") -> None:
    from pipeline.release.card import listed, percent

    rows = facts.rows
    _say(f"{facts.name} {facts.version}: {facts.files:,} files, {facts.bytes / 1e6:,.1f} MB")
    for state in facts.ancestors:
        _say(f"trained on from {state.model} at step {state.step} of {state.release} {state.version}")
    _say(f"rows: {rows.train:,} to train on, {rows.read:,} of them read; {rows.validation:,} held out\n")
    _table(
        ["model", "parameters", "tokens", "rows read", "checkpoints", "validation loss", "bits per byte", "numerics"],
        [
            [
                model.name,
                f"{model.parameters:,}",
                f"{model.tokens:,}",
                f"{model.rows_read:,} ({percent(model.share_read)})",
                str(len(model.checkpoints)),
                f"{model.validation_loss:.4f}",
                f"{model.bits_per_byte:.4f}",
                model.numerics,
            ]
            for model in facts.models
        ],
    )
    _table(
        ["source", "licence", "documents found", "kept", "to train on", "read", "tokens", "tokens read", "title"],
        [
            [source.name, source.license, *map(_number, _found_to_read(source)), source.title]
            for source in facts.sources
        ],
    )
    _table(
        ["licence", "documents", "read", "tokens", "tokens read", "share of tokens", "of tokens read"],
        [
            [
                row.license,
                *map(_number, (row.documents, row.documents_read, row.tokens, row.tokens_read)),
                percent(row.share),
                percent(row.share_read),
            ]
            for row in facts.licenses
        ],
    )
    _table(
        ["step of cleaning", "documents", "rewritten", "removed", "found"],
        [
            [
                step.step,
                *map(_number, (step.documents, step.rewritten, sum(step.removed.values()))),
                listed(step.counts),
            ]
            for step in facts.cleaning
        ],
    )
    removed = [(stage, *pair) for stage, reasons in facts.removed.items() for pair in sorted(reasons.items())]
    _table(["stage", "removed because", "documents"], [[stage, reason, f"{n:,}"] for stage, reason, n in removed])


def _found_to_read(source: "SourceFacts") -> tuple[int, ...]:
    found, kept = source.documents_found, source.documents_kept
    return found, kept, source.documents, source.documents_read, source.tokens, source.tokens_read


def _number(number: int) -> str:
    return f"{number:,}"


@app.command()
def recipes(folder: Folder = Path(), as_json: Json = False) -> None:
    """List recipes with their size, tokens and checkpoints."""
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
    if made.uncommitted:
        again = f"git -C {shlex.quote(str(made.folder))} commit --message 'Start from an example'"
        note(f"note: all files are staged but not committed: {made.uncommitted}; fix that, then run: {again}")
    for key, commit in made.pinned.items():
        _say(f"{key}: {commit}")
    _say(f"{made.folder}: {', '.join(made.models)} on {', '.join(made.sources) or 'published rows'}")
    _say(f"next: cd {shlex.quote(str(made.folder))} && make setup && source .venv/bin/activate")
    _say("then: dvc repro --dry --force lists what `make release` would run")


@app.command()
def fork(
    address: Address,
    model: Model,
    step: Annotated[int, typer.Option(help="Step of a stored checkpoint to go on from.")],
    out: Annotated[Path, typer.Option(help="Folder to create; its name becomes the release name.")],
    base_model: Annotated[
        str | None, typer.Option(help="OWNER/NAME of that model on the Hub, for the card.", callback=_require_utf8)
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a project that trains on from a checkpoint of a release."""
    from pipeline.build.fork import fork as make_fork
    from pipeline.build.init import checkout

    made = make_fork(str(address), _open_release(address, False).state(model, step), out, checkout(), base_model)
    if as_json:
        print(json.dumps(made._asdict() | {"folder": str(made.folder)}))
        return
    folder = shlex.quote(str(made.folder))
    if made.uncommitted:
        again = f"git -C {folder} commit --message 'Start from a checkpoint'"
        note(f"note: all files are staged but not committed: {made.uncommitted}; fix that, then run: {again}")
    _say(f"{out}: {model} from step {made.step} of {made.release} {made.version}")
    _say(f"state: {made.state_digest}")
    why = f"as it is, steps {made.step + 1} to {made.steps} give the parent's digests"
    if made.step == made.steps:
        why = f"schedule.steps is {made.steps}, where the fork begins; write more"
    _say(f"next: edit {out}/recipes/{model}.yaml ({why})")
    _say(f"then: cd {folder} && make setup && source .venv/bin/activate && make release")


@app.command()
def verify(address: Address, follow_links: FollowLinks = False, as_json: Json = False) -> None:
    """Recompute every digest of a release and report what differs.

    Exit codes: 0, every byte is what the release promises; 1, a file is changed, missing or unreadable; 2, misuse;
    3, every promised byte is right, but there are other files; 4, there are links in place of files, not followed.
    What Git, the Hub's client and file managers leave in a folder changes no exit code.
    """
    from pipeline.audit.verify import verify as check_release

    report = check_release(address, follow_links)
    if as_json:
        print(json.dumps(report.to_json()))
    else:
        for line in report.lines(address):
            print(printable(line, keep=""))  # a fault is one line, whatever a name contains
    sys.exit(report.exit_code)


@app.command()
def pull(
    address: Address,
    out: Annotated[Path, typer.Option(help="Folder to create; several checkpoints get a folder each inside it.")],
    model: OnlyModel = None,
    step: Annotated[
        list[int] | None, typer.Option(help="Step of a stored checkpoint; may be repeated (default: the last).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every checkpoint of the model.")] = False,
    follow_links: FollowLinks = False,
) -> None:
    """Write verified checkpoints as folders that transformers loads."""
    from pipeline.audit.pull import pull as pull_checkpoints

    if everything and step:
        raise EverystepError("pull: give either --step or --all")
    release = _open_release(address, follow_links)
    model = model or _only_model(release)
    stored = list(release.states(model))
    steps = stored if everything else sorted({*step}) if step else stored[-1:]
    several = everything or len(steps) > 1
    states = {f"step{each}" if several else ".": release.state(model, each) for each in steps}
    pull_checkpoints(release, states, out)
    for name, state in states.items():
        _say(f"{out / name}: {model} {state.entry.revision}" + ("" if several else f"; {_how_to_load(out)}"))
    if several:
        _say(_how_to_load(out / list(states)[-1]))


@app.command()
def average(
    address: Address,
    last: Annotated[int, typer.Option(min=2, help="Number of checkpoints to average, counted from the last.")],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    model: OnlyModel = None,
    follow_links: FollowLinks = False,
) -> None:
    """Write the mean of a model's last checkpoints, as `pull` does."""
    from pipeline.audit.average import average as average_checkpoints

    release = _open_release(address, follow_links)
    model = model or _only_model(release)
    trained = [state for step, state in release.states(model).items() if step > 0]
    if last > len(trained):
        raise EverystepError(
            f"--last {last}: {model} has {len(trained)} checkpoints after step 0, which is untrained: "
            f"{', '.join(str(state.entry.step) for state in trained)}"
        )
    average_checkpoints(release, trained[-last:], out)
    revisions = ", ".join(state.entry.revision for state in trained[-last:])
    _say(f"{out}: {model}, mean of {revisions}; {_how_to_load(out)}")


@app.command()
def sample(
    address: Trained,
    model: Model,
    step: Annotated[int | None, typer.Option(help="Step of a stored checkpoint (default: the last).")] = None,
    prompt: Annotated[
        str, typer.Option(help="Text to continue (default: start a new document).", callback=_require_utf8)
    ] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0, help="Sampling temperature; 0: the most likely token.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=1, help="Sample from the K most likely tokens.")] = 50,
    seed: Annotated[int, typer.Option(min=0, max=2**53 - 1, help="The same seed gives the same text.")] = 0,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Continue a text with one verified checkpoint."""
    _require_torch("sample")
    from dataclasses import asdict

    from pipeline.release.release import Release
    from trainer.sample import ENOUGH, Request
    from trainer.sample import sample as continue_text

    release = Release.open(address, follow_links)
    state = release.state(model, max(release.states(model)) if step is None else step)
    request = Request(prompt=prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed)
    show = (lambda piece: None) if as_json else _show_text
    answer = continue_text(state, request, show)
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
    layout: Annotated[Literal["mobilellm", "llm360"], typer.Option(help="Trainer to write for.")],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    nodes: Annotated[int | None, typer.Option(min=1, help="With mobilellm: nodes, of 8 ranks each.")] = None,
    chunks: Annotated[int | None, typer.Option(min=1, help="With llm360: chunks, one per checkpoint.")] = None,
    digits: Annotated[int, typer.Option(min=1, max=9, help="With llm360: digits in a file name; amber-train: 1.")] = 3,
    global_batch: Annotated[int | None, typer.Option(min=1, help="Rows per step (default: the minimum).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps to write (default: one epoch).")] = None,
) -> None:
    """Write the verified training rows as files for MobileLLM's or LLM360's trainer."""
    from pipeline.audit.export_rows import export_llm360, export_mobilellm
    from pipeline.release.release import Release

    if (nodes if layout == "mobilellm" else chunks) is None or (chunks if layout == "mobilellm" else nodes) is not None:
        raise EverystepError("export tokens: give --nodes with --layout mobilellm, --chunks with --layout llm360")
    release = Release.open(folder)
    if layout == "mobilellm":
        done = export_mobilellm(release, out, nodes or 1, global_batch, steps)
    else:
        done = export_llm360(release, out, chunks or 1, digits, global_batch, steps)
    _say(
        f"{out}: {done.rows:,} rows in {done.files} files, {done.steps:,} steps of {done.global_batch}; "
        f"{done.left_out:,} rows of the epoch are left out\n"
        f"a recipe reads it with layout: {layout}, width: {done.width}, seed: {done.seed}, "
        f"global_batch: {done.global_batch}"
    )
    if layout == "llm360":
        print(
            f"the trainers of Amber and MobiLlama read it with TRAIN_EXAMPLES_PER_CHUNK = {done.rows // done.files}, "
            f"N_CHUNKS = {done.files}"
        )


@app.command()
def trace(
    address: Address,
    model: Model,
    step: Annotated[int | None, typer.Option(help="Print the documents in the batch of this step.")] = None,
    document: Annotated[
        str | None, typer.Option(help="Print the steps that saw this document.", callback=_require_utf8)
    ] = None,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print the documents of a step, or the steps of a document."""
    from pipeline.audit import trace as tracing

    if (step is None) == (document is None):
        raise EverystepError("trace: give either --step or --document")
    release = _open_release(address, follow_links)
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
    if as_json:
        print(json.dumps(found))
    else:
        _say(_tell(found))


@app.command()
def replay(
    address: Trained,
    model: Model,
    start: Annotated[int, typer.Option("--from", help="Step of a stored checkpoint to start from.")],
    stop: Annotated[int, typer.Option("--to", help="Step to train to.")],
    as_json: Json = False,
) -> None:
    """Repeat a stretch of training and compare every digest."""
    _require_torch("replay")
    from dataclasses import asdict

    from pipeline.release.release import Release
    from trainer.replay import replay as replay_stretch

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets
    outcome = replay_stretch(Release.open(address), model, start, stop)
    if as_json:
        print(json.dumps(asdict(outcome)))
    elif outcome.first_difference is None:
        _say(f"same: {model}, steps {start} to {stop}, {outcome.digests_compared} digests of all weights compared")
    else:
        _say(f"differs: {model}, first at step {outcome.first_difference}: {outcome.detail}")
    sys.exit(0 if outcome.first_difference is None else 1)


def _require_torch(command: str) -> None:
    if not find_spec("torch"):
        raise EverystepError(f"{command}: needs torch, which a reader's installation lacks; {how_to_install('train')}")


def _open_release(address: Path, follow_links: bool) -> "Release":
    """Open a release; a project, or a release that has lost its root manifest, is refused."""
    from pipeline.release.release import Release

    release = Release.open(address, follow_links)
    if release.version is None:
        fix = "`make release` builds a release from a project; one that was fetched must be fetched whole"
        raise EverystepError(f"{address}: has no release.json; {fix}")
    return release


def _only_model(release: "Release") -> str:
    names = release.models()
    if len(names) != 1:
        raise EverystepError(f"--model: name one of {', '.join(names)}, the models of {release.folder}")
    return names[0]


def _how_to_load(out: Path) -> str:
    remote = ", trust_remote_code=True" if list(out.glob("modeling_*.py")) else ""
    return f"load it with transformers.AutoModelForCausalLM.from_pretrained({str(out)!r}{remote})"


def _show_text(piece: str) -> None:
    """Print a piece of text at once. What a model says must not steer the terminal."""
    print(printable(piece), end="", flush=True)


def _tell(found: dict[str, Any]) -> str:
    if "removed" in found:
        row = found["removed"]
        detail = f" ({row['detail']})" if row["detail"] else ""
        kept = f"; {row['kept']} was kept, similarity {row['similarity']}" if row["kept"] else ""
        return f"{found['id']}: removed by {row['stage']} as {row['reason']}{detail}{kept}"
    if found["split"] == "validation":
        return f"{found['id']}: held out for validation; no step saw it"
    where = " and ".join(f"rows {start} to {stop - 1}" for start, stop in found["rows"] if start < stop)
    if not where:
        return f"{found['id']}: was in the last, incomplete row, which is dropped; no step saw it"
    begun_at = found.get("begun_at")
    before = f"; the steps up to {begun_at} are its parent's, whose release tells of them" if begun_at else ""
    if not found["steps"]:
        return f"{found['id']}: in the training rows ({where}), but no step has read them{before}"
    steps = ", ".join(map(str, found["steps"]))
    checkpoint = found["first_checkpoint"]
    return f"{found['id']}: {where}; seen by steps {steps}; first checkpoint after it: {checkpoint}{before}"


def _table(header: list[str], rows: list[list[str]]) -> None:
    """On a terminal within its width; into a pipe or a file one row a line, whatever its length."""
    rows = [[printable(cell, keep="") for cell in row] for row in rows]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join([*table(header, rows, width), ""]))


if __name__ == "__main__":
    main()
