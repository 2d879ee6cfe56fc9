"""The tables of docs/reference/published-results.md, from the data file beside it.

python -m tests.published_results    write the tables again
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.formats.canonical import parse
from pipeline.release.markdown import bare_table

FOLDER = Path(__file__).parent.parent / "docs" / "reference"
DATA, PAGE = FOLDER / "published-results.json", FOLDER / "published-results.md"
HEADINGS = {
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "boolq": "BoolQ",
    "piqa": "PIQA",
    "social_iqa": "SIQA",
    "hellaswag": "HellaSwag",
    "openbookqa": "OBQA",
    "winogrande": "WinoGrande",
    "lambada_openai": "LAMBADA",
    "sciq": "SciQ",
    "truthfulqa": "TruthfulQA",
    "mmlu": "MMLU",
    "crows_pairs": "CrowS-Pairs",
    "race": "RACE",
}
BEGIN, END = "<!-- tables -->\n", "<!-- end of tables -->\n"


def with_tables(page: str, data: dict[str, Any]) -> str:
    """The page with a section for each table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    sections = "\n".join(part for each in data["tables"] for part in _section(each))
    return f"{before}{BEGIN}\n{sections}\n{END}{after}"


def column_name(column: dict[str, Any]) -> str:
    """A heading: the task, its metric if the source states it, its shots if it has any."""
    shots = f"{column['shots']} shots" if column["shots"] else ""
    told = ", ".join(filter(None, [column["metric"] and f"`{column['metric']}`", shots]))
    return HEADINGS[column["task"]] + (f" ({told})" if told else "")


def _section(each: dict[str, Any]) -> Iterator[str]:
    yield f"## {each['title']}\n"
    yield f"{_source(each['source'])} Harness: {each['harness']}.\n"
    has_average = any("average" in row for row in each["rows"])
    header = ["model", *map(column_name, each["columns"]), *(["average"] if has_average else [])]
    rows = [[row["model"], *row["values"], *([row["average"]] if has_average else [])] for row in each["rows"]]
    digits = max(len(str(value).partition(".")[2]) for row in rows for value in row[1:])
    cells = [[row[0], *(f"{value:.{digits}f}" for value in row[1:])] for row in rows]
    yield bare_table(header, cells, [False, *(True for _ in header[1:])])
    for note in each["notes"]:
        yield f"\n{note}"
    yield ""


def _source(source: dict[str, Any]) -> str:
    where = source["repository"] + (f" at `{source['revision'][:7]}`" if source["revision"] else "")
    read = "read there" if source["read"] == "original" else "read in a copy, not checked against the original"
    return f"Source: {source['title']}, of {where} ({source['paper']}); {read}."


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(), parse(DATA.read_bytes(), DATA)))
