"""The table of forgeries in docs/reference/forgeries.md, from the forgeries that the tests make.

python -m tests.forgeries    write the table again
"""

from collections import Counter
from pathlib import Path

from pipeline.release.rungs import Rung
from tests.pipeline.audit.test_forged_data import FORGERIES as OF_DATA
from tests.pipeline.audit.test_forged_models import FORGERIES as OF_MODELS

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "forgeries.md"
BEGIN, END = "<!-- forgeries -->\n", "<!-- end of forgeries -->\n"
COMMANDS = {
    "verify": "`everystep verify`",
    "replay": "`everystep replay`",
    "replay --evaluation": "`everystep replay --evaluation`",
    "make reproduce": "`make reproduce`",
}


def table() -> str:
    """The table, as Markdown."""
    forgeries = [("data", forgery) for forgery in OF_DATA] + [("models", forgery) for forgery in OF_MODELS]
    counted = Counter(forgery.rung for _, forgery in forgeries)
    counts = ", ".join(f"{counted[rung]} on rung {rung.value} ({rung.word})" for rung in Rung if counted[rung])
    lines = [
        f"{len(forgeries)} forgeries: {counts}.",
        "",
        "| forgery | of | lowest rung | command |",
        "| --- | --- | --- | --- |",
    ]
    ordered = sorted(forgeries, key=lambda pair: pair[1].rung)
    lines += [
        f"| {forgery.name} | {of} | {Rung(forgery.rung).value} {Rung(forgery.rung).word} | {COMMANDS[forgery.command]} |"
        for of, forgery in ordered
    ]
    return "\n" + "\n".join(lines) + "\n\n"


def with_table(page: str) -> str:
    """The page with the table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
