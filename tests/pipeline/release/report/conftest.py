"""One browser for all tests of the page."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import running_browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium; a test that asks for it has the mark `needs_chromium`."""
    with running_browser() as started:
        yield started
