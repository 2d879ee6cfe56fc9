"""Tables for people: one row a line where there is room, and nothing lost where there is none."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.columns import table

HEADER = ["recipe", "parameters", "validation loss", "title"]
ROWS = [
    ["mobilellm", "1,443,968", "6.0491", "Plays of the first folio, in the spelling of the Oxford edition"],
    ["amber-7b", "6,738,415,616", "12.5", "plays/problems/measure-for-measure/act-iii/scene-ii"],
]


def test_without_a_width_each_row_is_one_line_with_every_cell_whole() -> None:
    lines = list(table(HEADER, ROWS))
    assert len(lines) == 2 + len(ROWS)
    for row, line in zip(ROWS, lines[2:], strict=True):
        assert all(cell in line for cell in row)


def test_columns_start_at_the_same_place_in_each_line() -> None:
    header, dashes, *rows = table(HEADER, ROWS)
    start = header.index("parameters")
    assert all(line[start - 1] == " " and line[start] != " " for line in (dashes, *rows))


def test_a_narrow_terminal_folds_words_and_never_figures() -> None:
    lines = list(table(HEADER, ROWS, width=60))
    assert max(map(len, lines)) <= 60
    assert "6,738,415,616" in "\n".join(lines)
    title = lines[0].index("title")
    folded = "".join(line[title:].strip() for line in lines[2:])
    assert folded.replace(" ", "") == "".join(row[3] for row in ROWS).replace(" ", "")


def test_columns_that_do_not_fit_follow_in_a_second_table_with_the_first_column() -> None:
    figures = [["a", *["1,006,632,960,000"] * 6], ["b", *["2"] * 6]]
    lines = list(table(["recipe", *(f"count{i}" for i in range(6))], figures, width=60))
    assert max(map(len, lines)) <= 60
    assert [line.split()[0] for line in lines if line] == ["recipe", "------", "a", "b"] * 3
    assert sum(line.count("1,006,632,960,000") for line in lines) == 6


def test_a_table_without_rows_is_its_header() -> None:
    assert list(table(["stage", "documents"], [], width=8)) == ["stage  documents", "-----  ---------"]


WORDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc", "Zs"]), min_size=1, max_size=40)


@settings(max_examples=40)
@given(st.data(), st.integers(1, 5), st.integers(20, 100))
def test_no_character_is_lost_at_any_width(data: st.DataObject, columns: int, width: int) -> None:
    header = data.draw(st.lists(WORDS, min_size=columns, max_size=columns))
    rows = data.draw(st.lists(st.lists(WORDS, min_size=columns, max_size=columns), max_size=4))
    shown = "".join("".join(table(header, rows, width)).split())
    for cell in (cell for row in rows for cell in row):
        for character in set(cell):
            assert shown.count(character) >= cell.count(character)
