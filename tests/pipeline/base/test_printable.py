"""Text from outside on a terminal: nothing of it steers."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.console import printable


@given(st.text() | st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zl", "Zp"])))
def test_no_control_character_is_left_and_text_without_any_stays(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert not [each for each in shown if unicodedata.category(each) in ("Cc", "Zl", "Zp") and each not in "\n\t"]
    if not [each for each in text if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp")]:
        assert shown == text
    assert "\n" not in printable(text, keep="")


def test_what_would_steer_is_drawn_or_escaped() -> None:
    assert printable("\x1b[2J\x7f\x9b\u202e\udcff\ud800") == "\u241b[2J\\x7f\\x9b\\u202e\\xff\\ud800"
    assert printable("a\tb\nc") == "a\tb\nc"
    assert printable("a\tb\nc", keep="") == "a\u2409b\u240ac"
    assert printable("caf\xe9 \U0001f600") == "caf\xe9 \U0001f600"
