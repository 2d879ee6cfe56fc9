import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.spdx import MAX_CHARACTERS, canonical, is_satisfied

CLASSPATH = "GPL-2.0-only WITH Classpath-exception-2.0"


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
        (CLASSPATH, ["GPL-2.0-only"], False),
        ("GPL-2.0-only", [CLASSPATH], False),
        (CLASSPATH, [CLASSPATH], True),
        (f"({CLASSPATH}) AND MIT", [CLASSPATH, "MIT"], True),
        ("MIT OR ISC AND 0BSD", ["MIT"], True),
        ("MIT OR ISC AND 0BSD", ["ISC"], False),
        ("(MIT OR ISC) AND 0BSD", ["MIT"], False),
        ("(MIT OR ISC) AND 0BSD", ["ISC", "0BSD"], True),
        ("MIT AND (ISC OR (0BSD AND Zlib))", ["MIT", "0BSD", "Zlib"], True),
        ("GPL-2.0+", ["GPL-2.0"], False),
        ("LicenseRef-own", ["LicenseRef-own"], True),
    ],
)
def test_or_needs_one_side_and_both_with_the_pair(expression: str, allowed: list[str], satisfied: bool) -> None:
    assert is_satisfied(expression, allowed) is satisfied


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "MIT OR", "OR MIT", "(MIT", "MIT)", "()", "MIT MIT", "MIT/X11", "public domain", "MIT WITH"],
        *["WITH MIT", "MIT WITH MIT", f"MIT WITH ({CLASSPATH})", "(MIT OR ISC) WITH Classpath-exception-2.0"],
        *[
            "MIT AND OR ISC",
            "MIT, ISC",
            "-",
            "Apache-2.1",
            "My-Own-Licence",
            "LicenseRef-",
            "(" * 300 + "MIT" + ")" * 300,
        ],
        " OR ".join(["MIT"] * MAX_CHARACTERS),
    ],
)
def test_what_is_no_expression_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"[Ii]nvalid|Unknown|longer"):
        is_satisfied(text, ["MIT"])


LICENSES = ("MIT", "ISC", "Zlib", "LicenseRef-own")
EXPRESSIONS = st.recursive(
    st.sampled_from(range(len(LICENSES))).map(lambda i: (LICENSES[i], f"given[{i}]")),
    lambda parts: st.tuples(parts, st.sampled_from(["and", "or"]), parts).map(
        lambda t: (f"({t[0][0]} {t[1].upper()} {t[2][0]})", f"({t[0][1]} {t[1]} {t[2][1]})")
    ),
    max_leaves=12,
)


@given(EXPRESSIONS, st.sets(st.sampled_from(LICENSES), min_size=1))
def test_expressions_hold_as_python_would_say(pair: tuple[str, str], allowed: set[str]) -> None:
    expression, meaning = pair
    expected = eval(meaning, {"given": [name in allowed for name in LICENSES]})  # the strategy wrote it
    assert is_satisfied(expression, allowed) is expected


@given(EXPRESSIONS)
def test_the_canonical_form_has_one_case_and_is_its_own(pair: tuple[str, str]) -> None:
    assert canonical(pair[0]) == pair[0]
    if "LicenseRef" not in pair[0]:
        assert canonical(pair[0].lower()) == canonical(f" {pair[0].upper()} ") == pair[0]
