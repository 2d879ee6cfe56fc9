"""Tokenizer: a byte-level BPE whose vocabulary follows from its merges, written in one way, and the one that was used.

Special tokens come first, then the 256 bytes in the order of their characters, then what each merge makes. Nothing
changes a text before it is encoded, or its ids afterwards.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from pipeline.base.paths import TOKENIZER
from pipeline.formats.canonical import Json, parse
from pipeline.formats.manifests import Evaluated, TokenizerTrained, Tokens, path_of
from pipeline.formats.vocabulary import BYTE_OF, END_OF_TEXT, FILL_MIDDLE, FILL_PREFIX, FILL_SUFFIX
from pipeline.release.release import Release

OFF: dict[str, Any] = {
    "truncation": None,
    "padding": None,
    "normalizer": None,
    "post_processor": None,
    "model.dropout": None,
    "model.unk_token": None,
    "model.continuing_subword_prefix": None,
    "model.end_of_word_suffix": None,
    "model.fuse_unk": False,
    "model.byte_fallback": False,
    "model.ignore_merges": False,
    "pre_tokenizer.add_prefix_space": False,
}
"""What could make other ids of a text, and is off."""


def tokenizer_faults(release: Release) -> Iterator[str]:
    """What is unlike a tokenizer that the stage `tokenizer` trains."""
    content = release.read(TOKENIZER)
    tree = parse(content, TOKENIZER)
    if (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode() != content:
        yield f"{TOKENIZER}: is not written as its library writes it"
    for key, value in OFF.items():
        if _at(tree, key) != value:
            yield f"{TOKENIZER}: {key} is {_at(tree, key)}, expected {value}"
    if tree["pre_tokenizer"]["type"] != "ByteLevel" or tree["pre_tokenizer"].get("use_regex") is not True:
        yield f"{TOKENIZER}: pre_tokenizer: does not cut texts as GPT-2 does"
    tokens, trained = release.manifest(Tokens), release.manifest(TokenizerTrained)
    filled = "fill_in_the_middle" in tokens.parameters.to_json()
    special = [END_OF_TEXT, *((FILL_PREFIX, FILL_SUFFIX, FILL_MIDDLE) if filled else ())]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    if tree["added_tokens"] != [{"id": id, "content": name} | plain for id, name in enumerate(special)]:
        yield f"{TOKENIZER}: added_tokens: are not {', '.join(special)}"
    made = [*special, *sorted(BYTE_OF), *map("".join, tree["model"]["merges"])]
    expected = {token: id for id, token in enumerate(dict.fromkeys(made))}
    if tree["model"]["vocab"] != expected:
        yield f"{TOKENIZER}: model.vocab: does not follow from the merges"
    for path, key, said, found in (
        (trained.path, "vocabulary", trained.vocabulary, len(expected)),
        (tokens.path, "vocabulary", tokens.vocabulary, len(expected)),
        (tokens.path, "end_token", tokens.end_token, expected[END_OF_TEXT]),
    ):
        if said != found:
            yield f"{path}: {key} is {said}, {TOKENIZER} gives {found}"
    if trained.vocabulary > trained.parameters.to_json()["vocabulary"]:
        yield f"{trained.path}: vocabulary is {trained.vocabulary}, more than its parameters ask for"
    sha256 = hashlib.sha256(content).hexdigest()
    for model in release.names(Evaluated):
        if release.manifest(Evaluated, model).tokenizer_sha256 != sha256:
            yield f"{path_of(Evaluated, model)}: tokenizer_sha256: is that of another tokenizer"


def _at(tree: Json, key: str) -> Json:
    for part in key.split("."):
        tree = tree.get(part)
    return tree
