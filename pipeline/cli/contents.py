"""What is in a release: `show`, `duplicates`, `personal-data`, and `serve` for a browser."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.base.console import note
from pipeline.cli.arguments import Address, Folder, FollowLinks, Json, require_utf8
from pipeline.cli.common import open_release, open_release_or_project, say, show_table, with_commas

if TYPE_CHECKING:
    from pipeline.audit.show import Summary
    from pipeline.release.facts import SourceFacts

commands = typer.Typer()


@commands.command()
def show(address: Address, follow_links: FollowLinks = False, as_json: Json = False) -> None:
    """Print what is in a release: models, sources, licences, cleaning and removals."""
    from pipeline.audit.show import summarize

    facts = summarize(open_release(address, follow_links))
    if as_json:
        print(json.dumps(facts.to_json()))
    else:
        _show_facts(facts)


def _show_facts(facts: "Summary") -> None:
    from pipeline.release.markdown import listed, percent

    rows = facts.rows
    size = "" if facts.bytes is None else f", {facts.bytes / 1e6:,.1f} MB"
    say(f"{facts.name} {facts.version}: {facts.files:,} files{size}")
    for state in facts.ancestors:
        say(f"trained on from {state.model} at step {state.step} of {state.release} {state.version}")
    say(f"rows: {rows.train:,} to train on, {rows.read:,} of them read; {rows.validation:,} held out\n")
    show_table(
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
    show_table(
        ["model", "states", "stored", "virtual", "bytes stored", "of all raw", "share"],
        [
            [
                states.model,
                *map(with_commas, (states.stored + states.virtual, states.stored, states.virtual)),
                *map(with_commas, (states.bytes_stored, states.bytes_raw)),
                percent(states.bytes_stored / states.bytes_raw),
            ]
            for states in facts.states
        ],
    )
    show_table(
        ["source", "licence", "documents found", "kept", "to train on", "read", "tokens", "tokens read", "title"],
        [
            [source.name, source.license, *map(with_commas, _found_to_read(source)), source.title]
            for source in facts.sources
        ],
    )
    show_table(
        ["licence", "documents", "read", "tokens", "tokens read", "share of tokens", "of tokens read"],
        [
            [
                row.license,
                *map(with_commas, (row.documents, row.documents_read, row.tokens, row.tokens_read)),
                percent(row.share),
                percent(row.share_read),
            ]
            for row in facts.licenses
        ],
    )
    show_table(
        ["step of cleaning", "documents", "rewritten", "removed", "found"],
        [
            [
                step.step,
                *map(with_commas, (step.documents, step.rewritten, sum(step.removed.values()))),
                listed(step.counts),
            ]
            for step in facts.cleaning
        ],
    )
    removed = [(stage, *pair) for stage, reasons in facts.removed.items() for pair in sorted(reasons.items())]
    show_table(["stage", "removed because", "documents"], [[stage, reason, f"{n:,}"] for stage, reason, n in removed])


def _found_to_read(source: "SourceFacts") -> tuple[int, ...]:
    found, kept = source.documents_found, source.documents_kept
    return found, kept, source.documents, source.documents_read, source.tokens, source.tokens_read


@commands.command()
def duplicates(
    folder: Folder = ".",
    id: Annotated[
        str | None, typer.Option(help="Id of one removed document, to compare it.", callback=require_utf8)
    ] = None,
    largest: Annotated[int, typer.Option(min=1, help="Number of clusters to show.")] = 20,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print the largest clusters of duplicates, or compare one removed document with the one that was kept."""
    from dataclasses import asdict

    from pipeline.audit.duplicates import clusters, compare

    release = open_release_or_project(folder, follow_links)
    if id is not None:
        found = compare(release, id)
        if as_json:
            print(json.dumps(asdict(found)))
        else:
            say("\n".join(found.difference))
            say(f"\nsimilarity: {found.recorded} when it was removed, {found.measured} measured now on the words")
        sys.exit(0 if found.recorded == found.measured else 1)
    all_of_them = clusters(release)
    if as_json:
        print(json.dumps({"clusters": [asdict(cluster) for cluster in all_of_them[:largest]]}))
        return
    removed = sum(cluster.exact + cluster.near for cluster in all_of_them)
    say(f"{removed:,} documents are duplicates of {len(all_of_them):,} that were kept; the largest clusters:\n")
    rows = [[c.kept, f"{c.exact:,}", f"{c.near:,}", f"{c.least_similar:.3f}", c.examples[0]] for c in all_of_them]
    show_table(["kept", "exact", "near", "least similar", "for example"], rows[:largest])


@commands.command("personal-data")
def personal_data(
    folder: Folder = ".",
    largest: Annotated[int, typer.Option(min=1, help="Number of documents to show.")] = 20,
    follow_links: FollowLinks = False,
    as_json: Json = False,
) -> None:
    """Print where personal data was replaced, and how much of each kind."""
    from pipeline.audit.personal_data import replaced
    from pipeline.formats.tables import PERSONAL_DATA

    found = replaced(open_release_or_project(folder, follow_links), largest)
    if as_json:
        print(json.dumps(found._asdict()))
        return
    say(f"personal data was replaced in {sum(total['documents'] for total in found.sources):,} documents:\n")
    columns = ["documents", *PERSONAL_DATA]
    show_table(
        ["source", *columns], [[row["source"], *(f"{row[name]:,}" for name in columns)] for row in found.sources]
    )
    if found.documents:
        rows = [[row["id"], *(f"{row[kind]:,}" for kind in PERSONAL_DATA)] for row in found.documents]
        show_table(["document", *PERSONAL_DATA], rows)


@commands.command()
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

    release = open_release(address, follow_links)
    with running(Served(release, address), port) as server:
        page = page_of(server)
        print(json.dumps({"page": page}) if as_json else page, flush=True)
        note("only this machine can see it; Ctrl-C stops")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            note("stopped")
