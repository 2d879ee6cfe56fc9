"""The page of a release in a real browser: nothing keeps people out, nothing is asked of a network, no JavaScript."""

from pathlib import Path
from typing import Any

import pytest

from tests.browser import needs_chromium, violations

pytestmark = needs_chromium
PHONE, DESKTOP = {"width": 320, "height": 640}, {"width": 1280, "height": 900}


@pytest.fixture
def address(built_project: Path) -> str:
    return (built_project / "release/report/index.html").as_uri()


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nobody_is_kept_out_and_no_request_leaves(address: str, browser: Any, size: Any, scheme: str) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    asked: list[str] = []
    told: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(address)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert [url for url in asked if url != address and not url.startswith("data:")] == []
    assert told == []
    context.close()


def test_without_javascript_the_page_says_everything(address: str, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(address)
    for heading in ("What went in", "How it was trained", "What came out", "What is proved"):
        assert page.get_by_role("heading", name=heading, exact=True).is_visible()
    assert page.get_by_role("table", name="Sources: documents and tokens").is_visible()
    assert page.get_by_role("img", name="Learning rate").is_visible()
    page.get_by_text("checkpoints, step").first.click()
    assert page.get_by_role("region", name="Stored checkpoints of").first.is_visible()
    context.close()


def test_a_keyboard_reaches_the_text_and_what_scrolls(address: str, browser: Any) -> None:
    context = browser.new_context(viewport=PHONE)
    page = context.new_page()
    page.goto(address)
    page.keyboard.press("Tab")
    assert page.get_by_text("Skip to the text").is_visible()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "region"
    context.close()
