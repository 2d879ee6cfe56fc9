"""Published results: the page is its data file, the averages are those of the columns, and the headings are right."""

from typing import Any

import pytest

from pipeline.formats.canonical import parse, pretty
from tests.published_results import DATA, PAGE, with_tables

RESULTS = parse(DATA.read_bytes(), DATA)
TABLES: dict[str, Any] = {each["id"]: each for each in RESULTS["tables"]}
OF_TWO_CHOICES = ("piqa", "winogrande")


def test_page_and_data_file_are_written_as_they_are_read() -> None:
    assert DATA.read_bytes() == pretty(RESULTS)
    assert PAGE.read_text() == with_tables(PAGE.read_text(), RESULTS), "run python -m tests.published_results"


@pytest.mark.parametrize("each", TABLES.values(), ids=TABLES)
def test_every_row_has_a_value_for_every_column_and_their_mean_as_average(each: dict[str, Any]) -> None:
    last_digit = 0.1 if each["id"] == "mobilellm" else 0.01  # half of it from the values, half from their mean
    for row in each["rows"]:
        assert len(row["values"]) == len(each["columns"])
        if "average" in row:
            assert sum(row["values"]) / len(row["values"]) == pytest.approx(row["average"], abs=last_digit)


def of_pythia(headings: list[str]) -> list[float]:
    """How far each two-choice score of a Pythia in MobileLLM's tables is from the nearer one in Pythia's own files."""
    own = {row["model"]: row["values"] for row in TABLES["pythia"]["rows"]}
    tasks = [column["task"] for column in TABLES["pythia"]["columns"]]
    return [
        min(abs(value - theirs) for theirs, name in zip(own[row["model"]], tasks, strict=True) if name == task)
        for row in TABLES["mobilellm"]["rows"]
        if row["model"] in own
        for value, task in zip(row["values"], headings, strict=True)
        if task in OF_TWO_CHOICES
    ]


def test_only_the_corrected_headings_of_mobilellm_fit_what_pythia_published_of_itself() -> None:
    corrected = [column["task"] for column in TABLES["mobilellm"]["columns"]]
    first = TABLES["mobilellm"]["first_published_as"]
    assert sorted(corrected) == sorted(first) and corrected != first
    assert len(of_pythia(corrected)) == 8 and max(of_pythia(corrected)) < 2.3  # as the page says
    assert min(of_pythia(first)) > 10


def test_the_metric_alone_moves_a_score_of_pythia_by_as_much_as_the_page_says() -> None:
    columns = [(column["task"], column["metric"]) for column in TABLES["pythia"]["columns"]]
    rows = [dict(zip(columns, row["values"], strict=True)) for row in TABLES["pythia"]["rows"]]
    tasks = [task for task, metric in columns if metric == "acc_norm"]
    moved = max(abs(row[task, "acc"] - row[task, "acc_norm"]) for row in rows for task in tasks)
    assert round(moved) == 9 and "differ by up to 9 points" in PAGE.read_text()
