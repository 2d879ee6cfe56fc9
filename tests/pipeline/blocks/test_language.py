import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks.block import Fault
from pipeline.blocks.language import MAX_CHARACTERS, Language, _model, _quick, identify, language
from pipeline.blocks.language_bounds import MARGIN

SENTENCES = {
    "en": "It was the best of times, it was the worst of times, it was the age of wisdom.",
    "de": "Es war einmal ein alter König, der in einem großen Schloss am Rande des Waldes wohnte.",
    "fr": "Longtemps, je me suis couché de bonne heure, et mes yeux se fermaient si vite.",
    "es": "En un lugar de la Mancha, de cuyo nombre no quiero acordarme, vivía un hidalgo.",
    "ru": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.",
    "zh": "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。",
    "ja": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。",
}
WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@pytest.mark.parametrize("spoken", SENTENCES)
def test_a_plain_sentence_is_identified(spoken: str) -> None:
    code, probability = identify(SENTENCES[spoken])
    assert code == spoken
    assert probability > 0.4, "the threshold of params.yaml"


@pytest.mark.parametrize("text", ["", " \n\t ", "\u3000"])
def test_nothing_is_in_no_language(text: str) -> None:
    assert identify(text) == ("und", 0.0)


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=100))
def test_any_text_has_one_answer(text: str) -> None:
    code, probability = identify(text)
    assert code
    assert 0 <= probability <= 1.001
    assert probability == round(probability, 3)
    assert identify(text) == (code, probability)


@given(
    st.lists(st.sampled_from([*SENTENCES.values(), "the", "</s>", "__label__en", "a\0b", "xqzt"]) | WORDS, max_size=12)
)
def test_sums_over_runs_are_near_what_the_library_says(parts: list[str]) -> None:
    sample = " ".join(" ".join(parts).split())
    labels, probabilities = _model().predict(sample, k=1)
    code = labels[0].removeprefix("__label__")
    found = _quick().probability(sample, code)
    odd = any(run == "</s>" or run.startswith("__label__") or "\0" in run for run in sample.split())
    assert math.isnan(found) if odd else abs(found - probabilities[0]) < MARGIN / 100


@given(st.lists(st.sampled_from([*SENTENCES.values()]) | WORDS, max_size=5), st.sampled_from([0.2, 0.4, 0.9]))
def test_every_decision_is_the_librarys(parts: list[str], least: float) -> None:
    text = " ".join(parts)
    code, probability = identify(text)
    for languages in (["en"], ["xx", "de", "fr"]):
        found = language(Language(min_probability=least), languages)(text)
        kept = code in languages and probability >= least
        assert found == (None if kept else Fault("language", f"{code} {probability:.3f}"))


def test_line_breaks_and_blanks_change_nothing() -> None:
    assert identify(SENTENCES["en"].replace(" ", "\n \t ")) == identify(SENTENCES["en"])


def test_only_the_beginning_of_a_long_text_is_looked_at() -> None:
    beginning = (SENTENCES["de"] + " ") * 100
    assert len(beginning) > 2 * MAX_CHARACTERS
    assert identify(beginning + SENTENCES["en"] * 1000) == identify(beginning)
