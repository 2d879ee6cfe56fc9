"""The library's rules through our blocks: each reason with what was measured, at published thresholds."""

import pytest
from datatrove.pipeline.filters.gopher_quality_filter import GopherQualityFilter
from datatrove.pipeline.filters.gopher_repetition_filter import GopherRepetitionFilter
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.blocks.block import Block, Fault, Rewritten
from pipeline.blocks.quality import (
    C4,
    FineWeb,
    GopherQuality,
    GopherRepetition,
    Threshold,
    _judge,
    c4,
    fineweb,
    gopher_quality,
    gopher_repetition,
    plain_words,
)

# As published: the last test compares them with the library.
QUALITY = GopherQuality(
    min_doc_words=50,
    max_doc_words=100000,
    min_avg_word_length=3.0,
    max_avg_word_length=10.0,
    max_symbol_word_ratio=0.1,
    max_bullet_lines_ratio=0.9,
    max_ellipsis_lines_ratio=0.3,
    max_non_alpha_words_ratio=0.8,
    min_stop_words=2,
)
REPETITION = GopherRepetition(
    dup_line_frac=0.3,
    dup_para_frac=0.3,
    dup_line_char_frac=0.2,
    dup_para_char_frac=0.2,
    top_n_grams=[0.2, 0.18, 0.16],
    dup_n_grams=[0.15, 0.14, 0.13, 0.12, 0.11, 0.1],
)
PAGE = C4(
    min_num_sentences=5,
    min_words_per_line=3,
    max_word_length=1000,
    remove_citations=True,
    filter_no_terminal_punct=True,
    filter_lorem_ipsum=True,
    filter_javascript=True,
    filter_curly_bracket=True,
    filter_policy=True,
)
WEB = FineWeb(
    line_punct_thr=0.12,
    line_punct_exclude_zero=False,
    short_line_thr=0.67,
    short_line_length=30,
    char_duplicates_ratio=0.01,
    new_line_ratio=0.3,
)
LOOSE = QUALITY.model_copy(update={"min_doc_words": 1})
GOOD = """\
The old house by the river stands with quiet rooms, wide doors and a garden that nobody has entered for years.
Every morning a captain walked along its wall and counted the windows, because he had promised to watch them.
In winter he wrote letters to his sister, who lived beyond the mountains and kept each of them in a silver box.
What they said to one another was never grand: weather, prices at the market, a cat that would not be tamed.
Yet when both had gone, people of the town read those pages aloud and found their own lives written down there."""

FAULTS: list[tuple[Block, str, Fault]] = [
    (gopher_quality(QUALITY), "The house of words.", Fault("gopher_short_doc", "4")),
    (gopher_quality(QUALITY.model_copy(update={"max_doc_words": 60})), GOOD, Fault("gopher_long_doc", "104")),
    (gopher_quality(LOOSE), "a b c the of", Fault("gopher_below_avg_threshold", "1.600")),
    (
        gopher_quality(LOOSE),
        "the of internationalization responsibilities",
        Fault("gopher_above_avg_threshold", "10.250"),
    ),
    (gopher_quality(LOOSE), "The house of words # stands", Fault("gopher_too_many_hashes", "0.167")),
    (gopher_quality(LOOSE), "The house of words… stands", Fault("gopher_too_many_ellipsis", "0.167")),
    (gopher_quality(LOOSE), "- the house\n- of words\n- stand", Fault("gopher_too_many_bullets", "1.000")),
    (
        gopher_quality(LOOSE.model_copy(update={"max_symbol_word_ratio": 0.9})),
        "The house of...\nwords stands",
        Fault("gopher_too_many_end_ellipsis", "0.500"),
    ),
    (gopher_quality(LOOSE), "The house of 1234 5678 9012", Fault("gopher_below_alpha_threshold", "0.500")),
    (gopher_quality(LOOSE), "One house where words stand", Fault("gopher_enough_stop_words", "0")),
    (gopher_repetition(REPETITION), "again\n\nagain", Fault("dup_para_frac", "0.500")),
    (gopher_repetition(REPETITION), "again\nagain", Fault("dup_line_frac", "0.500")),
    (
        gopher_repetition(REPETITION),
        "a long paragraph\n\na long paragraph\n\none\n\ntwo\n\nthree",
        Fault("dup_para_char_frac", "0.314"),
    ),
    (
        gopher_repetition(REPETITION),
        "a long line of words\na long line of words\none\ntwo\nthree",
        Fault("dup_line_char_frac", "0.364"),
    ),
    (gopher_repetition(REPETITION), "one two and one two or one two", Fault("top_2_gram", "0.700")),
    (c4(PAGE), "One line of words.\nAnother line of words.", Fault("too_few_sentences", "2")),
    (c4(PAGE), f"{GOOD}\nSome lorem ipsum here.", Fault("lorem_ipsum")),
    (c4(PAGE), f"{GOOD}\nA function f(x) {{ returns.", Fault("curly_bracket")),
    (fineweb(WEB), "a line\nanother", Fault("line_punct_ratio", "0.000")),
    (fineweb(WEB), "A short line.\n" + "Another short line.\n" + "A line.", Fault("short_line_ratio", "1.000")),
    (fineweb(WEB), f"{GOOD}\n{GOOD}", Fault("char_dup_ratio", "0.500")),
    (
        fineweb(WEB.model_copy(update={"short_line_length": 1})),
        "One.\nTwo.\nThree.\nFour.",
        Fault("list_ratio", "0.375"),
    ),
]


@pytest.mark.parametrize("block", [gopher_quality(QUALITY), gopher_repetition(REPETITION), c4(PAGE), fineweb(WEB)])
def test_a_good_text_passes_as_it_is(block: Block) -> None:
    assert block(GOOD) is None


@pytest.mark.parametrize(("block", "text", "fault"), FAULTS, ids=[fault.reason for _, _, fault in FAULTS])
def test_each_rule_fires_with_its_reason_and_what_it_measured(block: Block, text: str, fault: Fault) -> None:
    assert block(text) == fault
    assert block(GOOD) == block(GOOD)
    assert block(text) == fault, "a block keeps nothing from one text to the next"


@pytest.mark.parametrize("n", range(5, 11))
def test_repeated_n_grams_have_a_reason_each(n: int) -> None:
    only = REPETITION.model_copy(update={"top_n_grams": [], "dup_n_grams": [0.0] * (n - 5) + [0.1]})
    others = only.model_copy(update={"dup_n_grams": [2.0] * (n - 5) + [0.1]})
    text = " ".join([*(f"w{i}" for i in range(n)), "and", *(f"w{i}" for i in range(n))])
    fault = gopher_repetition(others)(text)
    assert isinstance(fault, Fault)
    assert fault.reason == f"duplicated_{n}_n_grams"
    assert fault.detail == f"{sum(len(f'w{i}') for i in range(n)) / len(text):.3f}"


def test_lines_that_are_no_sentences_are_dropped_and_counted() -> None:
    menu = "Home\nAbout us\nPlease enable javascript to see this page.\nBy staying you accept our cookie policy."
    assert c4(PAGE)(f"{menu}\n{GOOD.replace('river', 'river[12]')}\nToo short.") == Rewritten(
        GOOD, {"lines_dropped": 5}
    )


@given(st.text(max_size=80).filter(str.strip) | st.text("the of-.#\u2026*\n a1{", max_size=80).filter(str.strip))
def test_every_text_that_is_not_blank_has_an_answer(text: str) -> None:
    for block in (gopher_quality(LOOSE), gopher_repetition(REPETITION), c4(PAGE), fineweb(WEB)):
        outcome = block(text)
        assert outcome is None or isinstance(outcome, Fault | Rewritten)
        assert block(text) == outcome


PROSE = st.lists(
    st.sampled_from(
        [*"#-\u2022.\u2026", "...", "the", "of", "and", "house,", "(words)", "1234", "a", "responsibilities", "x..."]
    ),
    min_size=1,
    max_size=60,
)


@given(PROSE, PROSE, st.sampled_from([" ", "\n", "\n\n", "\n\n\n"]), st.integers(1, 40), st.booleans())
def test_every_decision_is_the_librarys(
    one: list[str], other: list[str], gap: str, least: int, published: bool
) -> None:
    text = gap.join([" ".join(one), "\n".join(other), " ".join(one)])
    rules = QUALITY if published else QUALITY.model_copy(update={"min_doc_words": least, "max_symbol_word_ratio": 0.4})
    measured: list[float] = []
    tree = {name: Threshold(value, measured) for name, value in rules.model_dump().items()}
    plain = _judge(GopherQualityFilter(**tree, language=plain_words()), measured)
    assert gopher_quality(rules)(text) == plain(text)
    limits = {name: share for name, share in REPETITION.model_dump().items() if name.endswith("frac")}
    if not published:
        limits = {name: 2 * share for name, share in limits.items()}
    of_lines = REPETITION.model_copy(update={**limits, "top_n_grams": [], "dup_n_grams": []})
    tree = {name: Threshold(share, measured) for name, share in limits.items()}
    plain = _judge(GopherRepetitionFilter(**tree, top_n_grams=(), dup_n_grams=(), language=plain_words()), measured)
    assert gopher_repetition(of_lines)(text) == plain(text)


def test_rules_must_be_complete() -> None:
    with pytest.raises(ValidationError):
        GopherQuality.model_validate({**QUALITY.model_dump(), "min_sentences": 3})
    with pytest.raises(ValidationError):
        GopherQuality.model_validate({"min_doc_words": 3})


def test_published_thresholds_are_the_librarys_defaults() -> None:
    from datatrove.pipeline.filters.c4_filters import C4QualityFilter
    from datatrove.pipeline.filters.fineweb_quality_filter import FineWebQualityFilter

    assert QUALITY.model_dump().items() <= vars(GopherQualityFilter()).items()
    assert PAGE.model_dump().items() <= vars(C4QualityFilter()).items()
    library = vars(GopherRepetitionFilter())
    assert [share for _, share in library["top_n_grams"]] == REPETITION.top_n_grams
    assert [share for _, share in library["dup_n_grams"]] == REPETITION.dup_n_grams
    assert REPETITION.dup_line_frac == library["dup_line_frac"]
    web = vars(FineWebQualityFilter())
    renamed = {"short_line_thr": "short_line_threshold"}
    assert {name: web[renamed.get(name, name)] for name in WEB.model_dump()} == WEB.model_dump()
