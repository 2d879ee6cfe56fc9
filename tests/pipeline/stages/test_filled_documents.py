"""The stage `tokenize` with fill-in-the-middle: every document comes back from its pieces, and nothing else changes."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from pipeline.blocks.fill_in_the_middle import Filling
from pipeline.formats.documents import Document
from pipeline.formats.rows import Rows
from pipeline.formats.stages import manifest_path
from pipeline.formats.vocabulary import FILL_MIDDLE, FILL_PREFIX, FILL_SUFFIX, special_token
from pipeline.stages.tokenize import encode
from tests.pipeline.stages.test_tokenize import MIXTURE, Case, documents, forget, index, tokenized
from tests.releases import read_json, shards_of
from tests.shards import write_documents

RULE = {"share": 0.5, "suffix_first_share": 0.5}
SENTINELS = (FILL_PREFIX, FILL_SUFFIX, FILL_MIDDLE)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, built_project: Path) -> Path:
    folder = tmp_path_factory.mktemp("filled")
    tokenized(folder, built_project, MIXTURE, fill_in_the_middle=RULE)
    return folder


def filling(project: Path) -> Filling:
    parameters = read_json(project / manifest_path("tokenize"))["parameters"]
    return Filling(**parameters["fill_in_the_middle"], seed=parameters["seed"])


def ids_of_documents(project: Path, split: str) -> list[tuple[str, list[int]]]:
    """Each document of a split that lies in rows as a whole, with its ids, found by the index."""
    tokens = read_json(project / manifest_path("tokenize"))
    rows = Rows(project / "data/tokens", shards_of(tokens, split), tokens["width"], tokens["vocabulary"])
    stream = np.concatenate(list(rows)).tolist()
    found = []
    for row in index(project, split):
        start = row["first_row"] * tokens["width"] + row["offset"]
        if start + row["num_tokens"] <= len(stream):
            found.append((row["id"], stream[start : start + row["num_tokens"]]))
    return found


def test_every_document_comes_back_from_its_pieces_in_the_rows(filled: Path) -> None:
    tokenizer = Tokenizer.from_file(str(filled / "data/tokenizer/tokenizer.json"))
    prefix, suffix, middle = (tokenizer.get_vocab()[sentinel] for sentinel in SENTINELS)
    texts = {document.id: document.text for document in documents(filled, "train")}
    kinds: Counter[str] = Counter()
    for id, ids in ids_of_documents(filled, "train"):
        if prefix not in ids:
            kinds["whole"] += 1
            assert tokenizer.decode(ids[:-1]) == texts[id]
            continue
        assert ids[0] == prefix and [ids.count(mark) for mark in (prefix, suffix, middle)] == [1, 1, 1]
        before = tokenizer.decode(ids[1 : ids.index(suffix)])
        behind = tokenizer.decode(ids[ids.index(suffix) + 1 : ids.index(middle)])
        last = tokenizer.decode(ids[ids.index(middle) + 1 : -1])
        kinds["suffix first" if ids[1] == suffix else "prefix first"] += 1
        assert before + last + behind == texts[id]
    assert min(kinds.values()) > 20 and len(kinds) == 3


def test_validation_holds_no_sentinel_and_every_text(filled: Path) -> None:
    tokenizer = Tokenizer.from_file(str(filled / "data/tokenizer/tokenizer.json"))
    sentinels = {tokenizer.token_to_id(sentinel) for sentinel in SENTINELS}
    texts = {document.id: document.text for document in documents(filled, "validation")}
    for id, ids in ids_of_documents(filled, "validation"):
        assert tokenizer.decode(ids[:-1]) == texts[id] and not sentinels & set(ids)


def test_the_manifest_counts_every_copy_of_what_was_cut_by_source(filled: Path) -> None:
    counted = read_json(filled / manifest_path("tokenize"))["filled_documents_by_source"]
    cut = [row["source"] for row in index(filled, "train") if filling(filled).chooses(row["id"])]
    assert counted == dict(Counter(cut)) and counted.keys() == {"letters", "notes", "tales"}


def test_sentinels_are_special_tokens_behind_the_end_token_and_stand_for_no_bytes(filled: Path) -> None:
    path = filled / "data/tokenizer/tokenizer.json"
    end = read_json(filled / manifest_path("tokenize"))["end_token"]
    assert [special_token(path, sentinel) for sentinel in SENTINELS] == [end + 1, end + 2, end + 3]
    assert {token.content for token in Tokenizer.from_file(str(path)).get_added_tokens_decoder().values()} == {
        "<|endoftext|>",
        *SENTINELS,
    }


@pytest.mark.parametrize("more", [{}, {"fill_in_the_middle": None}])
def test_off_changes_no_byte(tmp_path: Path, built_project: Path, more: Case) -> None:
    tokenized(tmp_path, built_project, {}, **more)
    path = Path("data/tokenizer/tokenizer.json")
    assert (tmp_path / path).read_bytes() == (built_project / path).read_bytes()
    for stage in ("tokenizer", "tokenize"):
        ours, theirs = (read_json(root / manifest_path(stage)) for root in (tmp_path, built_project))
        for manifest in (ours, theirs):
            del manifest["inputs"], manifest["params"]  # the digest of a section with a null in it is another
        assert ours == theirs


def test_number_of_processes_changes_no_byte_of_it(filled: Path, built_project: Path, tmp_path: Path) -> None:
    tokenized(tmp_path, built_project, MIXTURE, workers=3, fill_in_the_middle=RULE)
    assert (tmp_path / manifest_path("tokenize")).read_bytes() == (filled / manifest_path("tokenize")).read_bytes()


def test_no_document_changes_when_others_are_removed(
    filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "TOKENIZER", filled / "data/tokenizer/tokenizer.json")
    forget()
    every = documents(filled, "train")
    all_of_them, half = (encoded(tmp_path, some, filling(filled)) for some in (every, every[1::2]))
    assert half == {id: ids for id, ids in all_of_them.items() if id in half} and len(half) == len(every) // 2
    forget()


def encoded(folder: Path, some: list[Document], rule: Filling) -> dict[str, list[int]]:
    name = f"{len(some)}.jsonl.zst"
    part = encode.EncodedShard(folder, write_documents(folder / name, some, name), folder / f"{len(some)}", "uint16")
    encode.encode_shard(part, rule)
    table: Any = part.table()
    pieces = np.split(part.ids(), table["num_tokens"].to_numpy().cumsum()[:-1])
    return {id: ids.tolist() for id, ids in zip(table["id"].to_pylist(), pieces, strict=True)}


def test_a_share_above_one_is_refused_by_its_key(tmp_path: Path, built_project: Path) -> None:
    with pytest.raises(AssertionError, match=r"params\.yaml: tokenize\.fill_in_the_middle\.share: .* got 1\.5"):
        tokenized(tmp_path, built_project, {}, fill_in_the_middle=RULE | {"share": 1.5})
