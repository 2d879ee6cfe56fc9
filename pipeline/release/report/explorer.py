"""The explorer: the section of the page in which a reader picks a model and a step, or finds a document.

What it shows comes from files beside the page, by ranges (those of `pipeline.release.report.data`, and others that a
browser reads as they are); the page itself holds four facts, the script and the style. Without JavaScript, or opened
as a file, the section says what it needs.
"""

import hashlib
from base64 import b64encode
from functools import cache
from html import escape
from pathlib import Path

from pipeline.formats.canonical import canonical
from pipeline.release.disclosures.evidence import Evidence

HERE = Path(__file__).parent
SCRIPTS = ("ranges.js", "order.js", "contents.js", "view.js")
STYLE = "explorer.css"
SECTION = """\
<section id="explorer" aria-labelledby="explorer-title" data-facts="{facts}">
<style>
{style}</style>
<h2 id="explorer-title">Explorer</h2>
<p>Pick a model and a step: see the documents that the step read, the loss of each of their tokens, what the model
writes at that step, and what vouches for it. Or find a document, and see when each model read it.</p>
<p id="explorer-off" class="explorer-note">The explorer reads parts of files beside this page, so it needs JavaScript
and a web server: <code>everystep serve RELEASE</code>, or any other that serves this folder.</p>
<div id="explorer-on" hidden>
<h3>A document</h3>
<form id="explorer-find" role="search">
<label for="explorer-text">How its id begins, or words of its id
<input id="explorer-text" type="search" autocomplete="off" spellcheck="false"></label>
<button type="submit">Find</button>
</form>
<p id="explorer-found" role="status"></p>
<ul id="explorer-results"></ul>
<div id="explorer-document" aria-live="polite"></div>
<h3>A step</h3>
<div class="explorer-controls">
<label for="explorer-model">Model <select id="explorer-model">{models}</select></label>
<label for="explorer-step">Step <input id="explorer-step" type="number" inputmode="numeric"></label>
<span class="explorer-buttons"><button id="explorer-before" type="button">Step before</button>
<button id="explorer-after" type="button">Step after</button></span>
<label for="explorer-slider" class="explorer-wide">Any step <input id="explorer-slider" type="range"></label>
</div>
<div class="explorer-checkpoints"><span id="explorer-stored">Stored checkpoints:</span>
<ul id="explorer-checkpoints" aria-labelledby="explorer-stored"></ul></div>
<p id="explorer-status" role="status"></p>
<dl id="explorer-about" class="figures"></dl>
<h3>What this step read</h3>
<div id="explorer-batch"></div>
<h3>What the model writes</h3>
<div id="explorer-samples"></div>
<h3>What vouches for this step</h3>
<div id="explorer-verdict"></div>
</div>
<script type="module">
{script}</script>
</section>
"""


def explorer_section(evidence: Evidence) -> str:
    """The section as HTML, with its style and script."""
    names = [model.name for model in evidence.models]
    facts = {
        "models": names,
        "rows": evidence.rows.train,
        "vocabulary": evidence.vocabulary,
        "width": evidence.context + 1,
    }
    return SECTION.format(
        facts=escape(canonical(facts).decode()),
        models="".join(f"<option>{escape(name)}</option>" for name in names),
        script=script(),
        style=(HERE / STYLE).read_text("utf-8"),
    )


@cache
def script() -> str:
    """The script of the explorer."""
    return "\n".join((HERE / name).read_text("utf-8") for name in SCRIPTS)


def script_digest() -> str:
    """The script as a content security policy names it."""
    digest = hashlib.sha256(f"\n{script()}".encode()).digest()
    return f"sha256-{b64encode(digest).decode()}"
