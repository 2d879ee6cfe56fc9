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
    """Make the block that drops text that is not prose, by length, words, symbols, lines and stop words."""
    from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter

    measured: list[Any] = []
    thresholds = {name: Threshold(value, measured) for name, value in rules.model_dump().items()}
    return _judge(GopherQualityFilter(**thresholds, language=plain_words()), measured)


def gopher_repetition(rules: GopherRepetition) -> Block:
    """Make the block that drops repetitive text. Runs of words are measured only if bounds do not rule them out."""
    from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
    from datatrove.utils.text import split_into_words

    measured: list[Any] = []
    tree = rules.model_dump()
    top = [(n, Threshold(share, measured)) for n, share in enumerate(tree.pop("top_n_grams"), 2)]
    repeated = [(n, Threshold(share, measured)) for n, share in enumerate(tree.pop("dup_n_grams"), 5)]
    thresholds = {name: Threshold(value, measured) for name, value in tree.items()} | {"language": plain_words()}
    of_lines = _judge(GopherRepetitionFilter(**thresholds, top_n_grams=(), dup_n_grams=()), measured)
    of_all = _judge(GopherRepetitionFilter(**thresholds, top_n_grams=top, dup_n_grams=repeated), measured)
    sizes = [n for n, _ in (*top, *repeated)]
    shares = np.array(rules.top_n_grams + rules.dup_n_grams)

    def judge(text: str) -> Outcome:
        most, again = bounds(split_into_words(text, plain_words()), sizes)
        held = np.concatenate([most[: len(top)], again[len(top) :]])
        return of_all(text) if (held / len(text) > shares).any() else of_lines(text)

    return judge


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
