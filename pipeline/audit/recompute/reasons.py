"""Reasons: what a removal may be recorded for, by which step, and what its detail must say.

`docs/formats.md` describes the reasons. Where a step measures something, the detail is the number that broke its
threshold, so a removal that is given another reason contradicts itself.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.base.spdx import is_satisfied

EXTRACT = ("too_large", "invalid_utf8", "nul_bytes", "broken_record", "unknown_license", "failed")
DEDUP = ("exact_duplicate", "near_duplicate")
ANY_STEP = ("empty", "failed")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]{3})?|inf|nan")


class Measured(NamedTuple):
    """A reason of a step that measures: its threshold is `key` of the step's rules, one of several by `place`."""

    step: str
    key: str
    is_least: bool = False
    """Whether the number must have been at least the threshold; at most, otherwise."""
    place: int | None = None

    def threshold(self, parameters: Mapping[str, Any]) -> float:
        value = parameters[self.step][self.key]
        return float(value if self.place is None else value[self.place])


MEASURED = {
    "gopher_short_doc": Measured("gopher_quality", "min_doc_words", True),
    "gopher_long_doc": Measured("gopher_quality", "max_doc_words"),
    "gopher_below_avg_threshold": Measured("gopher_quality", "min_avg_word_length", True),
    "gopher_above_avg_threshold": Measured("gopher_quality", "max_avg_word_length"),
    "gopher_too_many_hashes": Measured("gopher_quality", "max_symbol_word_ratio"),
    "gopher_too_many_ellipsis": Measured("gopher_quality", "max_symbol_word_ratio"),
    "gopher_too_many_bullets": Measured("gopher_quality", "max_bullet_lines_ratio"),
    "gopher_too_many_end_ellipsis": Measured("gopher_quality", "max_ellipsis_lines_ratio"),
    "gopher_below_alpha_threshold": Measured("gopher_quality", "max_non_alpha_words_ratio", True),
    "gopher_enough_stop_words": Measured("gopher_quality", "min_stop_words", True),
    **{
        name: Measured("gopher_repetition", name)
        for name in ("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac")
    },
    **{f"top_{n}_gram": Measured("gopher_repetition", "top_n_grams", place=n - 2) for n in range(2, 5)},
    **{f"duplicated_{n}_n_grams": Measured("gopher_repetition", "dup_n_grams", place=n - 5) for n in range(5, 11)},
    "too_few_sentences": Measured("c4", "min_num_sentences", True),
}
UNMEASURED = {
    "lorem_ipsum": "c4",
    "curly_bracket": "c4",
    "line_punct_ratio": "fineweb",
    "short_line_ratio": "fineweb",
    "char_dup_ratio": "fineweb",
    "list_ratio": "fineweb",
    "language": "language",
    "personal_data": "personal_data",
    "contamination": "contamination",
}
"""Other reasons of steps."""


def step_of(reason: str) -> str | None:
    """The step that alone gives this reason; none for reasons that any step, or none, gives."""
    return MEASURED[reason].step if reason in MEASURED else UNMEASURED.get(reason)


def wrong_reason(reason: str, detail: str | None, parameters: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the reason and the detail of a removal by the filter with these parameters, if anything.

    A detail has three decimals, so a number at the threshold is taken as beyond it.
    """
    if reason == "license":
        return f"the licence {detail} is accepted" if _is_accepted(detail or "", parameters["licenses"]) else None
    if reason == "cap":
        return "there is no cap" if parameters["cap_bytes"] is None else None
    if reason in ANY_STEP:
        return None if (detail is None) == (reason == "empty") else f"the detail is {detail}"
    step = step_of(reason)
    if step not in parameters["steps"]:
        return "no step of the filter gives this reason"
    if reason in MEASURED:
        threshold = MEASURED[reason].threshold(parameters)
        if detail is None or not NUMBER.fullmatch(detail):
            return f"the detail {detail} is not a number"
        kept = float(detail) > threshold if MEASURED[reason].is_least else float(detail) < threshold
        return f"{detail} does not break the threshold {threshold:g}" if kept else None
    if reason == "language":
        code, _, probability = (detail or "").partition(" ")
        known = code in parameters["languages"]
        kept = known and float(probability) > parameters["language"]["min_probability"]
        return f"{detail} is a language of the source" if kept else None
    return None


def _is_accepted(license: str, accepted: list[str]) -> bool:
    try:
        return is_satisfied(license, accepted)
    except ValueError:  # what others wrote need not be an expression
        return False
