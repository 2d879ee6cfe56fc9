"""The page of a release, `report/index.html`: one file that loads nothing, written from the evidence as every paper is.

It says what went in, how it was trained, what came out, and what of this is proved. Only the explorer needs JavaScript.
"""

import hashlib
import re
from base64 import b64encode
from collections.abc import Callable

from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.report.explorer import explorer_section
from pipeline.release.report.inputs import inputs_section
from pipeline.release.report.markup import Html, element, joined, link, listed
from pipeline.release.report.outcome import outcome_section
from pipeline.release.report.overview import colophon, overview
from pipeline.release.report.proof import proof_section
from pipeline.release.report.style import style_sheet
from pipeline.release.report.training import training_section

SECTIONS: dict[str, tuple[str, Callable[[Evidence], str]]] = {
    "inputs": ("What went in", inputs_section),
    "training": ("How it was trained", training_section),
    "outcome": ("What came out", outcome_section),
    "explorer": ("Explorer", explorer_section),
    "proof": ("What is proved", proof_section),
}
"""Name of each section of the page → its place in the contents, and its function."""


def write_report(evidence: Evidence) -> bytes:
    """The page as bytes."""
    sections = [Html(render(evidence)) for _, render in SECTIONS.values()]
    body = element(
        "body",
        element("a", "Skip to the text", href="#main", class_="skip"),
        element("header", *overview(evidence)),
        element("nav", _contents(), aria_label="Contents", class_="contents"),
        element("main", *sections, id="main", tabindex="-1"),
        element("footer", *colophon(evidence)),
    )
    style = Html(f"<style>{style_sheet()}</style>")
    head = joined(
        [
            Html('<meta charset="utf-8"/>'),
            Html(f'<meta http-equiv="Content-Security-Policy" content="{policy(style + body)}"/>'),
            Html('<meta name="viewport" content="width=device-width,initial-scale=1"/>'),
            Html('<meta name="referrer" content="no-referrer"/>'),
            Html('<link rel="icon" href="data:,"/>'),
            element("title", f"{evidence.release.name} {evidence.release.version}"),
            style,
        ],
        "\n",
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'.encode()


def policy(page: str) -> str:
    """A content security policy under which a browser runs the scripts and applies the styles of `page`, and no others.

    Nothing is loaded from anywhere; if there is a script, it may read files beside the page.
    """
    scripts, styles = _digests("script", page), _digests("style", page)
    rules = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "img-src data:", f"style-src {styles}"]
    return "; ".join([*rules, f"script-src {scripts}", "connect-src 'self'"] if scripts else rules)


def _digests(tag: str, page: str) -> str:
    """The contents of all elements of this name, as a policy names them."""
    contents = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page, re.S)
    digests = (b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _contents() -> Html:
    return listed((link(f"#{name}", title) for name, (title, _) in SECTIONS.items()), "ol")
