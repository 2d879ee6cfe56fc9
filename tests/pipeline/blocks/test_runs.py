"""Runs by number, and what is counted of them, against Python's own `split` and the library's expressions."""

import numpy as np
import pytest
from datatrove.pipeline.filters.gopher_quality_filter import STOP_WORDS
from datatrove.utils.text import PUNCTUATION_SET
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks import measures, runs
from pipeline.blocks.measures import measure
from pipeline.blocks.runs import Runs
from pipeline.blocks.words import split_words

BLANKS = [chr(code) for code in range(0x110000) if chr(code).isspace()]
TEXTS = st.text(st.characters() | st.sampled_from([*"ab.\u2026\u2022-# ", *BLANKS]), max_size=60)


@given(st.lists(TEXTS, max_size=4))
def test_equal_runs_have_the_same_number_and_others_another(texts: list[str]) -> None:
    table = Runs()
    numbers = [number for text in texts for number in table.number(text).tolist()]
    known = table.since(0)
    assert [known[number] for number in numbers] == [run for text in texts for run in text.split()]
    assert len(set(known)) == len(known) == len(table)


def test_all_blanks_of_python_part_runs() -> None:
    assert Runs().number("x".join(BLANKS)).tolist() == [0] * (len(BLANKS) - 1)
    others = [chr(code) for code in range(0x3100) if not chr(code).isspace()]
    assert len(Runs().number("".join(others))) == 1


def test_a_table_grows_within_a_text() -> None:
    table = Runs()
    text = " ".join(map(str, range(20_000)))
    first, again = table.number(text), table.number(text)
    assert first.tolist() == again.tolist() == [*range(20_000)]
    assert len(table.characters) <= 4 * len(text) + (1 << 14)


def test_a_run_that_finds_no_slot_gets_new_numbers() -> None:
    """Runs made to share one slot: no more than `MAX_PROBES` of them are searched for."""
    table = Runs()
    table._slots[:] = 1  # all slots hold run 0
    table.number("a")
    assert table.number("b b").tolist() == [1, 2]


@given(TEXTS)
def test_measures_are_those_of_the_words(text: str) -> None:
    found = measure(text)
    words = split_words(text)
    plain = [word for word in words if any(character not in PUNCTUATION_SET for character in word)]
    assert found.words == len(words)
    assert found.plain_words == len(plain)
    assert found.plain_characters == sum(map(len, plain))
    assert found.alphabetic_words == sum(any(map(str.isalpha, word)) for word in words)
    assert found.stop_words == len({*STOP_WORDS} & {*words})
    assert found.lengths.tolist() == [*map(len, words)]
    assert found.characters.tobytes().decode("utf-32-le", "surrogatepass") == "".join(words)
    lines = text.splitlines()
    assert found.bullets >= sum(line.lstrip().startswith(("\u2022", "-")) for line in lines)
    assert found.ellipses >= sum(line.rstrip().endswith(("...", "\u2026")) for line in lines)


def test_what_is_forgotten_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "REMEMBERED", 10)
    measures.measure.cache_clear()
    measurer = measures._Measurer()
    for start in range(0, 60, 7):
        text = " ".join(f"the w{n}." for n in range(start, start + 9))
        found, alone = measurer.measure(text), measures._Measurer().measure(text)
        assert found[:-2] == alone[:-2]
        assert np.array_equal(found.characters, alone.characters) and np.array_equal(found.lengths, alone.lengths)
        assert len(measurer._runs) <= 10 + 10
