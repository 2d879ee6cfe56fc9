"""The stage `tokenize` on the small project: mixtures, the comparison with the reference, any number of processes."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from pipeline.base.errors import EverystepError
from pipeline.base.yaml import load_yaml
from pipeline.blocks.mixture import ONE, num_copies, place
from pipeline.formats.documents import Document, read_documents
from pipeline.formats.rows import DocumentIndex, Rows
from pipeline.formats.stages import manifest_path
from pipeline.stages.tokenize import encode
from tests.project import ROOT, environment
from tests.releases import read_json, shards_of

MIXTURE = {"letters": {"epochs": 2.5}, "notes": {"share": 0.1}}
Case = dict[str, Any]


def tokenized(folder: Path, built: Path, mixture: Case, workers: int = 1, **more: Any) -> Case:
    """Run the stage, and the tokenizer's, in a copy of what the small project has before them; the manifest."""
    for part in ("data/deduplicated", "manifests"):
        shutil.copytree(built / part, folder / part)
    params = load_yaml(built / "params.yaml")
    params["mixture"] = {"sources": mixture}
    params["tokenize"] |= more
    (folder / "params.yaml").write_text(json.dumps(params))
    for stage in ("tokenizer", "tokenize"):
        done = run_stage(folder, workers, stage)
        assert done.returncode == 0, done.stderr
    tree: dict[str, Any] = read_json(folder / manifest_path("tokenize"))
    return tree


def run_stage(folder: Path, workers: int, stage: str) -> subprocess.CompletedProcess[str]:
    env = environment(EVERYSTEP_WORKERS=str(workers), PYTHONPATH=str(ROOT))
    command = [sys.executable, "-m", "pipeline.stages", stage]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def forget() -> None:
    """What a process keeps of the tokenizer that it saw first."""
    for kept in (encode._encoder, encode._reference, encode._special):
        kept.cache_clear()


def documents(project: Path, split: str) -> list[Document]:
    manifest = read_json(project / manifest_path("dedup"))
    paths = [project / "data/deduplicated" / shard.path for shard in shards_of(manifest, split)]
    return [document for path in paths for document in read_documents(path)]


def index(project: Path, split: str) -> list[Case]:
    rows: list[Case] = pq.read_table(project / f"data/tokens/{split}.parquet").to_pylist()
    return rows


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, built_project: Path) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    tokenized(folder, built_project, MIXTURE)
    return folder


def test_a_plain_mixture_leaves_the_order_of_dedup(built_project: Path) -> None:
    assert [row["id"] for row in index(built_project, "train")] == [d.id for d in documents(built_project, "train")]
    assert set(read_json(built_project / manifest_path("tokenize"))["passes"].values()) == {1}
    assert not (built_project / "data/tokens/removals.parquet").exists()


def test_copies_stand_by_their_own_places_as_often_as_drawn(mixed: Path) -> None:
    seed = read_json(mixed / manifest_path("dedup"))["parameters"]["seed"]
    passes = read_json(mixed / manifest_path("tokenize"))["passes"]
    copies = [
        (place(document.id, copy, seed), document.id)
        for document in documents(mixed, "train")
        for copy in range(num_copies(document.id, round(passes[document.source] * ONE), seed))
    ]
    assert [row["id"] for row in index(mixed, "train")] == [id for _, id in sorted(copies)]
    assert set(Counter(id for _, id in copies if id.startswith("letters/")).values()) == {2, 3}


def test_validation_is_neither_repeated_nor_weighed(mixed: Path, built_project: Path) -> None:
    plain, other = (read_json(project / manifest_path("tokenize"))["outputs"] for project in (built_project, mixed))
    assert (other["validation"], other["validation_index"]) == (plain["validation"], plain["validation_index"])


def test_every_place_of_a_repeated_document_spells_it(mixed: Path) -> None:
    tokens = read_json(mixed / manifest_path("tokenize"))
    width, count = tokens["width"], tokens["splits"]["train"]["rows"]
    rows = Rows(mixed / "data/tokens", shards_of(tokens, "train"), width, tokens["vocabulary"])
    found = DocumentIndex(mixed / "data/tokens/train.parquet", width, count)
    tokenizer = Tokenizer.from_file(str(mixed / "data/tokenizer/tokenizer.json"))
    texts = {document.id: document.text for document in documents(mixed, "train")}
    stream = np.concatenate(list(rows))
    places = {(row["id"], row["first_row"] * width + row["offset"]): row["num_tokens"] for row in index(mixed, "train")}
    for (id, start), num_tokens in places.items():
        if start + num_tokens <= len(stream):
            ids = stream[start : start + num_tokens].tolist()
            assert tokenizer.decode(ids[:-1]) == texts[id] and ids[-1] == tokens["end_token"]
    for id in sorted(texts)[::7]:
        starts = sorted(start for other, start in places if other == id)
        assert [held.start for held in found.rows_of_document(id)] == [start // width for start in starts]


def test_the_manifest_counts_what_was_drawn(mixed: Path) -> None:
    tokens = read_json(mixed / manifest_path("tokenize"))
    drawn, entries = tokens["splits"]["train"], index(mixed, "train")
    for key, column in (("source", "source"), ("license", "license")):
        for what in ("documents", "bytes", "tokens"):
            sums: Counter[str] = Counter()
            for entry in entries:
                sums[entry[column]] += {"documents": 1, "bytes": entry["bytes"], "tokens": entry["num_tokens"]}[what]
            assert drawn[f"{what}_by_{key}"] == dict(sums) and drawn[what] == sum(sums.values())
    assert tokens["passes"]["letters"] == 2.5 and tokens["passes"]["tales"] == 1
    assert abs(drawn["tokens_by_source"]["notes"] / drawn["tokens"] - 0.1) < 0.03  # some 100 documents are drawn from
    assert tokens["available"]["documents"] == len(documents(mixed, "train"))


def test_documents_that_the_mixture_leaves_out_are_on_record(mixed: Path) -> None:
    gone = pq.read_table(mixed / "data/tokens/removals.parquet").to_pylist()
    placed = {row["id"] for row in index(mixed, "train")}
    left_out = [d for d in documents(mixed, "train") if d.id not in placed]
    assert [(row["id"], row["bytes"]) for row in gone] == [(d.id, len(d.text.encode())) for d in left_out]
    assert {(row["source"], row["stage"], row["reason"]) for row in gone} == {("notes", "tokenize", "mixture")}


def test_number_of_processes_changes_no_byte_of_a_mixture(mixed: Path, built_project: Path, tmp_path: Path) -> None:
    tokenized(tmp_path, built_project, MIXTURE, workers=3)
    assert (tmp_path / manifest_path("tokenize")).read_bytes() == (mixed / manifest_path("tokenize")).read_bytes()
    files = sorted(path.relative_to(mixed) for path in (mixed / "data/tokens").rglob("*.*"))
    assert all((tmp_path / file).read_bytes() == (mixed / file).read_bytes() for file in files if "zst" in file.name)
    assert not (tmp_path / ".work/tokenize").exists()


def test_a_source_that_is_not_declared_is_told(tmp_path: Path, built_project: Path) -> None:
    with pytest.raises(AssertionError, match=r"mixture\.sources\.poems: not declared"):
        tokenized(tmp_path, built_project, {"poems": {"epochs": 2.0}})


def test_a_sample_of_every_source_is_compared_with_the_reference(tmp_path: Path, built_project: Path) -> None:
    compared = tokenized(tmp_path, built_project, {}, checked_documents=3)["splits"]["train"]["compared_documents"]
    assert compared.keys() == {"letters", "notes", "tales"} and set(compared.values()) <= {3, 4}


def test_one_other_id_stops_the_build_with_the_document_and_the_place(
    tmp_path: Path, built_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "TOKENIZER", built_project / "data/tokenizer/tokenizer.json")
    forget()
    manifest = read_json(built_project / manifest_path("dedup"))
    folder, shards = built_project / "data/deduplicated", shards_of(manifest, "train")
    parts = [encode.EncodedShard(folder, shard, tmp_path / f"{n:06d}", "uint16") for n, shard in enumerate(shards)]
    for part in parts:
        encode.encode_shard(part, None)
    assert sum(encode.compare_with_reference(parts, 1, None).values()) >= 3
    first = parts[0].table().to_pylist()[0]
    ids = np.array(parts[0].ids())
    ids[5] ^= 1
    ids.tofile(parts[0].scratch.with_suffix(".ids"))
    with pytest.raises(EverystepError, match=rf"^{first['id']}: token 5 is \[{ids[5]}\] from gigatoken and \[\d+\]"):
        encode.compare_with_reference(parts, 1, None)
    forget()
