"""`everystep show`: what a release holds, for people and for programs."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.audit.trace import trace_step
from pipeline.formats.documents import read_documents
from pipeline.release.release import Release
from tests.project import MODELS, SOURCES
from tests.releases import copied, everystep, read_json, write_json


@pytest.fixture(scope="module")
def facts(built_project: Path) -> Any:
    done = everystep("show", built_project / "release", "--json")
    assert (done.code, done.err.count("\n"), "rung 1 of 5 (files)" in done.err) == (0, 1, True)
    return json.loads(done.out)


def test_people_see_every_model_source_and_removal(built_project: Path, facts: Any) -> None:
    done = everystep("show", built_project / "release")
    lines = done.out.splitlines()
    assert done.code == 0
    for name, tables in (*((model, 2) for model in MODELS), *((source, 1) for source in SOURCES)):
        assert sum(line.split()[:1] == [name] for line in lines) == tables
    for reasons in facts["removed"].values():
        assert all(any(reason in line for line in lines) for reason in reasons)


def test_licences_and_cleaning_add_up_to_the_documents(built_project: Path, facts: Any) -> None:
    index = pq.read_table(built_project / "data" / "tokens" / "train.parquet")
    assert sum(row["documents"] for row in facts["licenses"]) == index.num_rows
    assert sum(row["tokens"] for row in facts["licenses"]) == pc.sum(index["num_tokens"]).as_py()
    assert sum(row["share"] for row in facts["licenses"]) == pytest.approx(1)
    for before, after in pairwise(facts["cleaning"]):
        assert after["documents"] == before["documents"] - sum(before["removed"].values())
    shown = everystep("show", built_project / "release").out.splitlines()
    for step in facts["cleaning"]:
        (line,) = [line for line in shown if line.split()[:1] == [step["step"]]]
        counts = (step["documents"], step["rewritten"], sum(step["removed"].values()))
        assert line.split()[1:4] == list(map(str, counts))


def test_what_was_read_is_told_apart_from_what_there_is(built_project: Path, facts: Any) -> None:
    """Counted here from `trace`: the documents that each step saw."""
    seen = [
        span for step in range(1, 9) for span in trace_step(Release.open(built_project / "release"), "mobilellm", step)
    ]
    assert facts["rows"]["read"] == len({span["row"] for span in seen}) < facts["rows"]["train"]
    for key, named in (("source", "sources"), ("license", "licenses")):
        for row in facts[named]:
            mine = [span for span in seen if span[key] == row["name" if key == "source" else "license"]]
            assert row["documents_read"] == len({span["id"] for span in mine}) < row["documents"]
            assert row["tokens_read"] == sum(span["stop"] - span["start"] for span in mine) < row["tokens"]
    shown = everystep("show", built_project / "release").out
    assert f"{facts['rows']['train']:,} to train on, {facts['rows']['read']:,} of them read" in shown
    card = (built_project / "release" / "README.md").read_text()
    for text in (card, shown):
        lines = [line.replace("|", " ").split() for line in text.splitlines()]
        for row in facts["licenses"]:
            counts = [f"{row[key]:,}" for key in ("documents", "documents_read", "tokens", "tokens_read")]
            assert any(line[:5] == [row["license"], *counts] for line in lines)


def test_a_card_says_of_a_step_only_what_was_counted(built_project: Path) -> None:
    card = (built_project / "release" / "README.md").read_text()
    limits = json.loads((built_project / "release" / "params.yaml").read_text())["release"]["limits"]
    assert f"> {limits}" in card
    steps = json.loads((built_project / "release" / "params.yaml").read_text())["filter"]["steps"]
    assert [step for step in steps if f"| {step} |" not in card] == []


def test_files_and_bytes_are_those_on_disk(built_project: Path, facts: Any) -> None:
    files = [path for path in (built_project / "release").rglob("*") if path.is_file()]
    assert (facts["files"], facts["bytes"]) == (len(files), sum(path.stat().st_size for path in files))


def test_models_are_those_that_were_trained(built_project: Path, facts: Any) -> None:
    for model in facts["models"]:
        folders = sorted(path.name for path in (built_project / "runs" / model["name"]).glob("step*"))
        assert sorted(model["checkpoints"]) == folders
        last = (built_project / "results" / model["name"] / "evaluation.jsonl").read_text().splitlines()[-1]
        assert model["validation_loss"] == json.loads(last)["loss"]
    assert sorted(model["name"] for model in facts["models"]) == sorted(MODELS)


def test_documents_found_are_kept_or_removed_with_a_reason(built_project: Path, facts: Any) -> None:
    shards = sorted((built_project / "data" / "deduplicated").glob("*/*.zst"))
    kept = [document.source for shard in shards for document in read_documents(shard)]
    for source in facts["sources"]:
        assert source["documents_kept"] == kept.count(source["name"])
    found = sum(source["documents_found"] for source in facts["sources"])
    removed = sum(number for reasons in facts["removed"].values() for number in reasons.values())
    assert found == len(kept) + removed
    assert set(facts["removed"]["dedup"]) == {"exact_duplicate", "near_duplicate"}


def test_a_folder_without_a_root_manifest_is_no_release(tmp_path: Path) -> None:
    done = everystep("show", tmp_path)
    assert done.code == 2
    assert f"{tmp_path}: neither a release nor a project" in done.err


def test_a_changed_manifest_is_not_shown_as_the_release(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    path = release / "manifests" / "evaluations" / "mobilellm.json"
    tree = read_json(path)
    tree["results"][-1]["loss"] = 0.1
    write_json(path, tree)
    done = everystep("show", release)
    assert done.code == 1
    assert "manifests/evaluations/mobilellm.json" in done.err


def test_a_damaged_root_manifest_is_named(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    content = (release / "release.json").read_bytes()
    for damaged in (content[:-40], b"", b"[]", content.replace(b'"digest"', b'"digets"', 1), b"\xff" + content):
        (release / "release.json").write_bytes(damaged)
        done = everystep("show", release)
        assert done.code == 2
        assert "release.json" in done.err
