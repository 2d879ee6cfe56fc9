"""What docs/lint.md shows of series that are not ours is what the command prints."""

from pathlib import Path
from typing import get_args

from pipeline.series.findings import Kind
from tests.pipeline.series import published
from tests.releases import everystep
from tests.servers.hub import Hub
from tests.sessions import ROOT, blocks

PAGE = Path("docs/lint.md")
SHOWN = {
    "text 205": ("EleutherAI/pythia-2.8b", published.issue_205),
    "text 206": ("EleutherAI/pythia-12b", published.issue_206),
}


def test_every_kind_of_finding_is_documented() -> None:
    table = (ROOT / PAGE).read_text("utf-8").partition("## What is found")[2].partition("\n## ")[0]
    said = {
        kind for line in table.splitlines() if line.startswith("| ") for kind in line.split("|")[1].strip().split(", ")
    }
    assert set(get_args(Kind)) <= said


def test_findings_in_the_documents_are_those_of_the_command(hub: Hub) -> None:
    text = (ROOT / PAGE).read_text("utf-8")
    for kind, (name, build) in SHOWN.items():
        hub.put_branches("models", name, build())
        (block,) = blocks(text, kind)
        assert block.text == f"$ everystep lint hf://{name}\n{everystep('lint', f'hf://{name}').out}"
