from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from pipeline.blocks.token_ids import SEPARATOR, Encoder, Reference
from pipeline.formats.vocabulary import END_OF_TEXT, FILL_MIDDLE, FILL_PREFIX, FILL_SUFFIX, end_token, token_texts

WORDS = (
    "the river and the mountain, it's 42 gardens: don't\n\n  remember\tétude ありがとう 😀 <|endoftext|> end of text"
)
HARD = [
    "",
    END_OF_TEXT,
    f"{END_OF_TEXT}{END_OF_TEXT}",
    f"a {END_OF_TEXT} b",
    "<|endoftext|",
    SEPARATOR,
    f"x{SEPARATOR}",
    f"a{FILL_PREFIX}b{FILL_SUFFIX}{FILL_MIDDLE} c",
]


@pytest.fixture(scope="module", params=[320, 400, 420])
def tokenizer(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """As our own stage trains it."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=request.param,
        special_tokens=[END_OF_TEXT, FILL_PREFIX, FILL_SUFFIX, FILL_MIDDLE][: request.param - 319],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator([WORDS * 3, f"{FILL_PREFIX} fim_prefix" * 3, "endoftext |> <| <|endoftext"], trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(trained.to_str())
    return path


def one_by_one(tokenizer: Path, texts: list[str]) -> list[list[int]]:
    reference, end = Reference(tokenizer), end_token(tokenizer)
    return [[*reference.encode(text), end] for text in texts]


def together(tokenizer: Path, texts: list[str]) -> list[list[int]]:
    ids, counts = Encoder(tokenizer).encode(pa.array(texts, pa.string()))
    assert ids.dtype == np.uint32 and counts.sum() == len(ids) and len(counts) == len(texts)
    return [piece.tolist() for piece in np.split(ids, counts.cumsum()[:-1])] if texts else []


@pytest.mark.parametrize("texts", [[text] for text in HARD] + [HARD, HARD[:5], [], ["", ""], WORDS.split(" ")])
def test_texts_that_spell_special_tokens_get_the_ids_of_the_reference(tokenizer: Path, texts: list[str]) -> None:
    assert together(tokenizer, texts) == one_by_one(tokenizer, texts)


@given(st.lists(st.text(max_size=40) | st.sampled_from(HARD) | st.text("\U0010fffe\U0010ffff ab<|", max_size=6)))
def test_ids_are_those_of_the_reference_and_spell_the_text(tokenizer: Path, texts: list[str]) -> None:
    found = together(tokenizer, texts)
    assert found == one_by_one(tokenizer, texts)
    spelled, end = token_texts(tokenizer), end_token(tokenizer)
    for text, ids in zip(texts, found, strict=True):
        assert b"".join(spelled[id] for id in ids[:-1]) == text.encode()
        assert ids.index(end) == len(ids) - 1
