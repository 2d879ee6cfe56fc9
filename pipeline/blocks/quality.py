"""Quality rules with published thresholds: a text passes, or fails with the first rule that it breaks.

The rules are Gopher's (Rae et al. 2021, table A1) and C4's placeholder rule (Raffel et al. 2020, section
2.2). Words are runs of non-blank characters. A reason string never changes its meaning: auditors count by it.
"""

from pipeline.formats.yaml import Section

STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("-", "*", "\u2022", "\u2023", "\u25cf")
ELLIPSES = ("...", "\u2026")


class QualityRules(Section):
    """Thresholds; a document that breaks one is removed with the rule's name as reason."""

    min_words: int
    max_words: int
    min_mean_word_length: float
    max_mean_word_length: float
    max_symbol_word_ratio: float
    max_bullet_line_share: float
    max_ellipsis_line_share: float
    min_alphabetic_word_share: float
    min_stop_words: int


def quality_fault(text: str, rules: QualityRules) -> tuple[str, str] | None:
    """(reason, measured value) of the first broken rule, or None."""
    words = text.split()
    num_words = len(words)
    if not num_words:
        return "empty", "0"
    if num_words < rules.min_words:
        return "too_few_words", str(num_words)
    if num_words > rules.max_words:
        return "too_many_words", str(num_words)
    mean_length = sum(map(len, words)) / num_words
    if not rules.min_mean_word_length <= mean_length <= rules.max_mean_word_length:
        return "mean_word_length", f"{mean_length:.3f}"
    symbols = text.count("#") + sum(map(text.count, ELLIPSES))
    if symbols / num_words > rules.max_symbol_word_ratio:
        return "symbol_word_ratio", f"{symbols / num_words:.3f}"
    return _line_fault(text, rules) or _word_fault(words, text, rules)


def _line_fault(text: str, rules: QualityRules) -> tuple[str, str] | None:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    bullets = sum(line.startswith(BULLETS) for line in lines) / len(lines)
    if bullets > rules.max_bullet_line_share:
        return "bullet_line_share", f"{bullets:.3f}"
    ellipses = sum(line.endswith(ELLIPSES) for line in lines) / len(lines)
    if ellipses > rules.max_ellipsis_line_share:
        return "ellipsis_line_share", f"{ellipses:.3f}"
    return None


def _word_fault(words: list[str], text: str, rules: QualityRules) -> tuple[str, str] | None:
    alphabetic = sum(any(map(str.isalpha, word)) for word in words) / len(words)
    if alphabetic < rules.min_alphabetic_word_share:
        return "alphabetic_word_share", f"{alphabetic:.3f}"
    stop_words = len(STOP_WORDS & {word.lower() for word in words})
    if stop_words < rules.min_stop_words:
        return "stop_words", str(stop_words)
    if "lorem ipsum" in text.lower():
        return "lorem_ipsum", "1"
    return None
