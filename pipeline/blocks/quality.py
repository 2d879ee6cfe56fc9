"""Published quality rules for web text, in datatrove's implementation, with a faster word splitter.

- Gopher, quality and repetition: Rae et al. 2021, "Scaling Language Models", appendix A1.1 and table A1.
- C4: Raffel et al. 2020, section 2.2, and the cleaning code published with it.
- FineWeb: Penedo et al. 2024, section 3.6.

Rules and reasons are datatrove's own, so that counts can be compared with other corpora built with it. The thresholds
have its names. Words are split by `pipeline.blocks.words`, which is for English and for other languages that put blanks
between words.
"""

from functools import cache
from typing import Any

import numpy as np

from pipeline.base.yaml import Section
from pipeline.blocks.block import Block, Fault, Outcome, Rewritten
from pipeline.blocks.measures import Measures, measure
from pipeline.blocks.repetition import bounds
from pipeline.blocks.words import split_sentences, split_words


class GopherQuality(Section):
    """Thresholds of appendix A1.1; 0 turns a rule off. Published values in comments."""

    min_doc_words: int  # 50
    max_doc_words: int  # 100000
    min_avg_word_length: float  # 3
    max_avg_word_length: float  # 10
    max_symbol_word_ratio: float  # 0.1
    max_bullet_lines_ratio: float  # 0.9
    max_ellipsis_lines_ratio: float  # 0.3
    max_non_alpha_words_ratio: float  # 0.8; despite its name, the least share of words that contain a letter
    min_stop_words: int  # 2


class GopherRepetition(Section):
    """Limits on the repeated share of a text (table A1); 0 turns a rule off."""

    dup_line_frac: float  # 0.3
    dup_para_frac: float  # 0.3
    dup_line_char_frac: float  # 0.2
    dup_para_char_frac: float  # 0.2
    top_n_grams: list[float]  # of the most common 2-gram, 3-gram, 4-gram: 0.2, 0.18, 0.16
    dup_n_grams: list[float]  # of 5-grams to 10-grams: 0.15, 0.14, 0.13, 0.12, 0.11, 0.1


class C4(Section):
    """Rules for lines and pages; `-1` turns a number off. The published values: 5, 3, 1000, and all true."""

    min_num_sentences: int
    min_words_per_line: int
    max_word_length: int
    remove_citations: bool
    filter_no_terminal_punct: bool
    filter_lorem_ipsum: bool
    filter_javascript: bool
    filter_curly_bracket: bool
    filter_policy: bool


class FineWeb(Section):
    """Thresholds of the filters that FineWeb added."""

    line_punct_thr: float  # 0.12
    line_punct_exclude_zero: bool  # false
    short_line_thr: float  # 0.67
    short_line_length: int  # 30
    char_duplicates_ratio: float  # 0.01; FineWeb's own recipe ran with 0.1
    new_line_ratio: float  # 0.3


def gopher_quality(rules: GopherQuality) -> Block:
    """Make the block that drops text that is not prose, by length, words, symbols, lines and stop words.

    The library is asked about texts that break a rule, and those that may. Its first rule, which most of these break,
    needs nothing else."""
    from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter

    measured: list[Any] = []
    thresholds = {name: Threshold(value, measured) for name, value in rules.model_dump().items()}
    by_library = _judge(GopherQualityFilter(**thresholds, language=plain_words()), measured)

    def judge(text: str) -> Outcome:
        measures = measure(text)
        if measures.plain_words < rules.min_doc_words:
            return Fault("gopher_short_doc", _formatted(measures.plain_words))
        return None if _is_prose(text, measures, rules) else by_library(text)

    return judge


def gopher_repetition(rules: GopherRepetition) -> Block:
    """Make the block that drops repetitive text. What bounds rule out is not measured: for most texts, everything."""
    from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter

    measured: list[Any] = []
    tree = rules.model_dump()
    of_most, of_again = tree.pop("top_n_grams"), tree.pop("dup_n_grams")
    thresholds = {name: Threshold(value, measured) for name, value in tree.items()} | {"language": plain_words()}
    sizes = [*range(2, 2 + len(of_most)), *range(5, 5 + len(of_again))]
    shares = np.array(of_most + of_again)

    @cache
    def by_library(doubtful: tuple[bool, ...]) -> Block:
        """Make the library's rule for lines and paragraphs, and for those sizes of runs that are in doubt."""
        limits = [
            (size, Threshold(share, measured)) if doubt else None
            for size, share, doubt in zip(sizes, shares.tolist(), doubtful, strict=True)
        ]
        top, repeated = (
            [limit for limit in part if limit] for part in (limits[: len(of_most)], limits[len(of_most) :])
        )
        return _judge(GopherRepetitionFilter(**thresholds, top_n_grams=top, dup_n_grams=repeated), measured)

    def judge(text: str) -> Outcome:
        if not text:
            return by_library((True,) * len(sizes))(text)
        measures = measure(text)
        most, again = bounds(measures.characters, measures.lengths, sizes)
        held = np.concatenate([most[: len(of_most)], again[len(of_most) :]])
        doubtful = tuple((held / len(text) > shares).tolist())
        return None if not any(doubtful) and _has_few_copies(text, rules) else by_library(doubtful)(text)

    return judge


def _is_prose(text: str, measures: Measures, rules: GopherQuality) -> bool:
    """Tell whether a text surely breaks no rule of quality; `measures` bound its bullets and ellipses from above."""
    words, plain, lines = measures.words, measures.plain_words, len(text.splitlines())
    length = measures.plain_characters / max(plain, 1)
    return (
        plain >= max(rules.min_doc_words, 1)
        and _is_within(plain, rules.max_doc_words)
        and length >= rules.min_avg_word_length
        and _is_within(length, rules.max_avg_word_length)
        and _is_within(text.count("#") / words, rules.max_symbol_word_ratio)
        and _is_within((text.count("...") + text.count("…")) / words, rules.max_symbol_word_ratio)
        and _is_within(measures.bullets / lines, rules.max_bullet_lines_ratio)
        and _is_within(measures.ellipses / lines, rules.max_ellipsis_lines_ratio)
        and measures.alphabetic_words / words >= rules.max_non_alpha_words_ratio
        and measures.stop_words >= rules.min_stop_words
    )


def _has_few_copies(text: str, rules: GopherRepetition) -> bool:
    """Tell whether a text surely repeats no more lines and paragraphs than it may. Parted as it is when normalized:
    a paragraph ends at one blank line, and no blanks are at the ends."""
    if "\n\n\n" in text or text[0].isspace() or text[-1].isspace():
        return False
    paragraphs = text.split("\n\n")
    lines = [line for line in text.split("\n") if line]
    return (
        _is_within(_copies(paragraphs) / len(paragraphs), rules.dup_para_frac)
        and _is_within(_copied_characters(paragraphs) / len(text), rules.dup_para_char_frac)
        and _is_within(_copies(lines) / len(lines), rules.dup_line_frac)
        and _is_within(_copied_characters(lines) / len(text), rules.dup_line_char_frac)
    )


def _copies(parts: list[str]) -> int:
    """Count the parts that occurred before."""
    return len(parts) - len(set(parts))


def _copied_characters(parts: list[str]) -> int:
    return sum(map(len, parts)) - sum(map(len, set(parts)))


def _is_within(value: float, limit: float) -> bool:
    """Tell whether a rule with an upper limit is kept; 0 turns it off."""
    return not limit or value <= limit


def fineweb(rules: FineWeb) -> Block:
    """Make the block that drops lists, menus and pages of short lines."""
    from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter

    measured: list[Any] = []
    tree = rules.model_dump()
    for name in ("line_punct_thr", "short_line_thr", "char_duplicates_ratio", "new_line_ratio"):
        tree[name] = Threshold(tree[name], measured)
    return _judge(FineWebQualityFilter(**tree, language=plain_words()), measured)


def c4(rules: C4) -> Block:
    """Make the block that drops lines that are not sentences, then judges the rest. It counts the lines it drops."""
    from datatrove.pipeline.filters.c4_filters import C4QualityFilter

    measured: list[Any] = []
    tree = rules.model_dump()
    tree["min_num_sentences"] = Threshold(tree["min_num_sentences"], measured)
    return _judge(C4QualityFilter(**tree, language=plain_words()), measured)


class Threshold(float):
    """Number that records what it is compared with: the library says that a rule is broken, but not by how much."""

    __array_ufunc__ = None  # so that numpy's numbers leave the comparison to us

    def __new__(cls, value: float, measured: list[Any]) -> "Threshold":
        threshold = super().__new__(cls, value)
        threshold._measured = measured
        return threshold

    _measured: list[Any]

    def __lt__(self, value: float) -> bool:
        self._measured[:] = [value]
        return float(self) < value

    def __gt__(self, value: float) -> bool:
        self._measured[:] = [value]
        return float(self) > value


@cache
def plain_words() -> Any:
    """Wrap our splitter as a tokenizer that datatrove's filters accept in place of a language."""
    from datatrove.utils.word_tokenizers import WordTokenizer

    class PlainWords(WordTokenizer):  # type: ignore[misc]
        def word_tokenize(self, text: str) -> list[str]:
            return split_words(text)

        def sent_tokenize(self, text: str) -> list[str]:
            return [text[start:end] for start, end in split_sentences(text)]

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            return split_sentences(text)

    return PlainWords()


def _judge(rule: Any, measured: list[Any]) -> Block:
    from datatrove.data import Document

    def judge(text: str) -> Outcome:
        measured.clear()
        document = Document(text=text, id="")
        verdict = rule.filter(document)
        if verdict is not True:
            return Fault(verdict[1], _formatted(measured[0]) if measured else None)
        if document.text != text:
            dropped = len(text.splitlines()) - len(document.text.splitlines())
            return Rewritten(document.text, {"lines_dropped": dropped} if dropped else {})
        return None

    return judge


def _formatted(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.3f}"
