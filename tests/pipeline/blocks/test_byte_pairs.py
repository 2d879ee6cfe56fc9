"""The second encoder gives the ids of the library that made the tokenizer, for any text."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.blocks.byte_pairs import BytePairs, is_known, split
from pipeline.formats.canonical import parse

ALPHABET = "the that river's 're 'll  \n\t12½Ⅳäöé日本\u00a0\u2003\x1c\x85🎉"


@pytest.fixture(scope="module")
def encoders(built_project: Path) -> tuple[BytePairs, Tokenizer]:
    path = built_project / "data/tokenizer/tokenizer.json"
    model = parse(path.read_bytes(), path)["model"]
    theirs = Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    return BytePairs(model["vocab"], model["merges"]), theirs


def same(encoders: tuple[BytePairs, Tokenizer], text: str) -> bool:
    ours, theirs = encoders
    expected: list[int] = theirs.encode(text, add_special_tokens=False).ids
    found: list[int] = np.frombuffer(ours.encode(text), "<u4").tolist()
    return found == expected


def test_likely_texts_have_the_ids_of_the_library(encoders: tuple[BytePairs, Tokenizer]) -> None:
    draw = random.Random(7)
    for _ in range(2000):
        assert same(encoders, "".join(draw.choices(ALPHABET, k=draw.randint(0, 40))))


@given(st.text())
def test_every_text_of_known_characters_has_the_ids_of_the_library(
    encoders: tuple[BytePairs, Tokenizer], text: str
) -> None:
    if is_known(text):
        assert same(encoders, text)


@given(st.text())
def test_words_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text


def test_a_long_word_has_the_ids_of_the_library_in_time_that_grows_with_its_length(
    encoders: tuple[BytePairs, Tokenizer],
) -> None:
    draw = random.Random(7)
    for length in (190, 200, 210, 1000, 5000):
        for alphabet in ("a", "the", "theandriver"):
            assert same(encoders, "".join(draw.choices(alphabet, k=length)))
    assert same(encoders, "the" * 100_000)


def test_the_name_of_a_special_token_is_ordinary_text(encoders: tuple[BytePairs, Tokenizer]) -> None:
    assert same(encoders, "<|endoftext|> and <|fim_prefix|>")
