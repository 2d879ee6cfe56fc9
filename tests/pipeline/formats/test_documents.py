import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.formats.documents import (
    DOCUMENTS_PER_SHARD,
    Document,
    decode_document,
    encode_document,
    id_hash,
    read_documents,
    shard_name,
    share_limit,
    text_sha256,
)
from pipeline.formats.lines import encode_line, write_lines
from tests.pipeline.formats import second_reader as second
from tests.pipeline.formats.values import TEXTS
from tests.shards import write_documents, write_sharded

SEEDS = st.integers(0, 2**53 - 1)
PLAIN: dict[str, Any] = {
    "id": "s/1",
    "metadata": {"license": "CC0-1.0", "source": "s", "text_sha256": text_sha256("one")},
    "text": "one",
}


def document(number: int, text: str) -> Document:
    return Document(f"s/{number}", text, {"license": "CC0-1.0", "source": "s", "text_sha256": text_sha256(text)})


@given(TEXTS, TEXTS, st.dictionaries(TEXTS, TEXTS, max_size=4))
def test_a_document_comes_back_as_it_was(id: str, text: str, metadata: dict[str, str]) -> None:
    whole = Document(id, text, metadata | {"license": "l", "source": "s", "text_sha256": text_sha256(text)})
    line = encode_document(whole)
    assert decode_document(line, Path("f")) == whole
    assert line.decode() == second.canonical(json.loads(line)) + "\n"


def test_a_document_knows_its_source_and_licence_and_follows_its_text() -> None:
    changed = document(1, "one").with_text("two")
    assert (changed.source, changed.license) == ("s", "CC0-1.0")
    assert changed.metadata["text_sha256"] == text_sha256("two")
    assert document(1, "one").with_text("one") == document(1, "one")


@pytest.mark.parametrize(
    "tree",
    [
        [],
        None,
        "id",
        {},
        {key: PLAIN[key] for key in ("id", "text")},
        PLAIN | {"more": 1},
        PLAIN | {"id": 1},
        PLAIN | {"text": None},
        PLAIN | {"metadata": []},
        PLAIN | {"metadata": None},
        PLAIN | {"metadata": {}},
        PLAIN | {"metadata": PLAIN["metadata"] | {"year": 1999}},
        PLAIN | {"metadata": {"license": "CC0-1.0", "source": "s"}},
    ],
)
def test_a_line_that_is_no_document_is_refused_by_file(tree: Any) -> None:
    with pytest.raises(EverystepError, match=r"^f\.jsonl: a line is not a document"):
        decode_document(json.dumps(tree).encode(), Path("f.jsonl"))


@given(st.binary(max_size=40))
def test_garbage_is_refused(line: bytes) -> None:
    with pytest.raises(EverystepError):
        decode_document(line, Path("f"))


@given(TEXTS, st.sampled_from(["cap", "shuffle", "validation"]), SEEDS)
def test_hash_of_an_id_is_the_one_of_the_document(id: str, purpose: str, seed: int) -> None:
    assert id_hash(id, purpose, seed) == second.id_hash(id, purpose, seed)


def test_hashes_for_two_purposes_have_nothing_in_common() -> None:
    """Of the half with the small hashes for one purpose, about half have small hashes for another."""
    ids = [f"s/{i}" for i in range(2000)]
    small = [id for id in ids if id_hash(id, "shuffle", 1) < 2**63]
    for purpose, seed in (("validation", 1), ("shuffle", 2), ("cap", 0)):
        assert 0.45 < sum(id_hash(id, purpose, seed) < 2**63 for id in small) / len(small) < 0.55


def is_validation(id: str, share: float, seed: int) -> bool:
    return id_hash(id, "validation", seed) < share_limit(share)


@given(TEXTS, SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_all_that_a_smaller_does(id: str, seed: int, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert is_validation(id, large, seed) or not is_validation(id, small, seed)
    assert is_validation(id, small, seed) == (second.id_hash(id, "validation", seed) < second.share_limit(small))


def test_nothing_and_everything_can_be_held_out() -> None:
    ids = [f"s/{i}" for i in range(1000)]
    assert not any(is_validation(id, 0.0, 3) for id in ids)
    assert all(is_validation(id, 1.0, 3) for id in ids)
    assert 60 < sum(is_validation(id, 0.1, 3) for id in ids) < 140


@pytest.mark.parametrize("count", [0, 1, DOCUMENTS_PER_SHARD, DOCUMENTS_PER_SHARD + 1])
def test_shards_are_full_but_the_last(tmp_path: Path, count: int) -> None:
    shards = write_sharded(tmp_path, (document(n, "x") for n in range(count)))
    assert [shard.path for shard in shards] == [shard_name(n) for n in range(len(shards))]
    assert sum(shard.lines for shard in shards) == count
    assert all(shard.lines == DOCUMENTS_PER_SHARD for shard in shards[:-1])
    found = [found.id for shard in shards for found in read_documents(tmp_path / shard.path)]
    assert found == [f"s/{n}" for n in range(count)]


def test_a_shard_of_other_lines_is_refused_while_it_is_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "f", [encode_document(document(1, "x")), encode_line({"token_ids": [1]})], "f")
    with pytest.raises(EverystepError, match="not a document"):
        list(read_documents(tmp_path / "f"))
    shard = write_documents(tmp_path / "f", [document(1, "x")], "name")
    assert (shard.path, shard.lines) == ("name", 1)
