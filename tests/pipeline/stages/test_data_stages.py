"""What the data stages promise, checked on the small project that DVC built."""

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from pipeline.base.files import sha256_file
from pipeline.base.yaml import load_yaml
from pipeline.formats.documents import Document, id_hash, read_documents, share_limit
from pipeline.formats.order import permute
from pipeline.formats.rows import DocumentIndex, Rows
from pipeline.formats.stages import manifest_path
from pipeline.formats.vocabulary import END_OF_TEXT
from tests.project import ROOT, SOURCES, run
from tests.releases import read_json, shards_of
from tests.shards import read_lines


def manifest(project: Path, stage: str, of: str | None = None) -> dict[str, Any]:
    tree: dict[str, Any] = read_json(project / manifest_path(stage, of))
    return tree


def documents(
    project: Path, folder: str, stage: str, of: str | None = None, output: str = "documents"
) -> list[Document]:
    shards = shards_of(manifest(project, stage, of), output)
    return [document for shard in shards for document in read_documents(project / folder / shard.path)]


def removals(project: Path, folder: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(project / folder / "removals.parquet").to_pylist()
    return rows


def similarity(left: str, right: str) -> float:
    """Jaccard of the sets of five words in a row, spelt out."""
    one, other = (
        {tuple(words[i : i + 5]) for i in range(max(1, len(words) - 4))}
        for words in (left.lower().split(), right.lower().split())
    )
    return round(len(one & other) / len(one | other), 6)


def test_every_document_is_kept_or_on_record_with_its_reason(built_project: Path) -> None:
    for name in SOURCES:
        found = {d.id for d in documents(built_project, f"data/documents/{name}", "extract", name)}
        kept = {d.id for d in documents(built_project, f"data/filtered/{name}", "filter", name)}
        gone = Counter(row["id"] for row in removals(built_project, f"data/filtered/{name}"))
        assert found == kept | gone.keys() and not kept & gone.keys()
        assert set(gone.values()) <= {1}
    filtered = [d for name in SOURCES for d in documents(built_project, f"data/filtered/{name}", "filter", name)]
    stayed = [
        d for s in ("train", "validation") for d in documents(built_project, "data/deduplicated", "dedup", None, s)
    ]
    gone = Counter(row["id"] for row in removals(built_project, "data/deduplicated"))
    assert {d.id for d in filtered} == {d.id for d in stayed} | gone.keys()
    assert len(filtered) == len(stayed) + sum(gone.values())


def test_cap_takes_documents_in_the_order_of_their_hash_up_to_the_bytes(built_project: Path) -> None:
    dropped = {r["id"] for r in removals(built_project, "data/filtered/tales") if r["reason"] == "cap"}
    ranked = sorted(
        documents(built_project, "data/documents/tales", "extract", "tales"), key=lambda d: id_hash(d.id, "cap")
    )
    sizes = np.cumsum([len(d.text.encode()) for d in ranked])
    assert dropped == {d.id for d, total in zip(ranked, sizes, strict=True) if total > 60000}
    assert dropped


def test_every_duplicate_names_one_that_stayed_and_the_similarity_measured_on_the_texts(built_project: Path) -> None:
    texts = {d.id: d.text for n in SOURCES for d in documents(built_project, f"data/filtered/{n}", "filter", n)}
    gone = removals(built_project, "data/deduplicated")
    assert {row["reason"] for row in gone} == {"exact_duplicate", "near_duplicate"}
    for row in gone:
        assert row["kept"] not in {other["id"] for other in gone}
        measured = similarity(texts[row["id"]], texts[row["kept"]])
        assert row["similarity"] == measured >= 0.8


def test_held_out_documents_are_those_of_the_hash_and_in_no_training_row(built_project: Path) -> None:
    dedup = manifest(built_project, "dedup")["parameters"]
    for split in ("train", "validation"):
        for document in documents(built_project, "data/deduplicated", "dedup", None, split):
            held_out = id_hash(document.id, "validation", dedup["seed"]) < share_limit(dedup["validation_share"])
            assert held_out == (split == "validation")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_are_the_documents_in_order_with_one_end_token_each(built_project: Path, split: str) -> None:
    tokens = manifest(built_project, "tokenize")
    rows = Rows(built_project / "data/tokens", shards_of(tokens, split), tokens["width"], tokens["vocabulary"])
    tokenizer = Tokenizer.from_file(str(built_project / "data/tokenizer/tokenizer.json"))
    stream = np.concatenate(list(rows))
    expected: list[int] = []
    for document in documents(built_project, "data/deduplicated", "dedup", None, split):
        expected += [*tokenizer.encode(document.text).ids, tokens["end_token"]]
    assert stream.tolist() == expected[: len(stream)]
    assert len(expected) - len(stream) == tokens["splits"][split]["dropped_tail_tokens"] < tokens["width"]


def test_index_says_where_each_document_lies(built_project: Path) -> None:
    tokens = manifest(built_project, "tokenize")
    rows = Rows(built_project / "data/tokens", shards_of(tokens, "train"), tokens["width"], tokens["vocabulary"])
    index = DocumentIndex(built_project / "data/tokens/train.parquet", tokens["width"])
    tokenizer = Tokenizer.from_file(str(built_project / "data/tokenizer/tokenizer.json"))
    texts = {d.id: d.text for d in documents(built_project, "data/deduplicated", "dedup", None, "train")}
    for id in sorted(texts)[5:25]:
        (held,) = index.rows_of_document(id)
        spans = [span for row in held for span in index.documents_of_row(row) if span.id == id]
        ids = [token for span in spans for token in rows[span.row][span.start : span.stop].tolist()]
        assert tokenizer.decode(ids[:-1]) == texts[id] and ids[-1] == tokens["end_token"]


def test_published_order_is_the_permutation(built_project: Path) -> None:
    tokens = manifest(built_project, "tokenize")
    published = [json.loads(line)["row"] for line in read_lines(built_project / "data/tokens/order.jsonl.zst")]
    num_rows = tokens["splits"]["train"]["rows"]
    expected = permute(np.arange(num_rows, dtype=np.uint64), num_rows, tokens["parameters"]["seed"], 0)
    assert published == expected.tolist() and sorted(published) == list(range(num_rows))


def test_spelling_of_the_end_token_in_a_text_is_no_end_token(
    tmp_path: Path, corpora: Path, built_project: Path
) -> None:
    project = tmp_path / "project"
    for folder in ("data", "manifests"):
        shutil.copytree(built_project / folder, project / folder)
    told = [json.loads(line)["text"] for line in (corpora / "tales.jsonl").read_text().splitlines()[:2]]
    text = END_OF_TEXT.join(told)
    (tmp_path / "tales.jsonl").write_text(json.dumps({"id": "x", "text": text}) + "\n")
    tree = load_yaml(built_project / "params.yaml")
    changed = tmp_path / "tales.jsonl"
    tree["sources"]["tales"] |= {"url": changed.as_uri(), "sha256": sha256_file(changed)}
    (project / "params.yaml").write_text(json.dumps(tree))
    for stage in ("fetch tales", "extract tales", "filter tales", "dedup", "tokenizer", "tokenize"):
        command = [sys.executable, "-m", "pipeline.stages", *stage.split()]
        run(project, *command, PYTHONPATH=str(ROOT), EVERYSTEP_WORKERS="1")
    tokens = manifest(project, "tokenize")
    tokenizer = Tokenizer.from_file(str(project / "data/tokenizer/tokenizer.json"))
    for split in ("train", "validation"):
        index = DocumentIndex(project / f"data/tokens/{split}.parquet", tokens["width"])
        if not (found := index.rows_of_document("tales/x")):
            continue
        (held,) = found
        rows = Rows(project / "data/tokens", shards_of(tokens, split), tokens["width"], tokens["vocabulary"])
        spans = [
            span for row in held for span in index.documents_of_row(row) if span.id == "tales/x" and row < len(rows)
        ]
        ids = [token for span in spans for token in rows[span.row][span.start : span.stop].tolist()]
        assert ids.count(tokens["end_token"]) <= 1
        assert tokenizer.decode(ids[:-1], skip_special_tokens=True) == text
        return
    raise AssertionError("the document is in no split")
