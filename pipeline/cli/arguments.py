"""Arguments and options that several commands take, and what is refused before a command runs."""

from typing import Annotated

import typer

from pipeline.base.console import printable


def require_utf8(text: str | None) -> str | None:
    """Refuse a text that is not UTF-8; Python hands its bytes over as half a surrogate pair each."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise typer.BadParameter(
            f"{printable(text or '')}: not UTF-8, as all names and texts of a release are"
        ) from error
    return text


def require_all_utf8(texts: list[str] | None) -> list[str] | None:
    """Refuse a list with a text that is not UTF-8."""
    for text in texts or []:
        require_utf8(text)
    return texts


def require_address(address: str | None) -> str | None:
    """Refuse an address that names nothing, or that pins nothing though it seems to."""
    from pipeline.release.rungs import pinned_root

    pinned_root(require_a_place(address) or "")
    return address


def require_a_place(address: str | None) -> str | None:
    """Refuse an empty one, which would be the folder of now."""
    if address is not None and not address.strip():
        raise typer.BadParameter("is empty; name a folder or an address, such as . for this folder")
    return address


Address = Annotated[str, typer.Argument(help="Folder or address of a release.", callback=require_address)]
Trained = Annotated[
    str,
    typer.Argument(
        help="Folder or address of a release, or folder of a project with trained models.", callback=require_address
    ),
]
Folder = Annotated[
    str, typer.Argument(help="Folder or address of a release, or folder of a project.", callback=require_address)
]
Model = Annotated[str, typer.Option(help="Name of a model; `everystep show` lists them.", callback=require_utf8)]
OnlyModel = Annotated[
    str | None,
    typer.Option("--model", help="Name of a model (default: the only one there is).", callback=require_utf8),
]
FollowLinks = Annotated[bool, typer.Option("--follow-links", help="Read what links point at, as in the Hub's cache.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
