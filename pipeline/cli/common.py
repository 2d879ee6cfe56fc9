"""What several commands do: open what an address names, bring states, and print."""

import shutil
import signal
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.base.columns import table
from pipeline.base.console import note, printable
from pipeline.base.errors import EverystepError, how_to_install
from pipeline.base.files import read_small
from pipeline.formats.canonical import parse

if TYPE_CHECKING:
    from pipeline.release.release import Release, State


def say(text: str = "") -> None:
    """A line of a result for a person."""
    print(printable(text))


def say_lines(lines: Iterable[str]) -> None:
    """Lines of a result, each of which stays one line, whatever a name in it contains."""
    for line in lines:
        print(printable(line, keep=""))


def show_table(header: list[str], rows: list[list[str]]) -> None:
    """On a terminal within its width; into a pipe or a file one row a line, whatever its length."""
    rows = [[printable(cell, keep="") for cell in row] for row in rows]
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    print("\n".join([*table(header, rows, width), ""]))


def show_text(piece: str) -> None:
    """Print a piece of text at once. What a model says must not steer the terminal."""
    print(printable(piece), end="", flush=True)


def with_commas(number: int) -> str:
    return f"{number:,}"


def open_release(address: str, follow_links: bool = False) -> "Release":
    """Open a release; a project, or a release that has lost its root manifest, is refused."""
    return require_release(open_release_or_project(address, follow_links), address)


def require_release(release: "Release", address: str) -> "Release":
    if release.version is None:
        fix = "`make release` builds a release from a project; one that was fetched must be fetched whole"
        raise EverystepError(f"{address}: has no release.json; {fix}")
    return release


def open_release_or_project(address: str, follow_links: bool = False) -> "Release":
    """Open a release or a project, and say on which rung answers from its files stand."""
    from pipeline.release.release import Release
    from pipeline.release.rungs import Rung

    release = Release.open(address, follow_links)
    note(f"{address}: {release.standing(Rung.FILES)}")
    return release


def only_model(release: "Release") -> str:
    names = release.models()
    if len(names) != 1:
        raise EverystepError(f"--model: name one of {', '.join(names)}, the models of {release.address}")
    return names[0]


def with_bytes(release: "Release", states: "dict[int, State]") -> "dict[int, State]":
    """Give back these states of one model, once the virtual ones among them are rebuilt or found in the cache."""
    from pipeline.release.release import Virtual

    missing = [state for state in states.values() if isinstance(state, Virtual) and not state.is_rebuilt()]
    if missing:
        require_torch(f"step {missing[0].step} is virtual; rebuilding it")
        from trainer.rebuild import rebuild

        on_pipe = signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # processes talk over sockets
        rebuild(release, missing)
        signal.signal(signal.SIGPIPE, on_pipe)
    return states


def require_torch(what: str) -> None:
    if not find_spec("torch"):
        raise EverystepError(f"{what}: needs torch, which a reader's installation lacks; {how_to_install('train')}")


def refuse_folder(out: Path | None) -> None:
    """Refuse a folder in the place of a file to write, now and not after the work."""
    if out is not None and out.is_dir():
        raise EverystepError(f"--out {out}: is a folder; name a file in it")


def how_to_load(out: Path) -> str:
    remote = ", trust_remote_code=True" if list(out.glob("modeling_*.py")) else ""
    load = f"load it with transformers.AutoModelForCausalLM.from_pretrained({str(out)!r}{remote})"
    description = parse(read_small(out / "everystep.json"), out)["description"]
    if not description.get("attention_within_documents"):
        return load
    return f"{load}; a token saw only its own document in training: the README.md has the mask for rows of several"


def ask_passphrase(file: Path | None, confirm: bool) -> bytes:
    """The passphrase in the first line of a file, or from the terminal."""
    if file is not None:
        return read_small(file).partition(b"\n")[0].removesuffix(b"\r")
    if not sys.stdin.isatty():
        raise EverystepError("the key has a passphrase: name the file that holds it with --passphrase-file")
    typed: str = typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True)
    return typed.encode()
