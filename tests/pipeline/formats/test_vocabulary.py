import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats.vocabulary import END_OF_TEXT, end_token, token_bytes

END = {"id": 0, "content": END_OF_TEXT, "special": True}
PLAIN: dict[str, Any] = {
    "model": {"type": "BPE", "vocab": {END_OF_TEXT: 0, "a": 1, "Ġthe": 2, "Ã©": 3}},
    "decoder": {"type": "ByteLevel"},
    "added_tokens": [END],
}


def write(folder: Path, tree: Any) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    return folder / "tokenizer.json"


def test_every_character_of_a_token_is_one_byte_and_a_special_token_none(tmp_path: Path) -> None:
    path = write(tmp_path, PLAIN)
    assert token_bytes(path).tolist() == [0, 1, 4, 2]
    assert end_token(path) == 0


def test_an_added_token_may_stand_behind_the_vocabulary(tmp_path: Path) -> None:
    more = [END, {"id": 5, "content": "<|user|>", "special": True}, {"id": 4, "content": "  é", "special": False}]
    assert token_bytes(write(tmp_path, PLAIN | {"added_tokens": more})).tolist() == [0, 1, 4, 2, 4, 0]


def test_bytes_of_the_tokens_of_a_text_are_the_bytes_of_the_text(tmp_path: Path) -> None:
    tokenizers = importlib.import_module("tokenizers")
    trained = tokenizers.Tokenizer(tokenizers.models.BPE())
    trained.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END_OF_TEXT], initial_alphabet=sorted(alphabet), show_progress=False
    )
    trained.train_from_iterator(["the cat and the other cat, été après été " * 20], trainer)
    trained.save(str(tmp_path / "tokenizer.json"))
    sizes = token_bytes(tmp_path / "tokenizer.json")
    assert len(sizes) == trained.get_vocab_size()
    for text in ("the other cat", "été\n\n", "日本 \U0001f600\x00", ""):
        assert sum(int(sizes[id]) for id in trained.encode(text).ids) == len(text.encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"type": "Unigram", "vocab": []}},
        {"model": {"type": "BPE"}},
        {"model": None},
        {"decoder": {"type": "WordPiece"}},
        {"decoder": None},
        {"added_tokens": None},
        {"added_tokens": [{}]},
        {"added_tokens": [END | {"content": None, "special": False}]},
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 10**15}}},
        {"model": {"type": "BPE", "vocab": {"a": "0"}}},
        {"model": {"type": "BPE", "vocab": {"a": [0]}}},
        {"model": {"type": "BPE", "vocab": []}},
    ],
)
def test_another_kind_of_tokenizer_is_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(EverystepError, match=rf"^{tmp_path}/tokenizer\.json: "):
        token_bytes(write(tmp_path, PLAIN | changes))


@pytest.mark.parametrize(
    "added", [[], None, [{"content": "<s>"}], [{"content": END_OF_TEXT}], [{"content": END_OF_TEXT, "id": None}]]
)
def test_a_tokenizer_without_an_end_token_is_refused(tmp_path: Path, added: Any) -> None:
    with pytest.raises(EverystepError, match=rf"^{tmp_path}/tokenizer\.json: "):
        end_token(write(tmp_path, PLAIN | {"added_tokens": added}))


@pytest.mark.parametrize("read", [token_bytes, end_token])
def test_what_is_no_tokenizer_is_refused(tmp_path: Path, read: Any) -> None:
    trees: list[Any] = [[], None, {}, "x"]
    for tree in trees:
        with pytest.raises(EverystepError):
            read(write(tmp_path, tree))
    with pytest.raises(EverystepError, match="cannot be read"):
        read(tmp_path / "nothing.json")
