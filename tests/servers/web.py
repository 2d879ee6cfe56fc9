"""A static web server on this machine that answers ranges, counts, and breaks where a test says so.

`python -m http.server` knows no ranges; `plain=True` behaves as it does there.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from tests.servers.faults import Counted, Faults, Watched
from tests.servers.loopback import serve


@dataclass(frozen=True)
class Web:
    """A server that runs: `url` is the address of its folder, without a slash at the end."""

    url: str
    faults: Faults
    counted: Counted


@contextmanager
def serve_folder(folder: Path, faults: Faults | None = None, *, plain: bool = False) -> Iterator[Web]:
    """Serve the files in `folder`, and a list of links for each folder, until the block ends. Requests are of the
    kinds `file` and `folder`; `plain` servers answer a range with the whole file."""

    class Static(Watched):
        def respond(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            place = folder.joinpath(*parts)
            if ".." in parts or not place.exists() or self.command not in ("GET", "HEAD"):
                self.answer(404, b"")
            elif place.is_dir() and not self.path.endswith("/"):
                self.answer(301, b"", location=f"{self.path}/")
            elif place.is_dir():
                self.asked.kind = "folder"
                self.answer(200, _links(place), content_type="text/html; charset=utf-8")
            else:
                self.asked.kind = "file"
                if plain:
                    del self.headers["Range"]
                    self.answer_file(place)
                else:
                    self.answer_file(place, accept_ranges="bytes")

    Static.faults, Static.counted = faults or Faults(), Counted()
    with serve(Static) as url:
        yield Web(url, Static.faults, Static.counted)


def _links(folder: Path) -> bytes:
    """A page that links what is in a folder, for clients that follow links (`wget --recursive`)."""
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    lines = "".join(f'<a href="{quote(name)}">{escape(name)}</a><br>\n' for name in names)
    return f"<!DOCTYPE html>\n<html><body>\n{lines}</body></html>\n".encode()
