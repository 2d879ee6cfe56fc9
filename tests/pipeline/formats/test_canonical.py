import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import canonical, parse, pretty
from tests.pipeline.formats.second_reader import canonical as canonical_by_hand
from tests.pipeline.formats.second_reader import indented as indented_by_hand
from tests.pipeline.formats.values import FLOATS, TEXTS, trees

DEEP = 100_000
UNWRITABLE: dict[str, Any] = {
    "NaN": float("nan"),
    "infinity": [float("inf")],
    "an integer past 2^53": {"n": 2**53},
    "bytes": b"x",
    "half a surrogate pair": "\ud800",
    "half a surrogate pair in a key": {"\udc00": 1},
    "a key that is no string": {1: 1, "a": 2},
    "an object": object(),
}


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@given(trees(TEXTS))
def test_canonical_form_is_the_one_of_the_document(value: Any) -> None:
    assert canonical(value).decode() == canonical_by_hand(value)


@given(trees(TEXTS))
def test_what_was_written_reads_back_and_writes_the_same_bytes(value: Any) -> None:
    line = canonical(value)
    assert parse(line) == value
    assert canonical(parse(line)) == line


@given(trees(TEXTS))
def test_indented_form_says_the_same_as_the_canonical_one(value: Any) -> None:
    assert parse(pretty(value)) == parse(canonical(value))
    assert pretty(value).decode() == indented_by_hand(value) + "\n"
    assert pretty(parse(pretty(value))) == pretty(value)


@given(st.dictionaries(TEXTS, TEXTS, max_size=6), st.randoms())
def test_order_of_keys_changes_no_byte(value: dict[str, str], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    shuffled = {key: value[key] for key in keys}
    assert canonical(shuffled) == canonical(value)
    assert pretty(shuffled) == pretty(value)


@given(FLOATS | st.floats(2.0**53, 1e22) | st.integers(2**53, 2**70).map(float))
def test_every_double_survives(number: float) -> None:
    assert parse(canonical(number)) == number
    assert canonical(parse(canonical(number))) == canonical(number)


def test_a_long_integer_from_outside_is_read_exactly_and_not_written() -> None:
    assert parse("9007199254740993") == 9007199254740993
    with pytest.raises(EverystepError, match="canonical JSON"):
        canonical(parse("9007199254740993"))


@pytest.mark.parametrize("write", [canonical, pretty])
@pytest.mark.parametrize("fault", UNWRITABLE)
def test_what_json_cannot_hold_is_refused(fault: str, write: Any) -> None:
    for value in (UNWRITABLE[fault], [[UNWRITABLE[fault]]]):
        with pytest.raises(EverystepError, match="not representable in canonical JSON"):
            write(value)


@pytest.mark.parametrize("write", [canonical, pretty])
def test_endless_nesting_is_refused(write: Any) -> None:
    with pytest.raises(EverystepError):
        write(nested(DEEP))
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        with pytest.raises(EverystepError, match=r"^here: not valid JSON"):
            parse(opening * DEEP + "0" + closing * DEEP, "here")


def test_a_hundred_levels_of_nesting_are_fine() -> None:
    assert parse(pretty(nested(100))) == parse(canonical(nested(100))) == nested(100)


@pytest.mark.parametrize(
    "text", ["[" * 102 + "]" * 102, '{"a":' * 102 + "1" + "}" * 102, '{"":[' * 50 + "[[]]" + "]}" * 50]
)
def test_deeper_nesting_is_refused_wherever_the_stack_stands(text: str) -> None:
    """Python's own limit counts the frames of the caller: another process would draw another line."""

    def at_depth(frames: int) -> None:
        if frames:
            at_depth(frames - 1)
        else:
            with pytest.raises(EverystepError, match="nested more than 100 levels deep"):
                parse(text)

    for frames in (0, 200, 500):
        at_depth(frames)


def test_an_escaped_pair_of_surrogates_is_one_character() -> None:
    assert parse(r'{"\ud83d\ude00":"\uD83D\uDE00"}') == {"\U0001f600": "\U0001f600"}
    assert parse(r'"\\ud800"') == r"\ud800"


@given(st.binary(max_size=60) | st.text('{}[]",:\\u0dD8efNaN1-+. \n', max_size=60).map(str.encode))
def test_parsing_anything_gives_a_value_or_a_clear_error(text: bytes) -> None:
    try:
        value = parse(text, "some.json")
    except EverystepError as error:
        assert str(error).startswith("some.json: not valid JSON: ")
    else:
        assert json.loads(text.decode()) == value


def test_a_doubled_key_is_named() -> None:
    with pytest.raises(EverystepError, match=r"^m\.json: not valid JSON: key 'b' appears twice$"):
        parse(b'{"a": {"b": 1, "c": 2, "b": 1}}', "m.json")
