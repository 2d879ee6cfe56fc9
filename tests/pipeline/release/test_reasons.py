"""Reasons in words: everything that a stage can record has some."""

from pipeline.audit.recompute.reasons import ANY_STEP, DEDUP, EXTRACT, MEASURED, UNMEASURED
from pipeline.blocks.personal_data import REPLACEMENTS
from pipeline.blocks.steps import STEPS as BLOCKS
from pipeline.release.reasons import FINDINGS, REASONS, STEPS, finding_in_words, reason_in_words, step_in_words


def test_every_reason_that_verify_accepts_is_told_in_words() -> None:
    accepted = {*EXTRACT, *DEDUP, *ANY_STEP, *MEASURED, *UNMEASURED, "license", "cap", "mixture"}
    assert set(REASONS) == accepted
    assert not any("_" in words for words in REASONS.values())


def test_every_step_and_every_finding_is_told_in_words() -> None:
    assert set(BLOCKS) <= set(STEPS)
    assert set(REPLACEMENTS) <= set(FINDINGS)


def test_what_other_code_recorded_keeps_its_name() -> None:
    assert reason_in_words("too_many_emoji") == "were removed for too many emoji"
    assert step_in_words("deep_clean") == "deep clean"
    assert finding_in_words("mmlu") == "mmlu"
