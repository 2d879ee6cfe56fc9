"""A headless Chromium for tests of the page of a release: Playwright drives it, and axe-core looks for what keeps
people out.

Chromium is Debian's (`apt-get install chromium`); without it the tests are skipped. The rest is in `.venv/clients`.
"""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

LIBRARIES = Path(sys.prefix) / "clients" / "browser"
CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox",  # the tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",  # nothing is asked of anybody but the server under test
    "--disable-component-update",
    "--disable-sync",
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@contextmanager
def running_browser() -> Iterator[Any]:
    """A browser of Playwright until the block ends."""
    if LIBRARIES.is_dir() and str(LIBRARIES) not in sys.path:
        sys.path.append(str(LIBRARIES))
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS])
        yield browser
        browser.close()


def violations(page: Any) -> list[str]:
    """What axe-core finds on a page as it is now, one line for each rule and place."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]
