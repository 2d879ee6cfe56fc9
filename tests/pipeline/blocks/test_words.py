import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks import words
from pipeline.blocks.words import MAX_RUN, split_run, split_sentences, split_words

TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("aB1 .,:'’\"()-/<=>*_…"), max_size=40)

# What spaCy 3.8.18's blank English pipeline makes of these, blanks taken out.
SPACY = {
    "Don't stop (now)!": "Do n't stop ( now ) !",
    'He said: "It\'s 5km away..." e.g. in the U.S.': 'He said : " It \'s 5 km away ... " e.g. in the U.S.',
    "can't cannot we'll I'm they've": "ca n't can not we 'll I 'm they 've",
    "see https://example.org/a?b=c, or mail x@y.org.": "see https://example.org/a?b=c , or mail x@y.org .",
    "state-of-the-art and/or 1,000.50 3-4 a=b": "state - of - the - art and/or 1,000.50 3 - 4 a = b",
    "Mr. Smith's dog; 'quoted' 100% $5 10th": "Mr. Smith 's dog ; ' quoted ' 100 % $ 5 10th",
    "end.Next word": "end . Next word",
    "foo_bar(x): {a: b}": "foo_bar(x ): { a : b }",
    "John’s “book” – yes—no": "John ’s “ book ” – yes — no",
    "10.0.0.1 v1.2 C++ #1 *bold*": "10.0.0.1 v1.2 C++ # 1 * bold *",
}


@pytest.mark.parametrize("text", SPACY)
def test_words_are_those_of_spacy(text: str) -> None:
    assert split_words(text) == SPACY[text].split()


@given(TEXTS)
def test_words_joined_are_the_text_without_blanks(text: str) -> None:
    assert "".join(split_words(text)) == "".join(text.split())
    assert all(split_words(text))


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("He paid 3.5. Then left...", ["He paid 3.5.", "Then left..."]),
        ("No end", ["No end"]),
        ("Hi!!! (Really?) Yes. ", ["Hi!!! (", "Really?)", "Yes."]),
        ("Mr. A e.g. b. C", ["Mr. A e.g. b. C"]),
        ("", []),
        (" \n", []),
    ],
)
def test_sentences_are_those_of_spacy(text: str, sentences: list[str]) -> None:
    assert [text[start:end] for start, end in split_sentences(text)] == sentences


@given(TEXTS)
def test_sentences_are_disjoint_and_hold_every_word(text: str) -> None:
    spans = split_sentences(text)
    assert all(start < end for start, end in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    assert "".join("".join(text[start:end].split()) for start, end in spans) == "".join(text.split())


@pytest.mark.parametrize("run", ["(" * 500, ".a" * 480, "@a" * 490, "a-" * 490, "'" * MAX_RUN, "1" * MAX_RUN])
def test_no_run_takes_long(run: str) -> None:
    began = time.process_time()
    split_words(" ".join([run] * 20))
    assert time.process_time() - began < 2


@given(
    st.text(st.sampled_from("adDmnotIcz\u00e9\u00aa\u2160\u4e00"), min_size=1, max_size=7),
    st.sampled_from(["", *",;:!?)]}\"\u201d.'-%(", ".."]),
)
def test_letters_and_a_mark_are_split_as_any_run_is(letters: str, mark: str) -> None:
    found = split_run(letters + mark)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "_split_letters", lambda run: ())
        assert found == split_run(letters + mark)


def test_a_run_that_is_no_language_is_one_word() -> None:
    assert split_words("(" * (MAX_RUN + 1)) == ["(" * (MAX_RUN + 1)]
