"""The page docs/reference/published-results.md, from the data file beside it.

python -m tests.published_results    write the page again
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.formats.canonical import parse
from pipeline.release.card import table

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
INTRODUCTION = """# Published results

What the papers of these architectures published, under the right headings: every number here was read in its source, and each table says where, at which revision, and what the source leaves open. The same is in [published-results.json](published-results.json), with the names that lm-evaluation-harness gives to tasks and metrics. This page is written from that file by `python -m tests.published_results`, and a test compares the two.

**Numbers of different tables are not comparable.** They differ in

- *shots*: what is called a zero-shot table can have columns with 5, 10 or 25 examples before the question;
- *metric*: `acc` compares the log-likelihoods of the choices, `acc_norm` those divided by their lengths. In Pythia's own files the two differ by up to 9 points for the same model and task;
- *harness*: prompts and data changed between its versions, and MobileLLM used a pipeline that nobody else has;
- *tokens before the text*: OpenELM's evaluation adds a begin token, others do not say.

Nor do they say anything about the demo's models, which are far smaller and read far less.

A heading says the shots if there are any, and the metric where the source states it.
"""


def page(data: dict[str, Any]) -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(part for each in data["tables"] for part in _section(each))])


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
    yield _as_markdown(header, [[row[0], *(f"{value:.{digits}f}" for value in row[1:])] for row in rows])
    for note in each["notes"]:
        yield f"\n{note}"
    yield ""


def _source(source: dict[str, Any]) -> str:
    where = source["repository"] + (f" at `{source['revision'][:7]}`" if source["revision"] else "")
    read = "read there" if source["read"] == "original" else "read in a copy, not checked against the original"
    return f"Source: {source['title']}, of {where} ({source['paper']}); {read}."


def _as_markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table whose numbers are aligned to the right."""
    lines = table(["model"], [[row[0]] for row in rows]).split("\n")
    ends = [" | ".join(header[1:]), " | ".join("---:" for _ in header[1:]), *(" | ".join(row[1:]) for row in rows)]
    return "\n".join(f"{line} {end} |" for line, end in zip(lines, ends, strict=True))


if __name__ == "__main__":
    PAGE.write_text(page(parse(DATA.read_bytes(), DATA)))
