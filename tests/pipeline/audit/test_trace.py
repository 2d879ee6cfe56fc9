"""`everystep trace`: from a step to the documents it read, and back, checked against texts and by brute force."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from pipeline.formats.documents import read_documents
from pipeline.formats.rows import Rows
from pipeline.formats.stages import manifest_path
from tests.project import recipe
from tests.releases import copied, everystep, flip, read_json, reseal_sums, shards_of

MODEL = "mobilellm"
STEPS, GLOBAL_BATCH, WIDTH = 8, 8, 33


@pytest.fixture(scope="module")
def release(built_project: Path) -> Path:
    return built_project / "release"


@pytest.fixture(scope="module")
def spans(release: Path) -> dict[int, list[dict[str, Any]]]:
    """What every step read, as the command prints it."""
    answers = {
        step: everystep("trace", release, "--model", MODEL, "--step", str(step), "--json") for step in range(1, 9)
    }
    return {step: json.loads(done.out) for step, done in answers.items()}


@pytest.fixture(scope="module")
def texts(built_project: Path) -> dict[str, str]:
    """The cleaned text of every document, which a release does not ship."""
    shards = sorted((built_project / "data" / "deduplicated").glob("*/*.zst"))
    return {document.id: document.text for shard in shards for document in read_documents(shard)}


@pytest.fixture(scope="module")
def rows(release: Path) -> Rows:
    tokens = read_json(release / manifest_path("tokenize"))
    return Rows(release / "data" / "tokens", shards_of(tokens, "train"), tokens["width"], tokens["vocabulary"])


def trace_document(release: Path, id: str) -> Any:
    done = everystep("trace", release, "--model", MODEL, "--document", id, "--json")
    assert (done.code, done.err.count("\n"), "rung 1 of 5 (files)" in done.err) == (0, 1, True)
    return json.loads(done.out)


def removed(project: Path, stage: str) -> list[str]:
    return [id for path in sorted((project / "data" / stage).rglob("removals.parquet")) for id in ids(path)]


def ids(path: Path) -> list[str]:
    column: list[str] = pq.read_table(path)["id"].to_pylist()
    return column


def test_spans_cover_every_id_of_the_batch_once(spans: dict[int, list[dict[str, Any]]]) -> None:
    assert recipe(MODEL)["data"]["global_batch"] == GLOBAL_BATCH
    for found in spans.values():
        by_sample: dict[int, list[int]] = {}
        for span in found:
            by_sample.setdefault(span["sample"], []).extend(range(span["start"], span["stop"]))
        assert by_sample == {sample: list(range(WIDTH)) for sample in range(GLOBAL_BATCH)}


def test_ids_of_a_span_decode_to_a_piece_of_the_document(
    spans: dict[int, list[dict[str, Any]]], texts: dict[str, str], rows: Rows, release: Path
) -> None:
    tokenizer = Tokenizer.from_file(str(release / "data" / "tokenizer" / "tokenizer.json"))
    ends = 0
    for found in spans.values():
        for span in found:
            piece = tokenizer.decode(
                rows[span["row"]][span["start"] : span["stop"]].tolist(), skip_special_tokens=False
            )
            ends += piece.endswith("<|endoftext|>")
            assert piece.removesuffix("<|endoftext|>") in texts[span["id"]]
            assert span["id"].startswith(span["source"] + "/")
            assert span["license"] == "CC0-1.0"
    assert ends > 0  # some span ends its document, so the end token was seen


def test_a_document_is_traced_to_the_steps_that_read_it(release: Path, spans: dict[int, list[dict[str, Any]]]) -> None:
    seen: dict[str, set[int]] = {}
    for step, found in spans.items():
        for span in found:
            seen.setdefault(span["id"], set()).add(step)
    for id in sorted(seen)[::5]:
        answer = trace_document(release, id)
        assert answer["steps"] == sorted(seen[id])
        first = min(step for step in (0, 1, 2, 4, 8) if step >= min(seen[id]))
        assert answer["first_checkpoint"] == f"step{first:06d}-tokens{first * GLOBAL_BATCH * (WIDTH - 1)}"


def test_a_document_that_no_step_read_is_said_to_be_unseen(
    release: Path, spans: dict[int, list[dict[str, Any]]]
) -> None:
    seen = {span["id"] for found in spans.values() for span in found}
    unseen = [id for id in ids(release / "data" / "tokens" / "train.parquet") if id not in seen]
    for id in unseen[:3]:
        answer = trace_document(release, id)
        assert (answer["split"], answer["steps"], answer["first_checkpoint"]) == ("train", [], None)
    done = everystep("trace", release, "--model", MODEL, "--document", unseen[0])
    assert "no step has read them" in done.out


def test_a_held_out_document_was_seen_by_no_step(release: Path, spans: dict[int, list[dict[str, Any]]]) -> None:
    held_out = ids(release / "data" / "tokens" / "validation.parquet")
    assert not {span["id"] for found in spans.values() for span in found} & set(held_out)
    answer = trace_document(release, held_out[0])
    assert (answer["split"], answer["steps"]) == ("validation", [])
    assert "held out" in everystep("trace", release, "--model", MODEL, "--document", held_out[0]).out


@pytest.mark.parametrize("stage", ["filtered", "deduplicated"])
def test_a_removed_document_is_answered_with_its_reason(built_project: Path, release: Path, stage: str) -> None:
    for id in removed(built_project, stage)[:3]:
        answer = trace_document(release, id)
        assert (answer["split"], answer["steps"]) == (None, [])
        assert answer["removed"]["id"] == id
        if stage == "deduplicated":
            assert answer["removed"]["kept"] in everystep("trace", release, "--model", MODEL, "--document", id).out
        else:
            assert answer["removed"]["reason"] in ("cap", "gopher_short_doc", "contamination")


def test_every_document_has_exactly_one_answer(built_project: Path, release: Path, texts: dict[str, str]) -> None:
    train, held_out = (ids(release / "data" / "tokens" / f"{split}.parquet") for split in ("train", "validation"))
    gone = [id for stage in ("documents", "filtered", "deduplicated") for id in removed(built_project, stage)]
    everything = [*train, *held_out, *gone]
    assert len(set(everything)) == len(everything)
    assert set(train) | set(held_out) == set(texts)
    assert len(everything) == 360


def test_an_unknown_document_model_or_step_is_misuse(release: Path) -> None:
    for arguments, named in (
        (["--model", MODEL, "--document", "letters/nonsense"], "letters/nonsense"),
        (["--model", "gpt", "--document", "letters/000"], "mobilellm, openelm"),
        (["--model", MODEL, "--step", "0"], "1 to 8"),
        (["--model", MODEL, "--step", "9"], "1 to 8"),
        (["--model", MODEL], "--step or --document"),
        (["--model", MODEL, "--step", "1", "--document", "letters/000"], "--step or --document"),
    ):
        done = everystep("trace", release, *arguments)
        assert done.code == 2
        assert named in done.err
        assert done.out == ""


@pytest.mark.parametrize(
    ("id", "said"),
    [
        ("nots/102", "did you mean notes/102"),
        ("notes/1O2", "did you mean "),
        ("notes", "120 begin with it: notes/000, "),
        ("notes/00", "10 begin with it: notes/000, notes/001, notes/002, notes/003, notes/004, ..."),
        ("OTES/102", "1 contain it: notes/102"),
        ("102", "3 contain it: letters/102, notes/102, tales/102"),
        ("x", "not known to this release; ids read SOURCE/KEY"),
        ("", "360 begin with it"),
        ("notes/" + "9" * 5000, "not known to this release"),
        ("notes/[", "not known to this release"),
    ],
)
def test_an_id_that_is_nearly_right_is_answered_with_those_it_may_stand_for(release: Path, id: str, said: str) -> None:
    done = everystep("trace", release, "--model", MODEL, "--document", id)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


def test_a_model_or_checkpoint_that_is_nearly_right_is_answered_with_the_nearest(release: Path, tmp_path: Path) -> None:
    done = everystep("trace", release, "--model", "mobilelm", "--step", "1")
    assert "which has mobilellm, openelm; did you mean mobilellm?" in done.err
    done = everystep("pull", release, "--model", MODEL, "--step", "9", "--out", tmp_path / "out")
    assert "step 9: no checkpoint of mobilellm there; the nearest are 8; stored are 0, 1, 2, 4, 8" in done.err


def test_all_models_of_the_suite_read_the_same(release: Path, spans: dict[int, list[dict[str, Any]]]) -> None:
    other = everystep("trace", release, "--model", "openelm", "--step", "5", "--json")
    assert json.loads(other.out) == spans[5]


@pytest.mark.parametrize(
    "file", ["data/tokens/train.parquet", "manifests/tokens.json", f"manifests/models/{MODEL}.json"]
)
def test_a_changed_index_or_manifest_is_refused(release: Path, tmp_path: Path, file: str) -> None:
    broken = copied(release, tmp_path / "release")
    flip(broken / file, 0.5)
    reseal_sums(broken)
    done = everystep("trace", broken, "--model", MODEL, "--step", "1")
    assert done.code in (1, 2)
    assert file in done.err
