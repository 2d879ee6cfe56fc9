import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.blocks.quality import QualityRules, quality_fault

RULES = QualityRules(
    min_words=5,
    max_words=50,
    min_mean_word_length=3.0,
    max_mean_word_length=10.0,
    max_symbol_word_ratio=0.1,
    max_bullet_line_share=0.9,
    max_ellipsis_line_share=0.3,
    min_alphabetic_word_share=0.7,
    min_stop_words=2,
)
GOOD = "The house of words stands with quiet rooms and wide doors"

FAULTS = {
    "empty": ("", "0"),
    "too_few_words": ("The end of it", "4"),
    "too_many_words": (" ".join(["word"] * 51), "51"),
    "mean_word_length": ("a b c d e the of", "1.429"),
    "symbol_word_ratio": (f"{GOOD} # #", "0.154"),
    "bullet_line_share": ("- the house\n* of words\n\u2022 and quiet\n\u2023 rooms\n\u25cf with doors", "1.000"),
    "ellipsis_line_share": (
        "The house of words...\nwith quiet rooms\nand wide old green painted wooden doors",
        "0.333",
    ),
    "alphabetic_word_share": ("The house of 1234 5678 9012 3456", "0.429"),
    "stop_words": ("One house where words stand, THE only", "1"),
    "lorem_ipsum": (f"{GOOD} Lorem IPSUM dolor", "1"),
}


def test_a_good_text_passes() -> None:
    assert quality_fault(GOOD, RULES) is None


@pytest.mark.parametrize("reason", FAULTS)
def test_each_rule_fires_with_its_reason_and_what_it_measured(reason: str) -> None:
    text, detail = FAULTS[reason]
    assert quality_fault(text, RULES) == (reason, detail)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n\t\u3000 ", "empty"),
        ("the of " * 3 + "internationalization" * 5, "mean_word_length"),
        (f"{GOOD}\u2026 \u2026", "symbol_word_ratio"),
        ("The house of words\u2026\nwith quiet rooms\nand some wide old green painted doors", "ellipsis_line_share"),
    ],
)
def test_other_spellings_of_the_same_faults(text: str, reason: str) -> None:
    fault = quality_fault(text, RULES)
    assert fault is not None
    assert fault[0] == reason


def test_thresholds_themselves_pass() -> None:
    assert quality_fault("The house of words stands", RULES) is None
    assert quality_fault("the house of words and " * 10, RULES) is None
    assert quality_fault("the of abcd", RULES.model_copy(update={"min_words": 3})) is None, "a mean of exactly 3"


def test_blank_lines_are_no_lines() -> None:
    text = "The house of words...\n\n\n" + "\n\n".join(["with quiet rooms and doors"] * 2)
    assert quality_fault(text, RULES) == ("ellipsis_line_share", "0.333")


@given(st.text(max_size=80) | st.text("the of-.#\u2026*\n a1", max_size=80))
def test_every_text_passes_or_fails_by_a_known_reason(text: str) -> None:
    fault = quality_fault(text, RULES)
    assert fault is None or fault[0] in FAULTS
    assert quality_fault(text, RULES) == fault


def test_rules_must_be_complete() -> None:
    with pytest.raises(ValidationError):
        QualityRules.model_validate({**RULES.model_dump(), "min_sentences": 3})
    with pytest.raises(ValidationError):
        QualityRules.model_validate({"min_words": 3})
