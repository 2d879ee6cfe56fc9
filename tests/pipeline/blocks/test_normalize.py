import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks.normalize import BLANK_LINES, CONTROLS, LINE_ENDS, TRAILING, normalize

HARD = (
    "\r\n\t \x00\x0b\x0c\x1c\x85\u2028\u2029\u00a0\u3000\ufeff\ufffe\uffff\u0301\u0338e<\u1100\u1161\u11a8\u2000\u200b"
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(HARD), max_size=15)


@given(TEXTS)
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    assert normalize(normalize(text)) == normalize(text)


@given(TEXTS)
def test_looking_first_changes_nothing(text: str) -> None:
    plain = CONTROLS.sub("", LINE_ENDS.sub("\n", text))
    plain = plain if plain.isascii() else unicodedata.normalize("NFC", plain)
    assert normalize(text) == BLANK_LINES.sub("\n\n", TRAILING.sub("", plain)).strip()


@given(TEXTS)
def test_result_has_one_spelling(text: str) -> None:
    result = normalize(text)
    assert unicodedata.is_normalized("NFC", result)
    assert result == result.strip()
    assert "\n\n\n" not in result
    assert not any(line.endswith((" ", "\t", "\u00a0")) for line in result.split("\n"))
    controls = {c for c in result if unicodedata.category(c) == "Cc"}
    assert controls <= {"\n", "\t"}
    assert not set(result) & set("\u2028\u2029\ufeff\ufffe\uffff")


@given(TEXTS)
def test_composed_and_decomposed_spellings_become_one(text: str) -> None:
    assert normalize(unicodedata.normalize("NFD", text)) == normalize(text)


@given(st.lists(st.text("ab é", min_size=1, max_size=5).map(str.strip).filter(bool), max_size=5))
def test_every_line_end_is_lf(lines: list[str]) -> None:
    for end in ("\n", "\r\n", "\r", "\x85", "\u2028", "\u2029", "\x0b", "\x0c"):
        assert normalize(end.join(lines)) == "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \n\t\r\n ", ""),
        ("one\x0ctwo", "one\ntwo"),
        ("a\x00b\x7f", "ab"),
        ("\ufeffBOM", "BOM"),
        ("tab\tstays  inside", "tab\tstays  inside"),
        ("a  \n\n \n\u00a0\n\nb", "a\n\nb"),
        ("e\u0301\n", "é"),
        ("e\x00\u0301", "é"),
        ("soft\u00adhyphen and zero\u200bwidth stay", "soft\u00adhyphen and zero\u200bwidth stay"),
        ("ﬁ ² stay: NFC, not NFKC", "ﬁ ² stay: NFC, not NFKC"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert normalize(text) == expected
