"""All commands as one program."""

import io
import signal
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from pipeline.base.console import exit_codes
from pipeline.cli import (
    building,
    checkpoints,
    comparing,
    contents,
    counterfactuals,
    disputes,
    exporting,
    proving,
    publishing,
    tracing,
)

app = typer.Typer(
    help="Rebuild, publish and prove open language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (
    contents,
    tracing,
    checkpoints,
    exporting,
    proving,
    counterfactuals,
    disputes,
    comparing,
    building,
    publishing,
):
    app.add_typer(group.commands)


def main() -> None:
    """Run a command; an error that a user can fix is one message and an exit code."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `everystep ... | head` ends like any Unix program
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    with exit_codes():
        app()


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
