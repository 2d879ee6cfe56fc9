"""The command `everystep`: what readers of a release run, and what its builders look up.

The top floor: the only module that sees both `pipeline` and `trainer`. Each command loads what it needs when it
runs, so verifying and pulling need neither torch nor DVC. Results go to stdout, messages to stderr; exit codes:
0 fine, 1 the bytes differ, 2 misuse, 4 a link in the place of a file of a release (docs/audit.md). Text from outside
goes through `printable` before it reaches a terminal.
"""

import io
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pipeline.base.columns import table
from pipeline.base.console import exit_codes, note, printable
from pipeline.base.errors import EverystepError, how_to_install
from pipeline.base.files import read_small
from pipeline.formats.samples import SEED, TEMPERATURE, TOP_K

if TYPE_CHECKING:
    from pipeline.audit.export_rows import Exported
    from pipeline.audit.report import Report
    from pipeline.audit.show import Summary
    from pipeline.audit.verify_metadata import MetadataReport
    from pipeline.formats.scores import Score
    from pipeline.release.facts import SourceFacts
    from pipeline.release.release import Release, State
    from pipeline.search.told import Told
    from trainer.dispute.sides import Outcome

app = typer.Typer(
    help="Rebuild, publish and prove open language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
export = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
keys = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


def _require_utf8(text: str | None) -> str | None:
    """Refuse a text that is not UTF-8; Python hands its bytes over as half a surrogate pair each."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(
            f"{printable(text or '')}: not UTF-8, as all names and texts of a release are"
        ) from error
    return text


def _require_all_utf8(texts: list[str] | None) -> list[str] | None:
    """Refuse a list with a text that is not UTF-8."""
    for text in texts or []:
        _require_utf8(text)
    return texts


def _require_address(address: str | None) -> str | None:
    """Refuse an address that names nothing, or that pins nothing though it seems to."""
    from pipeline.release.rungs import pinned_root

    pinned_root(_require_a_place(address) or "")
    return address


def _require_a_place(address: str | None) -> str | None:
    """Refuse an empty one, which would be the folder of now."""
    if address is not None and not address.strip():
        raise typer.BadParameter("is empty; name a folder or an address, such as . for this folder")
    return address


Address = Annotated[str, typer.Argument(help="Folder or address of a release.", callback=_require_address)]
Trained = Annotated[
    str,
    typer.Argument(
        help="Folder or address of a release, or folder of a project with trained models.", callback=_require_address
    ),
]
Folder = Annotated[
    str, typer.Argument(help="Folder or address of a release, or folder of a project.", callback=_require_address)
]
Model = Annotated[str, typer.Option(help="Name of a model; `everystep show` lists them.", callback=_require_utf8)]
OnlyModel = Annotated[
    str | None,
    typer.Option("--model", help="Name of a model (default: the only one there is).", callback=_require_utf8),
]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Read what links point at, as in the Hub's cache.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


app.add_typer(export, name="export")
app.add_typer(keys, name="keys")


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


def _say_lines(lines: Iterable[str]) -> None:
    """Lines of a result, each of which stays one line, whatever a name in it contains."""
    for line in lines:
        print(printable(line, keep=""))


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
    folder: Folder = ".",
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

    release = _open(folder, follow_links)
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
    folder: Folder = ".",
    largest: Annotated[int, typer.Option(min=1, help="Number of documents to show.")] = 20,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print where personal data was replaced, and how much of each kind."""
    from pipeline.audit.personal_data import replaced
    from pipeline.formats.tables import PERSONAL_DATA

    found = replaced(_open(folder, follow_links), largest)
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
    from pipeline.release.markdown import listed, percent

    rows = facts.rows
    size = "" if facts.bytes is None else f", {facts.bytes / 1e6:,.1f} MB"
    _say(f"{facts.name} {facts.version}: {facts.files:,} files{size}")
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
        ["model", "states", "stored", "virtual", "bytes stored", "of all raw", "share"],
        [
            [
                states.model,
                *map(_number, (states.stored + states.virtual, states.stored, states.virtual)),
                *map(_number, (states.bytes_stored, states.bytes_raw)),
                percent(states.bytes_stored / states.bytes_raw),
            ]
            for states in facts.states
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
    step: Annotated[int, typer.Option(help="Step of a checkpoint to go on from.")],
    out: Annotated[Path, typer.Option(help="Folder to create; its name becomes the release name.")],
    base_model: Annotated[
        str | None, typer.Option(help="OWNER/NAME of that model on the Hub, for the card.", callback=_require_utf8)
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a project that trains on from a checkpoint of a release."""
    from pipeline.build.fork import fork as make_fork
    from pipeline.build.init import checkout, refuse_taken

    refuse_taken(out)  # now, and not after a state was rebuilt
    release = _open_release(address)
    state = _with_bytes(release, release.states_at(model, [step]))[step]
    made = make_fork(str(address), state, out, checkout(), base_model)
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
def forget(
    address: Address,
    document: Annotated[
        list[str] | None, typer.Option(help="Id of a document to forget; may be repeated.", callback=_require_all_utf8)
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Name of a source to forget; may be repeated.", callback=_require_all_utf8)
    ] = None,
    match: Annotated[
        str | None, typer.Option(help="Forget every training document that contains this.", callback=_require_utf8)
    ] = None,
    why: Annotated[
        str | None, typer.Option(help="With --out: the reason, for the certificate.", callback=_require_utf8)
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder to create for the project that forgets; the new release gets its name."),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            help="Successor that has forgotten documents of this release: check its certificate.",
            callback=_require_address,
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
    release = _open_release(address, False)
    if compare is not None:
        _compare_successor(release, _open_release(compare, False), add_note, as_json)
        return
    found = forgetting.touched(release, document or [], source or [], match)
    if not out:
        if as_json:
            print(json.dumps(found.to_json()))
        else:
            _say("\n".join(forgetting.told(found)))
            _table(forgetting.COLUMNS, forgetting.costs(found))
        return
    from pipeline.build.forget import refuse_unexplained, successor
    from pipeline.build.init import checkout, refuse_taken

    refuse_taken(out)  # now, and not after states were rebuilt
    refuse_unexplained(why or "")
    states = [_with_bytes(release, release.states_at(model.name, [model.clean]))[model.clean] for model in found.models]
    made = successor(address, release, states, found.ids_alone(), found.sources, why or "", out, checkout())
    if as_json:
        print(json.dumps(made._asdict() | {"folder": str(made.folder)}))
        return
    folder = shlex.quote(str(made.folder))
    if made.uncommitted:
        again = f"git -C {folder} commit --message 'Forget documents'"
        note(f"note: all files are staged but not committed: {made.uncommitted}; fix that, then run: {again}")
    _say(f"{out}: {made.release} {made.version} without {forgetting.count(len(found.documents), 'document')}")
    for name, step in made.states.items():
        _say(f"{name}: goes on from step {step}")
    _say(f"next: cd {folder} && make setup && source .venv/bin/activate && make release")


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
            _say(fault)
        _say(f"{'differs' if faults else 'same'}: {what}, computed again from {release.name} {release.version}")
        if written:
            _say(f"{written}: says so to readers; publish it beside the release")
    sys.exit(1 if faults else 0)


@app.command()
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
    _say(
        f"{out}: commit {packed.commit}, {packed.packages} packages, {packed.artefacts} artefacts; "
        f"{packed.files} files, {in_bytes(packed.bytes)}\n"
        f"rebuild it anywhere: python{sys.version_info.major}.{sys.version_info.minor} {out}/thaw.py OUT"
    )


@app.command()
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


@app.command()
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
        _say_lines(report.lines(address))
    sys.exit(report.exit_code)


@app.command()
def lint(
    address: Annotated[
        str,
        typer.Argument(
            help="Address of a series of checkpoints: hf://OWNER/NAME, a folder, s3://, a list of links, a release.",
            callback=_require_address,
        ),
    ],
    weights: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Two checkpoints, by name or step, the earlier first: how far weights moved. Reads both."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="With --weights: recipe of the training, such as those in recipes/.")
    ] = None,
    peak_rate: Annotated[
        float | None, typer.Option(min=0, help="With --weights: the highest learning rate of the training.")
    ] = None,
    beta2: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --weights: beta2 of AdamW (default: the recipe's, or 0.95)."),
    ] = None,
    updates: Annotated[
        int | None, typer.Option(min=1, help="With --weights: updates between the two, if steps do not count them.")
    ] = None,
    links: Annotated[bool, typer.Option("--links", help="Ask every file of weights for its first byte.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Print Markdown, ready for a bug report.")] = False,
    as_json: Json = False,
) -> None:
    """Say what is wrong with anybody's series of checkpoints, from metadata alone.

    Exit codes: 0, nothing found; 1, findings, or revisions that could not be read; 2, misuse.
    """
    from pipeline.series import report as reporting
    from pipeline.series.displacement import Rates, read_recipe
    from pipeline.series.lint import lint as look

    if report and as_json:
        raise EverystepError("lint: give either --report or --json")
    if weights is None and any(value is not None for value in (recipe, peak_rate, beta2, updates)):
        raise EverystepError(
            "lint: --recipe, --peak-rate, --beta2 and --updates need --weights; name two checkpoints with it"
        )
    if recipe is not None and beta2 is not None:
        raise EverystepError("lint: give either --recipe or --beta2; a recipe has its own")
    rates = Rates(recipe=read_recipe(recipe) if recipe else None, peak=peak_rate, beta2=beta2, updates=updates)
    linted = look(address, weights, rates, links)
    if as_json:
        print(json.dumps(reporting.to_json(linted)))
    elif report:
        _say_lines(reporting.markdown(linted))
    else:
        _say_lines(reporting.heading(linted))
        if linted.findings:
            _say()
            _table(reporting.HEADER, reporting.rows(linted))
        _say_lines(reporting.ending(linted))
    sys.exit(1 if linted.findings else 0)


@app.command()
def sign(
    address: Address,
    key: Annotated[Path, typer.Option(help="Private key, as `everystep keys new` writes it.")],
    commit: Annotated[
        str | None, typer.Option(help="Commit of the project that built the release, for the statements.")
    ] = None,
    passphrase_file: Annotated[
        Path | None, typer.Option(help="File with the passphrase of the key (default: ask, if it has one).")
    ] = None,
) -> None:
    """Verify a release and sign it: every byte, and what went into data and models and came out."""
    from pipeline.audit.verify import verify as check_release
    from pipeline.release.release import Release
    from pipeline.signing.keys import key_id, read_private
    from pipeline.signing.sign import sign as sign_release
    from pipeline.signing.statements import checked_commit

    if commit is not None:
        checked_commit(commit)
    private = read_private(key, lambda: _passphrase(passphrase_file, confirm=False))
    report = check_release(address)
    if report.exit_code:
        for line in report.lines(address):
            note(line)
        note("error: not signed, because of the above")
        sys.exit(report.exit_code)
    files = sign_release(Release.open(address), private, commit)
    _say(f"{address}: signed by {key_id(private.public_key())}, {len(files)} files below {Path(files[0]).parent}")


@keys.callback()
def _keys() -> None:
    """Make the keys that sign releases."""


@keys.command("new")
def keys_new(
    out: Annotated[Path, typer.Option(help="Folder to create, for the two keys.")],
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Ask for a passphrase for the private key.")] = False,
    passphrase_file: Annotated[Path | None, typer.Option(help="File with the passphrase, without asking.")] = None,
) -> None:
    """Make a pair of keys: private.pem, which only you can read, and public.pem, for readers."""
    from pipeline.signing.keys import PRIVATE, PUBLIC, new_keys

    protected = passphrase or passphrase_file is not None
    made = new_keys(out, _passphrase(passphrase_file, confirm=True) if protected else None)
    _say(f"{out}: key {made}")
    _say(f"sign with {out / PRIVATE}, and keep it secret; give readers {out / PUBLIC}, where they trust you")


def _passphrase(file: Path | None, confirm: bool) -> bytes:
    """The passphrase in the first line of a file, or from the terminal."""
    if file is not None:
        return read_small(file).partition(b"\n")[0].removesuffix(b"\r")
    if not sys.stdin.isatty():
        raise EverystepError("the key has a passphrase: name the file that holds it with --passphrase-file")
    typed: str = typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return typed.encode()


@app.command()
def pull(
    address: Address,
    out: Annotated[Path, typer.Option(help="Folder to create; several checkpoints get a folder each inside it.")],
    model: OnlyModel = None,
    step: Annotated[
        list[int] | None, typer.Option(help="Step of a checkpoint; may be repeated (default: the last).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every stored checkpoint of the model.")] = False,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="With --all, the virtual ones too: the training is repeated.")
    ] = False,
    follow_links: FollowLinks = False,
) -> None:
    """Write verified checkpoints as folders that transformers loads."""
    from pipeline.audit.pull import pull as pull_checkpoints

    if everything and step:
        raise EverystepError("pull: give either --step or --all")
    if virtual and not everything:
        raise EverystepError("pull: --virtual adds to --all; a single virtual checkpoint is pulled by its --step")
    release = _open_release(address, follow_links)
    model = model or _only_model(release)
    stored = list(release.states(model))
    steps = stored if everything else sorted({*step}) if step else stored[-1:]
    if virtual:
        steps = sorted([*steps, *release.model(model).virtual_steps()])
    several = everything or len(steps) > 1
    found = _with_bytes(release, release.states_at(model, steps))
    states = {f"step{step}" if several else ".": state for step, state in found.items()}
    pull_checkpoints(release, states, out)
    for name, state in states.items():
        _say(f"{out / name}: {model} {state.revision}" + ("" if several else f"; {_how_to_load(out)}"))
    if several:
        _say(_how_to_load(out / list(states)[-1]))


@app.command()
def digest(
    folder: Annotated[Path, typer.Argument(help="Folder that `pull` or `average` wrote, or a copy of it from a hub.")],
    as_json: Json = False,
) -> None:
    """Compute the digest of record from the weights in a pulled folder, and compare it with its `everystep.json`."""
    from dataclasses import asdict

    from pipeline.audit.import_model import digest_folder

    found = digest_folder(folder)
    same = found.weights_digest == found.promised
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        what = f"{found.model} {found.revision}" if found.revision else f"a mean of {found.model}"
        _say(f"{'same' if same else 'differs'}: the weights in {folder} {'are' if same else 'are not'} those of {what}")
        _say(found.weights_digest if same else f"{found.weights_digest}, and everystep.json says {found.promised}")
    sys.exit(0 if same else 1)


@app.command()
def average(
    address: Address,
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    last: Annotated[
        int | None, typer.Option(min=2, help="Number of stored checkpoints to average, counted from the last.")
    ] = None,
    step: Annotated[
        list[int] | None, typer.Option(help="Step of a checkpoint to average instead; give it twice at least.")
    ] = None,
    model: OnlyModel = None,
    follow_links: FollowLinks = False,
) -> None:
    """Write the mean of a model's last checkpoints, or of chosen ones, as `pull` does."""
    from pipeline.audit.average import average as average_checkpoints

    if (last is None) == (not step) or (step and len({*step}) < 2):
        raise EverystepError("average: give either --last, or --step twice at least")
    release = _open_release(address, follow_links)
    model = model or _only_model(release)
    trained = [each for each in release.states(model) if each > 0]
    if last is not None and last > len(trained):
        raise EverystepError(
            f"--last {last}: {model} has {len(trained)} checkpoints after step 0, which is untrained: "
            f"{', '.join(map(str, trained))}"
        )
    steps = sorted({*step}) if step else trained[-last:] if last else []
    if 0 in steps:
        raise EverystepError("--step 0: is untrained; average later steps")
    states = [*_with_bytes(release, release.states_at(model, steps)).values()]
    average_checkpoints(release, states, out)
    revisions = ", ".join(state.revision for state in states)
    _say(f"{out}: {model}, mean of {revisions}; {_how_to_load(out)}")


@app.command()
def sample(
    address: Trained,
    model: Model,
    step: Annotated[int | None, typer.Option(help="Step of a checkpoint (default: the last).")] = None,
    prompt: Annotated[
        str, typer.Option(help="Text to continue (default: start a new document).", callback=_require_utf8)
    ] = "",
    tokens: Annotated[int, typer.Option(min=1, help="Maximum number of tokens.")] = 64,
    temperature: Annotated[
        float, typer.Option(min=0, help="Sampling temperature; 0: the most likely token.")
    ] = TEMPERATURE,
    top_k: Annotated[int, typer.Option(min=1, help="Sample from the K most likely tokens.")] = TOP_K,
    seed: Annotated[int, typer.Option(min=0, max=2**53 - 1, help="The same seed gives the same text.")] = SEED,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Continue a text with one verified checkpoint."""
    _require_torch("sample")
    from dataclasses import asdict

    from pipeline.formats.samples import ENOUGH
    from trainer.sample import Request
    from trainer.sample import sample as continue_text

    release = _open(address, follow_links)
    step = max(release.states(model)) if step is None else step
    state = _with_bytes(release, release.states_at(model, [step]))[step]
    request = Request(prompt=prompt, tokens=tokens, temperature=temperature, top_k=top_k, seed=seed)
    show = (lambda piece: None) if as_json else _show_text
    answer = continue_text(state, request, show)
    if as_json:
        print(json.dumps(asdict(answer)))
        return
    print()
    if answer.ended != ENOUGH:
        note(f"note: stopped at the {answer.ended}, after {len(answer.token_ids)} of {tokens} tokens")


@app.command()
def evaluate(
    address: Annotated[
        str,
        typer.Argument(
            help="Folder or address of a release, or a folder with a model of Hugging Face.", callback=_require_address
        ),
    ],
    tasks: Annotated[
        str, typer.Option(help="Names of tasks, such as arc_easy,piqa, or all.", callback=_require_utf8)
    ] = "all",
    model: OnlyModel = None,
    step: Annotated[int | None, typer.Option(help="Step, stored or virtual (default: the last stored).")] = None,
    items: Annotated[
        int | None, typer.Option(min=1, help="Most items of a task (default: those of the release, or of params.yaml).")
    ] = None,
    artefact: Annotated[
        Path | None, typer.Option(help="Folder with the artefact of the items (default: fetch what is pinned).")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to create for the scores.")] = None,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Score one checkpoint on tasks, as the stage score does, with standard errors."""
    _require_torch("evaluate")
    from pipeline.base.params import load_params
    from pipeline.formats.manifests import TasksMade, path_of
    from pipeline.release.metrics import PAPERS_ORDER
    from pipeline.stages.tasks.again import items_again
    from pipeline.stages.tasks.definitions import STOCK

    if out is not None and os.path.lexists(out):
        raise EverystepError(f"--out {out}: already exists; name a new folder")
    is_folder = Path(address, "config.json").is_file()
    if is_folder and (model is not None or step is not None):
        raise EverystepError(f"evaluate: {address} holds one model; --model and --step choose one of a release")
    release = None if is_folder else _open_release(address, follow_links)
    known = [*STOCK]
    if release is not None and path_of(TasksMade).as_posix() in release.files:
        known = [*release.manifest(TasksMade).tasks]
    known.sort(key=lambda name: PAPERS_ORDER.index(name) if name in PAPERS_ORDER else len(PAPERS_ORDER))
    names = known if tasks == "all" else list(dict.fromkeys(tasks.split(",")))
    params = load_params() if release is None else release.params()
    made = items_again(names, items, params, release, artefact)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets
    from trainer.scored import score_folder, score_state, write_scored

    if release is None:
        scored = score_folder(Path(address), made)
    else:
        model = model or _only_model(release)
        wanted = max(release.states(model)) if step is None else step
        scored = score_state(_with_bytes(release, release.states_at(model, [wanted]))[wanted], made)
    if out is not None:
        write_scored(scored, out)
    if as_json:
        scores = [score.to_json() for score in scored.scores]
        print(json.dumps({"model": model or address, "revision": scored.revision, "scores": scores}))
        return
    _say(f"{model or address} {scored.revision}\n")
    header = ["task", "metric", "value", "standard error", "chance", "items", "too long", ""]
    _table(header, [_told_score(score) for score in scored.scores])


def _told_score(score: "Score") -> list[str]:
    """The cells of a metric."""
    numbers = [score.value, score.standard_error, score.chance]
    told = ["" if number is None else f"{number:.4f}" for number in numbers]
    noise = "within noise of chance" if score.within_noise else ""
    return [score.task, score.metric, *told, f"{score.items:,}", f"{score.too_long:,}", noise]


@app.command()
def losses(
    address: Trained,
    model: Model,
    step: Annotated[list[int], typer.Option(help="Step of a checkpoint, stored or virtual; may be repeated.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Write the losses of any checkpoints on the targets of a model's learning record, as Parquet."""
    _require_torch("losses")
    from trainer.losses import losses as write

    _refuse_folder(out)
    release = _open(address, follow_links)
    states = [*_with_bytes(release, release.states_at(model, sorted({*step}))).values()]
    targets = write(release, model, states, out)
    revisions = [state.revision for state in states]
    if as_json:
        print(json.dumps({"model": model, "revisions": revisions, "targets": targets, "out": str(out)}))
        return
    _say(f"{out}: {targets:,} losses of {model} at each of {', '.join(revisions)}")


@export.callback()
def _export() -> None:
    """Write checkpoints and rows of a release as files for other programs."""


@export.command("tokens")
def export_tokens(
    folder: Folder,
    layout: Annotated[
        Literal["mobilellm", "llm360", "npy", "megatron", "parquet", "mds"], typer.Option(help="Trainer to write for.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to create.")],
    nodes: Annotated[int | None, typer.Option(min=1, help="With mobilellm: nodes, of 8 ranks each.")] = None,
    chunks: Annotated[int | None, typer.Option(min=1, help="With llm360: chunks, one per checkpoint.")] = None,
    digits: Annotated[int, typer.Option(min=1, max=9, help="With llm360: digits in a file name; amber-train: 1.")] = 3,
    global_batch: Annotated[int | None, typer.Option(min=1, help="Rows per step (default: the minimum).")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Number of steps to write (default: one epoch).")] = None,
) -> None:
    """Write the verified training rows, in the published order, as the files that other trainers read."""
    from pipeline.audit.export_arrays import export_arrays
    from pipeline.audit.export_rows import export_llm360, export_mobilellm

    if ((nodes is None) is (layout == "mobilellm")) or ((chunks is None) is (layout == "llm360")):
        raise EverystepError("export tokens: give --nodes with --layout mobilellm, --chunks with --layout llm360")
    release = _open(folder)
    if layout == "mobilellm":
        done = export_mobilellm(release, out, nodes or 1, global_batch, steps)
    elif layout == "llm360":
        done = export_llm360(release, out, chunks or 1, digits, global_batch, steps)
    else:
        done = export_arrays(release, out, layout, global_batch, steps)
    files = f"{done.files} file{'s' * (done.files > 1)}"
    _say(
        f"{out}: {done.rows:,} rows in {files}, {done.steps:,} steps of {done.global_batch}; "
        f"{done.left_out:,} rows of the epoch are left out\n{_how_to_read(done, out)}"
    )


def _how_to_read(done: "Exported", out: Path) -> str:
    width, path = done.width, str(out)
    match done.layout:
        case "npy":
            array = f"numpy.memmap({f'{path}/train.bin'!r}, dtype={done.dtype!r}, mode='r').reshape(-1, {width})"
            return f"row i is {array}[i]; OLMo-core reads it with sequence_length={width}, dtype=numpy.{done.dtype}"
        case "megatron":
            return f"row i is megatron.core.datasets.indexed_dataset.IndexedDataset({f'{path}/train'!r})[i]"
        case "parquet":
            return f"row i is datasets.load_dataset({path!r}, split='train')[i]['input_ids']"
        case "mds":
            return f"row i is streaming.StreamingDataset(local={path!r}, batch_size=1)[i]['tokens']"
    recipe = (
        f"a recipe reads it with layout: {done.layout}, width: {width}, seed: {done.seed}, "
        f"global_batch: {done.global_batch}"
    )
    if done.layout != "llm360":
        return recipe
    return (
        f"{recipe}\nthe trainers of Amber and MobiLlama read it with TRAIN_EXAMPLES_PER_CHUNK = "
        f"{done.rows // done.files}, N_CHUNKS = {done.files}"
    )


@export.command("gguf")
def export_gguf(
    address: Address,
    out: Annotated[Path, typer.Option(help="File to create.")],
    model: OnlyModel = None,
    step: Annotated[int | None, typer.Option(help="Step, stored or virtual (default: the last stored).")] = None,
    dtype: Annotated[Literal["f32", "f16"], typer.Option(help="Numbers of the matrices.")] = "f32",
    follow_links: FollowLinks = False,
) -> None:
    """Write one verified checkpoint, with its tokenizer, as a GGUF file for llama.cpp."""
    if not find_spec("gguf"):
        raise EverystepError(f"export gguf: needs the package gguf; {how_to_install('gguf')}")
    from pipeline.audit.export_gguf import export_gguf as write_gguf

    release = _open_release(address, follow_links)
    model = model or _only_model(release)
    wanted = max(release.states(model)) if step is None else step
    state = _with_bytes(release, {wanted: release.state(model, wanted)})[wanted]
    write_gguf(release, state, out, dtype)
    _say(f"{out}: {model} {state.entry.revision}, {dtype}, {out.stat().st_size / 1e6:,.1f} MB")


@app.command()
def trace(
    address: Address,
    model: Model,
    step: Annotated[int | None, typer.Option(help="Print the documents in the batch of this step.")] = None,
    document: Annotated[
        str | None, typer.Option(help="Print the steps that saw this document.", callback=_require_utf8)
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="With --step: print the rows, decoded.")] = False,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print the documents of a step, or its text, or the steps of a document."""
    from pipeline.audit import trace as tracing

    if (step is None) == (document is None):
        raise EverystepError("trace: give either --step or --document")
    if text and step is None:
        raise EverystepError("trace: --text prints the rows of a step; give --step too")
    release = _open_release(address, follow_links)
    if text and step is not None:
        _trace_text(release, model, step, as_json)
        return
    if step is not None:
        spans = tracing.trace_step(release, model, step)
        if as_json:
            print(json.dumps(spans))
            return
        header = ["sample", "row", "ids", "source", "licence", "document"]
        header += [""] if any("forgotten" in span for span in spans) else []
        rows = [
            [str(s["sample"]), str(s["row"]), f"{s['start']}..{s['stop']}", s["source"], s["license"], s["id"]]
            + (["forgotten" if s["forgotten"] else ""] if "forgotten" in s else [])
            for s in spans
        ]
        _table(header, rows)
        return
    found = tracing.trace_document(release, model, str(document))
    if as_json:
        print(json.dumps(found))
    else:
        _say(_tell(found))


def _trace_text(release: "Release", model: str, step: int, as_json: bool) -> None:
    from dataclasses import asdict

    from pipeline.audit.trace_text import step_texts

    rows = step_texts(release, model, step)
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        for piece in row.pieces:
            _say(
                f"--- sample {row.sample}, row {row.row}, ids {piece.start}..{piece.stop}: {piece.id} ({piece.license})"
            )
            _say(piece.text)
    note("all ids are decoded: the first of a row is only an input, the last only a target; bytes not UTF-8 are U+FFFD")


Query = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The text.", callback=_require_utf8)]
Ids = Annotated[str | None, typer.Option(help="Token ids instead of a text, such as 17,4,256.")]
Until = Annotated[int | None, typer.Option(help="Count only what the model had read by this step.")]
SearchedModel = Annotated[
    str | None, typer.Option("--model", help="Name of a model, for --until.", callback=_require_utf8)
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Number of lines to show.")]


@app.command()
def search(
    address: Address,
    text: Query = None,
    ids: Ids = None,
    until: Until = None,
    model: SearchedModel = None,
    limit: Limit = 10,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print where a text is in the training rows: documents, licences, rows, and the first step that read each."""
    from pipeline.search.told import Question, tell_search

    _say_told(tell_search(_open_release(address, follow_links), Question(text, ids, model, until, limit)), as_json)


@app.command()
def count(
    address: Address,
    text: Query = None,
    ids: Ids = None,
    until: Until = None,
    model: SearchedModel = None,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print how often a text is in the training rows, or how often a model had read it at a step."""
    from pipeline.search.told import Question, tell_count

    _say_told(tell_count(_open_release(address, follow_links), Question(text, ids, model, until)), as_json)


@app.command("next")
def next_ids(
    address: Address,
    text: Query = None,
    ids: Ids = None,
    score: Annotated[
        bool, typer.Option("--score", help="Print how probable each token of the text is after those before it.")
    ] = False,
    until: Until = None,
    model: SearchedModel = None,
    limit: Limit = 10,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print what follows a text in the training rows: the next tokens, with counts and probabilities."""
    from pipeline.search.told import Question, tell_next, tell_score

    tell = tell_score if score else tell_next
    _say_told(tell(_open_release(address, follow_links), Question(text, ids, model, until, limit)), as_json)


@app.command()
def explain(
    address: Address,
    model: OnlyModel = None,
    text: Annotated[str | None, typer.Option(help="A text to explain.", callback=_require_utf8)] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="A text that the model continues; what it writes is explained.", callback=_require_utf8),
    ] = None,
    step: Annotated[int | None, typer.Option(help="Step of the checkpoint (default: the last).")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="With --prompt: number of tokens to write.")] = 64,
    density: Annotated[float, typer.Option(min=0, max=1, help="Spans to show for each token of the text.")] = 0.05,
    most_places: Annotated[int, typer.Option(min=0, help="Leave out spans at more places; 0: no limit.")] = 10,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Places to show for each span.")] = 10,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print which spans of a text are in the rows that a checkpoint had read: documents, licences, counts, steps."""
    from pipeline.search.explain import Rules
    from pipeline.search.query import encoded
    from pipeline.search.timeline import timeline_of
    from pipeline.search.told import tell_explain

    if (text is None) == (prompt is None):
        raise EverystepError("explain: give either --text or --prompt")
    release = _open_release(address, follow_links)
    model = model or _only_model(release)
    step = max(release.states(model)) if step is None else step
    timeline = timeline_of(release, model, step, "--step")
    ids = encoded(release, text) if text is not None else _continued(release, model, step, str(prompt), tokens)
    _say_told(
        tell_explain(release, ids, timeline, Rules(density=density, most_places=most_places or None, places=limit)),
        as_json,
    )


def _continued(release: "Release", model: str, step: int, prompt: str, tokens: int) -> list[int]:
    """The most likely continuation of a prompt, as ids."""
    _require_torch("explain --prompt")
    from trainer.sample import Request, sample

    state = _with_bytes(release, release.states_at(model, [step]))[step]
    request = Request(prompt=prompt, tokens=tokens, temperature=0, top_k=1, seed=0)
    return sample(state, request, lambda piece: None).token_ids


def _say_told(told: "Told", as_json: bool) -> None:
    if as_json:
        print(json.dumps(told.tree))
        return
    _say("\n".join(told.lines))
    if told.rows:
        _say()
        _table(told.header, told.rows)


@app.command()
def diff(
    a: Annotated[
        str,
        typer.Argument(
            help="Release at any address, project, dvc.lock, folder with safetensors, or ADDRESS@MODEL:STEP.",
            callback=_require_a_place,
        ),
    ],
    b: Annotated[str, typer.Argument(help="The same, to compare with.", callback=_require_a_place)],
    most: Annotated[int, typer.Option("--list", min=0, help="Differences of each kind to list.")] = 5,
    moments: Annotated[
        bool, typer.Option("--moments", help="Of two checkpoints, compare the moments tensor by tensor too.")
    ] = False,
    metadata: Annotated[bool, typer.Option("--metadata", help="Read no rows, tables or tensors.")] = False,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print what differs between two builds or two checkpoints, where first, and why."""
    from pipeline.compare.builds import ReleaseBuild
    from pipeline.compare.checkpoints import StateSide
    from pipeline.compare.report import compare_sides
    from pipeline.compare.sides import open_pair
    from pipeline.release.rungs import Rung

    sides = open_pair(a, b, follow_links)
    for address, side in zip((a, b), sides, strict=True):
        if isinstance(side, ReleaseBuild):
            note(f"{address}: {side.release.standing(Rung.FILES)}")
        elif isinstance(side, StateSide):
            note(f"{address}: {side.state.release.standing(Rung.FILES)}")
            _with_bytes(side.state.release, {side.state.step: side.state})
    answer = compare_sides(sides, most, moments, metadata)
    if as_json:
        print(json.dumps(answer.tree))
    else:
        _say_lines(answer.lines)
    sys.exit(0 if answer.same else 1)


@app.command()
def replay(
    address: Trained,
    model: Annotated[
        str | None,
        typer.Option(help="Name of a model; with --evaluation all are the default.", callback=_require_utf8),
    ] = None,
    start: Annotated[int | None, typer.Option("--from", help="Step of a checkpoint to start from.")] = None,
    stop: Annotated[int | None, typer.Option("--to", help="Step to train to.")] = None,
    evaluation: Annotated[
        bool, typer.Option("--evaluation", help="Compute losses, samples and scores of checkpoints instead.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Repeat a stretch of training, or the evaluation, and compare every digest or number."""
    _require_torch("replay")
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
    _with_bytes(release, {start: state_at(release, model, start)})
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets
    outcome = replay_stretch(release, model, start, stop)
    if as_json:
        print(json.dumps(asdict(outcome)))
    elif outcome.first_difference is None:
        _say(f"same: {model}, steps {start} to {stop}, {outcome.digests_compared} digests of all weights compared")
        note(release.standing(Rung.REPLAYED))
    else:
        _say(f"differs: {model}, first at step {outcome.first_difference}: {outcome.detail}")
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
    states = {name: [*_with_bytes(release, release.states_at(name, of_it)).values()] for name, of_it in steps.items()}
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
            _say(f"differs: {fault}")
        if not faults:
            _say(f"same: losses and samples of {sum(compared.values())} checkpoints of {', '.join(models)}")
            if choices:
                _say(f"same: {choices:,} log-likelihoods of their scores")
            note(release.standing(Rung.REPLAYED))
    sys.exit(1 if faults else 0)


@app.command()
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
    _require_torch("transcript")
    from pipeline.formats.transcript import write
    from pipeline.release.release import Release
    from trainer.dispute.run import record

    _refuse_folder(out)
    recorded = record(Release.open(address), model, step, opened).transcript
    if opened is not None and opened >= len(recorded.operations):
        last = len(recorded.operations) - 1
        raise EverystepError(f"--open {opened}: the operations of this step are 0 to {last}; nothing was written")
    write(out, recorded)
    if as_json:
        print(json.dumps({"model": model, "step": step, "operations": len(recorded.operations), "root": recorded.root}))
    else:
        _say(f"{out}: {model}, step {step}, {len(recorded.operations):,} operations")
        _say(f"root {recorded.root}")


@app.command()
def dispute(
    a: Annotated[
        str | None, typer.Argument(help="Release, project or transcript of one side.", callback=_require_address)
    ] = None,
    b: Annotated[str | None, typer.Argument(help="The same for the other side.", callback=_require_address)] = None,
    model: OnlyModel = None,
    release: Annotated[
        str | None,
        typer.Option(help="Release whose step this machine trains, if neither side is one.", callback=_require_address),
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

    _require_torch("dispute")
    reference = None if release is None else Release.open(release)
    if check is not None:
        if a is not None or model is not None or out is not None:
            raise EverystepError("dispute: --check takes all but --release from the evidence; give it without sides")
        _check_evidence(check, reference, as_json)
    if a is None or b is None:
        raise EverystepError("dispute: give two sides, each a release, a project or a transcript, or --check EVIDENCE")
    _refuse_folder(out)
    opened = [sides.open_side(side) for side in (a, b)]
    names = [side.head.model for side in opened if isinstance(side, Transcript)]
    if model is None:
        model = names[0] if names else _only_model(next(side for side in opened if isinstance(side, Release)))
    found = sides.dispute(opened[0], opened[1], model, reference, out)
    if as_json:
        print(json.dumps(_plain(asdict(found))))
    else:
        _tell_dispute(found, a, b, out)
    sys.exit(0 if found.step is None else 1)


def _refuse_folder(out: Path | None) -> None:
    """Refuse a folder in the place of a file to write, now and not after the work."""
    if out is not None and out.is_dir():
        raise EverystepError(f"--out {out}: is a folder; name a file in it")


def _plain(tree: Any) -> Any:
    """Turn the typed parts of a tree into JSON."""
    if isinstance(tree, dict):
        return {key: _plain(value) for key, value in tree.items()}
    return tree.to_json() if hasattr(tree, "to_json") else tree


def _tell_dispute(found: "Outcome", a: str, b: str, out: Path | None) -> None:
    from trainer.dispute.compare import place

    if found.step is None:
        what = f"{found.operations:,} operations of a step" if found.operations else "every step and stored state"
        _say(f"same: {found.model}, {what}")
        return
    if found.finding is None:
        _say(f"differs: {found.model}, first at step {found.step}: {found.keys}")
        _say(f"this machine gets {_whose(found.machine)}")
        for who, address in (("A", a), ("B", b)):
            if who != found.machine:
                arguments = f"--model {found.model} --step {found.step} --out {who.lower()}.jsonl"
                _say(f"{who} writes the step down where it was trained: everystep transcript {address} {arguments}")
        _say("then give the transcript in place of the release, to name the operator")
        return
    finding = found.finding
    shown = finding.operation or finding.other
    _say(f"differs: {found.model}, step {found.step}, operation {finding.number:,} of {found.operations:,}")
    if shown is not None:
        _say(f"  operator  {shown.operator}")
        _say(f"  where     {place(shown)}")
    _say(f"  tensor    {finding.tensor}")
    _say(f"  {finding.kind:<9} {finding.detail}")
    if found.machine is not None:
        _say(f"this machine agrees with {found.machine}")
    if found.evidence_bytes is not None:
        _say(f"{out}: {found.evidence_bytes:,} bytes of evidence; to check it: everystep dispute --check {out}")
    elif out is not None:
        _say(f"no evidence: {found.no_evidence}")


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
        _say(f"{evidence.model}, step {evidence.step}, operation {evidence.number:,}: {place(operation)}")
        _say(f"  operator  {operation.operator}")
        _say(f"  tensor    {describe(operation.writes[evidence.output])}")
        _say(f"  A         transcript {evidence.a.transcript}")
        _say(f"  B         transcript {evidence.b.transcript}")
        _say(f"right: {verdict.right}")
        if verdict.right == "both":
            names = f"A {operation.operator}, B {evidence.b.operation.operator}"
            _say(f"each computed its own operator right ({names}); the code of the run decides which one it is")
    sys.exit(0 if verdict.right in ("A", "B") else 1)


@app.command()
def audit(
    address: Address,
    sample: Annotated[int, typer.Option(min=1, help="Number of stretches to replay.")],
    beacon: Annotated[str, typer.Option(help="Public number, in hex, that chooses them.", callback=_require_utf8)],
    beacon_source: Annotated[
        str | None, typer.Option(help="What the beacon is, for the receipt.", callback=_require_utf8)
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
    _require_torch("audit")
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
        _require_utf8(name)
    release = _require_release(Release.open(address), address)
    number = Beacon.from_json({"value": parse_beacon(beacon), "source": beacon_source}, "--beacon-source")
    plan = plan_audit(release, model or release.models(), number.value, sample)
    enter_class_of(release, plan.chosen)
    private = None if key is None else read_private(key, lambda: _passphrase(passphrase_file, confirm=False))
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
            _say(line)
        if audited.exit_code == 0:
            note(release.standing(Rung.REPLAYED))
    sys.exit(audited.exit_code)


@app.command()
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
    release = _open_release(address, follow_links)
    if inside is not None and not inside.is_dir():
        raise EverystepError(f"--in {inside}: no such folder")
    with nullcontext(inside.resolve()) if inside else receipts_beside(release) as folder:
        found = check_receipts(release, folder, pinned)
    if as_json:
        print(json.dumps(found.to_json()))
    else:
        _say_lines(found.lines(address))
    sys.exit(found.exit_code)


@app.command()
def serve(
    address: Address,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes any free one.", show_default=True)
    ] = 8765,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Serve a release to the browsers of this machine, with its page, until Ctrl-C."""
    from pipeline.audit.serve import Served, page_of, running

    release = _open_release(address, follow_links)
    with running(Served(release, address), port) as server:
        page = page_of(server)
        print(json.dumps({"page": page}) if as_json else page, flush=True)
        note("only this machine can see it; Ctrl-C stops")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("stopped")


@app.command()
def publish(
    address: Annotated[
        Path, typer.Argument(metavar="RELEASE", help="Folder of a release, in the project that built it.")
    ],
    to: Annotated[str, typer.Option(help="Folder, s3://BUCKET/PATH, or hf://OWNER/NAME.")],
    key: Annotated[Path | None, typer.Option(help="Private key to sign with (default: it is signed already).")] = None,
    as_json: Json = False,
) -> None:
    """Check a release, upload it, and compare every byte with what the store then has.

    Nothing goes out unless each checkpoint is the one that was trained, its validation loss comes out again, the
    licences are allowed, the project is committed, and commit and lock are signed. Run again, it goes on.
    """
    _require_torch("publish")
    from dataclasses import asdict

    from pipeline.base.errors import Differs
    from pipeline.publish.hub import publish_to_hub
    from pipeline.publish.refusals import committed, refusals, unsigned
    from pipeline.publish.upload import publish as upload
    from pipeline.signing.keys import read_private
    from pipeline.signing.sign import sign as sign_release
    from pipeline.stores.address import open_store
    from trainer.probe import probe

    release = _open_release(str(address))
    faults = list(refusals(release))
    if not faults:
        faults = [fault for model in release.models() for fault in probe(release, model)]
    if not faults:
        if key is not None:
            sign_release(release, read_private(key, lambda: _passphrase(None, confirm=False)), committed(release))
        faults = list(unsigned(release))
    if faults:
        lines = [*faults[:20], *([f"... and {len(faults) - 20} more"] if len(faults) > 20 else [])]
        raise Differs("\n".join([*lines, "nothing was published"]))
    if to.startswith("hf://"):
        on_hub = publish_to_hub(release, to)
        if as_json:
            print(json.dumps(asdict(on_hub)))
            return
        _say(
            f"{to}: published {release.name} {release.version} in {len(on_hub.repositories)} repositories, "
            f"{on_hub.revisions} checkpoints, {on_hub.commits} commits; the Hub was asked for {on_hub.compared:,} files"
        )
        return
    done = upload(release, open_store(to))
    if as_json:
        print(json.dumps(asdict(done)))
        return
    _say(
        f"{to}: published {release.name} {release.version}, {done.files:,} files, {done.bytes / 1e6:,.1f} MB; "
        f"{done.uploaded:,} were uploaded, {done.told:,} compared with the store's own SHA-256, "
        f"{done.read_back:,} read back"
    )
    _say(f"sha256 of release.json: {done.root_sha256}")


def _require_torch(what: str) -> None:
    if not find_spec("torch"):
        raise EverystepError(f"{what}: needs torch, which a reader's installation lacks; {how_to_install('train')}")


def _with_bytes(release: "Release", states: "dict[int, State]") -> "dict[int, State]":
    """Give back these states of one model, once the virtual ones among them are rebuilt or found in the cache."""
    from pipeline.release.release import Virtual

    missing = [state for state in states.values() if isinstance(state, Virtual) and not state.is_rebuilt()]
    if missing:
        _require_torch(f"step {missing[0].step} is virtual; rebuilding it")
        from trainer.rebuild import rebuild

        on_pipe = signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets
        rebuild(release, missing)
        signal.signal(signal.SIGPIPE, on_pipe)
    return states


def _open_release(address: str, follow_links: bool = False) -> "Release":
    """Open a release; a project, or a release that has lost its root manifest, is refused."""
    return _require_release(_open(address, follow_links), address)


def _require_release(release: "Release", address: str) -> "Release":
    if release.version is None:
        fix = "`make release` builds a release from a project; one that was fetched must be fetched whole"
        raise EverystepError(f"{address}: has no release.json; {fix}")
    return release


def _open(address: str, follow_links: bool = False) -> "Release":
    """Open a release or a project, and say on which rung answers from its files stand."""
    from pipeline.release.release import Release
    from pipeline.release.rungs import Rung

    release = Release.open(address, follow_links)
    note(f"{address}: {release.standing(Rung.FILES)}")
    return release


def _only_model(release: "Release") -> str:
    names = release.models()
    if len(names) != 1:
        raise EverystepError(f"--model: name one of {', '.join(names)}, the models of {release.address}")
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
    if found.get("forgotten"):
        place = f"its place in {where}" if where else "its place"
        return f"{found['id']}: forgotten; {place} holds filler, and no step has read it"
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
