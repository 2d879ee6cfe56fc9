"""Two sides or a series beside each other: `diff`, `lint`."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.base.console import note
from pipeline.base.errors import EverystepError
from pipeline.cli.arguments import FollowLinks, Json, require_a_place, require_address
from pipeline.cli.common import say, say_lines, show_table, with_bytes

commands = typer.Typer()


@commands.command()
def diff(
    a: Annotated[
        str,
        typer.Argument(
            help="Release at any address, project, dvc.lock, folder with safetensors, or ADDRESS@MODEL:STEP.",
            callback=require_a_place,
        ),
    ],
    b: Annotated[str, typer.Argument(help="The same, to compare with.", callback=require_a_place)],
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
            with_bytes(side.state.release, {side.state.step: side.state})
    answer = compare_sides(sides, most, moments, metadata)
    if as_json:
        print(json.dumps(answer.tree))
    else:
        say_lines(answer.lines)
    sys.exit(0 if answer.same else 1)


@commands.command()
def lint(
    address: Annotated[
        str,
        typer.Argument(
            help="Address of a series of checkpoints: hf://OWNER/NAME, a folder, s3://, a list of links, a release.",
            callback=require_address,
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
        say_lines(reporting.markdown(linted))
    else:
        say_lines(reporting.heading(linted))
        if linted.findings:
            say()
            show_table(reporting.HEADER, reporting.rows(linted))
        say_lines(reporting.ending(linted))
    sys.exit(1 if linted.findings else 0)
