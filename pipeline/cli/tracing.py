"""From text to documents, rows and steps: `trace`, `search`, `count`, `next`, `explain`."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.base.console import note
from pipeline.base.errors import EverystepError
from pipeline.cli.arguments import Address, FollowLinks, Json, Model, OnlyModel, require_utf8
from pipeline.cli.common import only_model, open_release, require_torch, say, show_table, with_bytes

if TYPE_CHECKING:
    from pipeline.release.release import Release
    from pipeline.search.told import Told

commands = typer.Typer()


@commands.command()
def trace(
    address: Address,
    model: Model,
    step: Annotated[int | None, typer.Option(help="Print the documents in the batch of this step.")] = None,
    document: Annotated[
        str | None, typer.Option(help="Print the steps that saw this document.", callback=require_utf8)
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
    release = open_release(address, follow_links)
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
        show_table(header, rows)
        return
    found = tracing.trace_document(release, model, str(document))
    if as_json:
        print(json.dumps(found))
    else:
        say(_tell(found))


def _trace_text(release: "Release", model: str, step: int, as_json: bool) -> None:
    from dataclasses import asdict

    from pipeline.audit.trace_text import step_texts

    rows = step_texts(release, model, step)
    if as_json:
        print(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        for piece in row.pieces:
            say(
                f"--- sample {row.sample}, row {row.row}, ids {piece.start}..{piece.stop}: {piece.id} ({piece.license})"
            )
            say(piece.text)
    note("all ids are decoded: the first of a row is only an input, the last only a target; bytes not UTF-8 are U+FFFD")


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


Query = Annotated[str | None, typer.Argument(metavar="[TEXT]", help="The text.", callback=require_utf8)]
Ids = Annotated[str | None, typer.Option(help="Token ids instead of a text, such as 17,4,256.")]
Until = Annotated[int | None, typer.Option(help="Count only what the model had read by this step.")]
SearchedModel = Annotated[
    str | None, typer.Option("--model", help="Name of a model, for --until.", callback=require_utf8)
]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Number of lines to show.")]


@commands.command()
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

    _say_told(tell_search(open_release(address, follow_links), Question(text, ids, model, until, limit)), as_json)


@commands.command()
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

    _say_told(tell_count(open_release(address, follow_links), Question(text, ids, model, until)), as_json)


@commands.command("next")
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
    _say_told(tell(open_release(address, follow_links), Question(text, ids, model, until, limit)), as_json)


@commands.command()
def explain(
    address: Address,
    model: OnlyModel = None,
    text: Annotated[str | None, typer.Option(help="A text to explain.", callback=require_utf8)] = None,
    prompt: Annotated[
        str | None,
        typer.Option(help="A text that the model continues; what it writes is explained.", callback=require_utf8),
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
    release = open_release(address, follow_links)
    model = model or only_model(release)
    step = max(release.states(model)) if step is None else step
    timeline = timeline_of(release, model, step, "--step")
    ids = encoded(release, text) if text is not None else _continued(release, model, step, str(prompt), tokens)
    _say_told(
        tell_explain(release, ids, timeline, Rules(density=density, most_places=most_places or None, places=limit)),
        as_json,
    )


def _continued(release: "Release", model: str, step: int, prompt: str, tokens: int) -> list[int]:
    """The most likely continuation of a prompt, as ids."""
    require_torch("explain --prompt")
    from trainer.sample import Request, sample

    state = with_bytes(release, release.states_at(model, [step]))[step]
    request = Request(prompt=prompt, tokens=tokens, temperature=0, top_k=1, seed=0)
    return sample(state, request, lambda piece: None).token_ids


def _say_told(told: "Told", as_json: bool) -> None:
    if as_json:
        print(json.dumps(told.tree))
        return
    say("\n".join(told.lines))
    if told.rows:
        say()
        show_table(told.header, told.rows)
