import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.spdx import MAX_TOKENS, is_satisfied, parse_expression


def allows(expression: str, *allowed: str) -> bool:
    return is_satisfied(parse_expression(expression), map(parse_expression, allowed))


@pytest.mark.parametrize(
    ("expression", "allowed", "satisfied"),
    [
        ("MIT", ["MIT"], True),
        ("MIT", ["Apache-2.0"], False),
        ("mit", ["MIT"], True),
        ("MIT OR GPL-3.0-only", ["MIT"], True),
        ("GPL-3.0-only OR MIT", ["MIT"], True),
        ("GPL-3.0-only OR AGPL-3.0-only", ["MIT"], False),
        ("MIT AND CC-BY-4.0", ["MIT"], False),
        ("MIT AND CC-BY-4.0", ["CC-BY-4.0", "MIT"], True),
        ("MIT AND CC-BY-4.0", ["CC-BY-4.0 AND MIT"], True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only"], False),
        ("GPL-2.0-only", ["GPL-2.0-only WITH Classpath-exception-2.0"], False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", ["GPL-2.0-only WITH Classpath-exception-2.0"], True),
        ("A OR B AND C", ["A"], True),
        ("A OR B AND C", ["B"], False),
        ("(A OR B) AND C", ["A"], False),
        ("(A OR B) AND C", ["B", "C"], True),
        ("A AND (B OR (C AND D))", ["A", "C", "D"], True),
        ("GPL-2.0+", ["GPL-2.0"], False),
        ("LicenseRef-own", ["LicenseRef-own"], True),
    ],
)
def test_or_needs_one_side_and_both_with_the_pair(expression: str, allowed: list[str], satisfied: bool) -> None:
    assert allows(expression, *allowed) is satisfied


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "MIT OR", "OR MIT", "(MIT", "MIT)", "()", "MIT MIT", "MIT/X11", "public domain", "A WITH", "WITH B"],
        *["A WITH (B)", "(A OR B) WITH C", "A AND OR B", "A or B", "A, B", "-", "(" * 100 + "A" + ")" * 100],
        " OR ".join(["A"] * MAX_TOKENS),
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|not end|not closed|longer"):
        parse_expression(text)


EXPRESSIONS = st.recursive(
    st.sampled_from("ABCD").map(lambda name: (name, name)),
    lambda parts: st.tuples(parts, st.sampled_from(["and", "or"]), parts).map(
        lambda t: (f"({t[0][0]} {t[1].upper()} {t[2][0]})", f"({t[0][1]} {t[1]} {t[2][1]})")
    ),
    max_leaves=12,
)


@given(EXPRESSIONS, st.sets(st.sampled_from("ABCD"), min_size=1))
def test_expressions_hold_as_python_would_say(pair: tuple[str, str], allowed: set[str]) -> None:
    expression, meaning = pair
    expected = eval(meaning, {name: name in allowed for name in "ABCD"})  # the strategy wrote it
    assert allows(expression, *allowed) is expected
