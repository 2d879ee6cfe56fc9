"""Hypothesis strategies that several tests draw from."""

from typing import Any

from hypothesis import strategies as st

HARD = '\x00\x1f\b\t\n\f\r"\\/\x7f\x80\u2028\u2029\ud7ff\ue000\ufb33\ufeff\uffff\U00010000\U0001f600'
CHARACTERS = st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(HARD))
TEXTS = st.text(CHARACTERS, max_size=12)
ASCII_KEYS = st.text(st.characters(max_codepoint=127), max_size=6)
INTEGERS = st.integers(-(2**53) + 1, 2**53 - 1)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS)


def trees(keys: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """JSON values with such keys."""
    return st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
    )
