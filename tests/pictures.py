"""Pictures of the page of a release: `python -m tests.pictures` takes those in `docs/pictures/` again, from `release/`.

They look best where the fonts Inter and P052 are installed (Debian: fonts-inter, fonts-urw-base35).
"""

import io
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from pipeline.base.files import write_bytes
from tests.browser import running_browser
from tests.servers.web import serve_folder

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "pictures"
MAX_BYTES = 150_000
COLORS = (256, 128, 64)
"""Numbers of colours of a picture: the first with which it is small enough."""


class View(NamedTuple):
    """What a picture shows."""

    width: int
    height: int
    scheme: str
    at: str
    """What is at the top of it."""
    scale: float = 1


VIEWS = {
    "page-light": View(1180, 1000, "light", "body"),
    "page-dark": View(1180, 1000, "dark", "h3:has-text('Curves')"),
    "page-explorer": View(1180, 1000, "light", "#explorer"),
    "page-phone": View(360, 780, "light", "h3:has-text('What became of the documents')", 1.5),
}


def take(release: Path, folder: Path = FOLDER) -> None:
    """Write a picture of each view of the page of a release."""
    with serve_folder(release) as web, running_browser() as browser:
        for name, view in VIEWS.items():
            write_bytes(folder / f"{name}.png", _small(_shot(browser, f"{web.url}/report/index.html", view)))


def _shot(browser: Any, address: str, view: View) -> bytes:
    size = {"width": view.width, "height": view.height}
    context = browser.new_context(viewport=size, color_scheme=view.scheme, device_scale_factor=view.scale)
    page = context.new_page()
    page.goto(address)
    page.locator("#explorer-status").filter(has_text=re.compile(" read |Not shown")).wait_for()
    page.locator(view.at).first.evaluate("each => scrollTo(0, each.offsetTop - 24)")
    shot: bytes = page.screenshot()
    context.close()
    return shot


def _small(shot: bytes) -> bytes:
    """A PNG of few colours."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    for number in COLORS:
        file = io.BytesIO()
        picture.quantize(number, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if file.tell() <= MAX_BYTES:
            break
    return file.getvalue()


if __name__ == "__main__":
    take(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "release")
