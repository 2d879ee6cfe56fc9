"""What a hostile text costs: the steps and calls that it takes are counted, and grow no faster than the text."""

import ast
import importlib
import random
import re
import sys
import unicodedata
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from pipeline.base.params import load_section
from pipeline.blocks import normalize as normalize_block
from pipeline.blocks import repetition
from pipeline.blocks.block import Block
from pipeline.blocks.contamination import EvaluationIndex
from pipeline.blocks.encoding import repaired
from pipeline.blocks.normalize import normalize
from pipeline.blocks.quality import C4, FineWeb, c4, fineweb
from pipeline.blocks.repetition import MAX_PROBES, bounds
from pipeline.blocks.shingles import FACTOR
from pipeline.blocks.steps import make_blocks
from pipeline.stages.filter import FilterParams
from tests.backtracking import alphabet, count_steps
from tests.project import ROOT

REPEATS, SATURATED = 20, 100
"""How often a text repeats itself, then twice as often. A bound in a pattern, such as {0,63}, shows at the second."""
TEXTS, STEPS = 25, 8_000
"""Texts that are drawn for a pattern, fewer when they have taken so many steps."""
CALLS = {f"re.{name}" for name in ("match", "search", "fullmatch", "findall", "finditer", "split", "sub")}
LIBRARIES = ("ftfy.chardata:UTF8_DETECTOR_RE", "datatrove.pipeline.filters.c4_filters:CITATION_REGEX")
PAGES = C4(
    min_num_sentences=5,
    min_words_per_line=3,
    max_word_length=1000,
    remove_citations=True,
    filter_no_terminal_punct=False,
    filter_lorem_ipsum=True,
    filter_javascript=True,
    filter_curly_bracket=True,
    filter_policy=True,
)
LINES = FineWeb(
    line_punct_thr=0.0,
    line_punct_exclude_zero=False,
    short_line_thr=1.0,
    short_line_length=30,
    char_duplicates_ratio=1.0,
    new_line_ratio=0.3,
)


class Text(NamedTuple):
    """What a hostile text begins with, repeats, and ends with."""

    before: str
    repeated: str
    after: str


HOSTILE = [
    Text("", " ", ""),
    Text("", " ", "a"),
    Text('"', '\\"', ""),
    Text('"', '\\"', "\\\n"),
    Text("", "[", ""),
    Text("a@", "b.co@", "'"),
    Text("<li>", " <li> ", ""),
    Text("a", "\u0301\u0323", ""),
]


def patterns() -> Iterator[tuple[str, re.Pattern[str], bool]]:
    """Every regular expression of the program, and whether it is asked about whole texts alone."""
    for path in sorted([*ROOT.glob("pipeline/**/*.py"), *ROOT.glob("trainer/*.py")]):
        source = path.read_text()
        where = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for name, value in vars(importlib.import_module(where)).items():
            for each in value.values() if isinstance(value, dict) else [value]:
                if isinstance(each, re.Pattern):
                    yield f"{where}.{name}", each, f"{name}.fullmatch(" in source
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func) in CALLS
                and isinstance(node.args[0], ast.Constant)
            ):
                whole = ast.unparse(node.func) == "re.fullmatch"
                yield f"{where}:{node.lineno}", re.compile(str(node.args[0].value)), whole
    for address in LIBRARIES:
        name, _, attribute = address.partition(":")
        yield address, getattr(importlib.import_module(name), attribute), False


def texts(pattern: re.Pattern[str], draw: random.Random) -> Iterator[Text]:
    """Those that are known, and some of characters that the pattern tells apart."""
    yield from HOSTILE
    characters = alphabet(pattern)
    for _ in range(TEXTS):
        yield Text(*("".join(draw.choices(characters, k=draw.randint(low, 3))) for low in (0, 1, 0)))


@pytest.fixture
def deep() -> Iterator[None]:
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    yield
    sys.setrecursionlimit(before)


EVERY = {
    (pattern.pattern, pattern.flags, whole): (name, pattern, whole) for name, pattern, whole in patterns()
}.values()


@pytest.mark.parametrize(("pattern", "whole"), [each[1:] for each in EVERY], ids=[each[0] for each in EVERY])
@pytest.mark.usefixtures("deep")
def test_a_text_twice_as_long_takes_a_regular_expression_twice_the_steps(pattern: re.Pattern[Any], whole: bool) -> None:
    budget = STEPS
    for text in texts(pattern, random.Random(1)):
        for repeats in (REPEATS, SATURATED):
            pair: list[Any] = [text.before + text.repeated * number + text.after for number in (repeats, 2 * repeats)]
            if isinstance(pattern.pattern, bytes):
                pair = [content.encode("latin-1", "replace") for content in pair]
            once, twice = (count_steps(pattern, content, whole) for content in pair)
            if is_linear := twice <= 2.2 * once + 100:
                break
        assert is_linear, text
        budget -= twice
        if budget < 0 and text not in HOSTILE:
            break


# What stands around the expressions: calls are counted


def calls(block: Block, text: str) -> int:
    """Calls of functions, those of C included, that a block makes."""
    count = 0

    def see(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(see)
    try:
        block(text)
    finally:
        sys.setprofile(None)
    return count


RULES = load_section(FilterParams, "filter", ROOT / "params.yaml")
INDEX = EvaluationIndex(13, np.array([7], dtype=np.uint64), lambda place: ("quiz", str(place)))
STEPS_OF_CLEANING = dict(make_blocks(RULES, ["en"], INDEX)) | {"c4": c4(PAGES), "fineweb": fineweb(LINES)}


@pytest.mark.parametrize("step", STEPS_OF_CLEANING)
@pytest.mark.parametrize(
    "repeated",
    [
        "\u00c3" + "\u0192" * 40,
        "\u0192",
        "\u00ed\u00c3 ",
        " ",
        "\n",
        ".",
        "a'",
        "'em",
        "a@b.co ",
        "8.8.8.8, ",
        "e\u0301\u0323",
        "\u03a3'",
    ],
)
def test_a_text_twice_as_long_takes_a_step_of_cleaning_twice_the_calls(step: Any, repeated: str) -> None:
    for number in (400, 1600):  # a bound of words or pieces shows at the second
        once, twice = (
            calls(STEPS_OF_CLEANING[step], "The \u00c3" + repeated * (times // len(repeated)) + " end")
            for times in (number, 2 * number)
        )
        if is_linear := twice <= 2.2 * once + 100:
            break
    assert is_linear, (once, twice)


def test_layers_of_mojibake_are_taken_off_a_bounded_number_of_times() -> None:
    """ftfy alone takes a letter off each time: 2,000 looks at 2,000 letters."""
    assert calls(repaired, "\u00c3" + "\u0192" * 2000) < 1500


def test_marks_are_handed_to_the_library_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sorts by insertion: a mark moves past each before it that is of a higher class."""
    moves = 0

    def counted(form: Literal["NFC", "NFD"], text: str) -> str:
        nonlocal moves
        above: list[int] = []
        for mark in (mark for character in text for mark in unicodedata.normalize("NFD", character)):
            rank = unicodedata.combining(mark)
            above = [*above, rank] if rank else []
            moves += sum(each > rank for each in above)
        return unicodedata.normalize(form, text)

    library = SimpleNamespace(normalize=counted, combining=unicodedata.combining)
    for run in ("\u0301\u0323", "\u0344\u0323", "\u0323\u0301\u3099\u0334"):
        text = "b\u00e9" + run * 300 + "c"
        expected = unicodedata.normalize("NFC", text)
        with monkeypatch.context() as patch:
            patch.setattr(normalize_block, "unicodedata", library)
            assert normalize(text) == expected
    assert moves < 3 * 3000


def test_a_table_of_runs_is_searched_a_bounded_number_of_times() -> None:
    """Words made to share one place of the table: a search among all of them would take half the square."""
    words = colliding(800)
    characters = np.frombuffer("".join(words).encode("utf-32-le"), dtype=np.uint32)
    lengths = np.array([*map(len, words)], dtype=np.int64)
    most, again = bounds(characters, lengths, [1])
    assert most[0] >= max(map(len, words)) and again[0] >= 0
    looked_at = repetition._bound(characters, lengths, np.array([1]), *np.zeros((2, 1), dtype=np.int64))
    assert len(words) * MAX_PROBES / 2 < looked_at <= len(words) * MAX_PROBES


def colliding(number: int) -> list[str]:
    """Different words of three letters whose hashes begin alike."""
    bits = (2 * number - 1).bit_length()
    codes = np.arange(97, 97 + 150, dtype=np.uint64)
    one, two, three = np.meshgrid(codes, codes, codes, indexing="ij")
    factor, last = np.uint64(FACTOR), np.uint64(1)
    values = (((one + last) * factor + two + last) * factor + three + last) * factor >> np.uint64(64 - bits)
    alike = np.flatnonzero(values.ravel() == values.ravel()[0])[:number]
    assert len(alike) == number
    return ["".join(chr(int(code.ravel()[place])) for code in (one, two, three)) for place in alike.tolist()]
