"""The table of forgeries in docs/reference/forgeries.md, from the forgeries that the tests make.

python -m tests.forgeries    write the table again
"""

from collections import Counter
from pathlib import Path

from pipeline.release.rungs import Rung
from tests.pipeline.audit import test_forged_data, test_forged_models

FORGERIES = [
    *(("data", forgery) for forgery in test_forged_data.FORGERIES),
    *(("models", forgery) for forgery in test_forged_models.FORGERIES),
]
PAGE = Path(__file__).parent.parent / "docs" / "reference" / "forgeries.md"
BEGIN, END = "<!-- forgeries -->\n", "<!-- end of forgeries -->\n"
COMMANDS = {
    "verify": ("`everystep verify`", 14),
    "replay": ("`everystep replay`", 30),
    "replay --evaluation": ("`everystep replay`, with `--evaluation`", 27),
    "make reproduce": ("`make reproduce`", 331),
}
"""How each is written, and its seconds on the demo, as the page says how they were measured."""


def table() -> str:
    """The table, as Markdown."""
    counted = Counter(forgery.rung for _, forgery in FORGERIES)
    counts = ", ".join(f"{counted[rung]} on rung {rung.value} ({rung.word})" for rung in Rung if counted[rung])
    lines = [f"{len(FORGERIES)} forgeries: {counts}.", ""]
    lines += ["| forgery | of | lowest rung | command | seconds |", "| --- | --- | --- | --- | ---: |"]
    for of, forgery in sorted(FORGERIES, key=lambda pair: pair[1].rung):
        rung = Rung(forgery.rung)
        command, seconds = COMMANDS[forgery.command]
        lines.append(f"| {forgery.name} | {of} | {rung.value} {rung.word} | {command} | {seconds} |")
    return "\n" + "\n".join(lines) + "\n\n"


def with_table(page: str) -> str:
    """The page with the table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
