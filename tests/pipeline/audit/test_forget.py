"""`everystep forget`: what it says of documents is what a reader finds by looking at every row and every step."""

import json
from collections import defaultdict
from pathlib import Path

import pytest

from pipeline.audit.forget import containing
from pipeline.base.paths import TOKENIZER, TOKENS
from pipeline.formats.manifests import Tokens
from pipeline.formats.order import rows_of_step
from pipeline.formats.rows import DocumentIndex, Rows
from pipeline.formats.tables import as_json
from pipeline.formats.vocabulary import token_texts
from pipeline.release.forgetting import index_of
from pipeline.release.notices import PLACE
from pipeline.release.release import Release
from tests.releases import Done, copied, everystep, read_json, write_json
from tests.servers.web import serve_folder

MODEL = "mobilellm"


def ids_of_documents(release: Release, split: str) -> list[tuple[str, list[int]]]:
    """Every document of a split with its ids in whole rows, read one id at a time."""
    tokens = release.manifest(Tokens)
    rows = Rows(release.folder / TOKENS, tokens.shards(split), tokens.width, tokens.vocabulary)
    stream = [id for row in rows for id in row.tolist()]
    found = []
    for entry in as_json(release.folder / TOKENS / f"{split}.parquet"):
        start = entry["first_row"] * tokens.width + entry["offset"]
        found.append((entry["id"], stream[start : start + entry["num_tokens"]]))
    return found


def forget(release: Path, *words: str) -> Done:
    return everystep("forget", release, *words)


@pytest.mark.parametrize("words", [["--source", "tales"], ["--document", "notes/041", "--document", "letters/070"]])
def test_rows_and_steps_are_those_that_brute_force_finds(built_project: Path, words: list[str]) -> None:
    folder = built_project / "release"
    release = Release.open(folder)
    said = json.loads(forget(folder, *words, "--json").out)
    tokens, recipe = release.manifest(Tokens), release.model(MODEL).parameters
    touched, place, num_ids = set(), 0, 0
    for id, ids in ids_of_documents(release, "train"):
        if id in words or id.partition("/")[0] in words:
            touched |= {(place + i) // tokens.width for i in range(len(ids))}
            num_ids += len(ids)
        place += len(ids)
    steps = [
        step + 1
        for step in range(recipe.schedule.steps)
        if touched
        & set(rows_of_step(step, recipe.data.global_batch, tokens.splits.train.rows, recipe.data.seed).tolist())
    ]
    assert (said["rows"], said["ids"]) == (sorted(touched), num_ids)
    assert [model["name"] for model in said["models"]] == release.models()
    for model in said["models"]:
        assert (model["steps"], model["clean"]) == (steps, steps[0] - 1)
        again = recipe.schedule.steps - model["clean"]
        assert (model["steps_again"], model["tokens_again"]) == (again, again * recipe.data.global_batch * 32)


@pytest.mark.parametrize("text", ["river", "mountain let", "silver question", "r", "no such text"])
def test_a_text_finds_the_documents_that_contain_it(built_project: Path, text: str) -> None:
    release = Release.open(built_project / "release")
    texts = token_texts(release.folder / TOKENIZER)
    for split in ("train", "validation"):
        rows = getattr(release.manifest(Tokens).splits, split).rows
        index = DocumentIndex(release.folder / TOKENS / f"{split}.parquet", 33, rows)
        wanted = [
            text in b"".join(texts[id] for id in ids).decode("utf-8", "replace")
            for _, ids in ids_of_documents(release, split)
        ]
        assert containing(release, split, index, text).tolist() == wanted


def test_a_document_is_unknown_held_out_removed_or_dropped(built_project: Path, tmp_path: Path) -> None:
    folder = built_project / "release"
    held_out = next(iter(as_json(folder / TOKENS / "validation.parquet")))["id"]
    last = list(as_json(folder / TOKENS / "train.parquet"))[-1]["id"]
    (tmp_path / "taken/x").mkdir(parents=True)
    for words, why in (
        (["--document", "notes/0411"], "not known to this release; did you mean notes/041"),
        (["--document", "", "--source", "notes"], "--document : not an id"),
        (["--document", "tales/042", "--out", str(tmp_path / "taken"), "--why", "asked"], "already exists"),
        (["--document", "tales/042", "--out", str(tmp_path / "without")], "--why: say in a few words"),
        (["--source", "note"], "not in this release, which has letters, notes, tales; did you mean notes?"),
        (["--document", held_out], f"nothing to forget: {held_out} is held out for validation; no training reads it"),
        (["--document", "notes/007"], "nothing to forget: notes/007 was removed before training"),
        (["--match", ""], "every document contains the empty text"),
        (["--match", "no such text"], "nothing to forget: no document of this release is chosen"),
        ([], "give --document, --source or --match"),
        (["--document", "tales/042", "--why", "asked"], "--why goes with --out, and --notice with --compare"),
        (["--document", "tales/042", "--compare", str(folder)], "takes the documents from the certificate"),
        (["--compare", str(folder)], "has no manifests/forgotten.json; it has forgotten nothing"),
    ):
        done = forget(folder, *words)
        assert (done.code, done.out) == (2, ""), words
        assert why in done.err
    said = json.loads(
        forget(folder, "--document", held_out, "--document", "notes/007", "--document", last, "--json").out
    )
    assert (said["held_out"], said["removed"]) == ([held_out], ["notes/007"])
    assert [document["id"] for document in said["documents"]] == [last]


def test_copies_are_forgotten_together(built_project: Path) -> None:
    index = index_of(Release.open(built_project / "release"))
    counts: dict[str, int] = defaultdict(int)
    for entry in as_json(built_project / "release" / TOKENS / "train.parquet"):
        counts[entry["id"]] += 1
    assert all(index.chosen([id], []).sum() == count for id, count in counts.items())


def test_the_report_names_what_it_costs(built_project: Path) -> None:
    done = forget(built_project / "release", "--document", "tales/042")
    assert done.code == 0 and done.out.startswith("1 document: tales/042 (")
    assert "1 step: 5" in done.out and "step 4, stored" in done.out and "50.0 %" in done.out


# Notices


@pytest.fixture
def noted(built_project: Path, tmp_path: Path) -> Path:
    """A release with a notice beside it."""
    release = copied(built_project / "release", tmp_path / "release")
    states = {entry.revision: entry.state_digest for entry in Release.open(release).model(MODEL).checkpoints[-1:]}
    (release / PLACE).parent.mkdir()
    notice = {
        "release": "successor",
        "version": "2",
        "release_sha256": "ab" * 32,
        "why": "asked to",
        "superseded": {MODEL: states},
        "clean": {MODEL: 4},
    }
    root = everystep("verify", release, "--json")
    tree = {
        "format": "everystep/notices/1",
        "release_sha256": json.loads(root.out)["root_sha256"],
        "forgotten_by": [notice],
    }
    write_json(release / PLACE, tree)
    return release


@pytest.mark.parametrize("remote", [False, True])
def test_a_superseded_checkpoint_says_so_when_it_is_pulled(
    noted: Path, tmp_path: Path, remote: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    with serve_folder(noted) as server:
        address = server.url if remote else str(noted)
        done = everystep("pull", address, "--model", MODEL, "--step", "8", "--out", tmp_path / "late")
        early = everystep("pull", address, "--model", MODEL, "--step", "4", "--out", tmp_path / "early")
        assert everystep("verify", address).code == 0
    assert (done.code, early.code) == (0, 0)
    assert "note: superseded: mobilellm step000008-tokens2048 has seen documents that successor 2 says" in done.err
    about = read_json(tmp_path / "late" / "everystep.json")
    assert about["superseded_by"] == [
        {"release": "successor", "version": "2", "release_sha256": "ab" * 32, "why": "asked to"}
    ]
    assert "**Superseded.** The release `successor 2`" in (tmp_path / "late" / "README.md").read_text()
    assert "note: superseded" not in early.err and "superseded_by" not in read_json(
        tmp_path / "early" / "everystep.json"
    )
    assert everystep("digest", tmp_path / "late").code == 0


def test_a_notice_is_no_part_of_the_release_and_a_wrong_one_is_a_fault(noted: Path, tmp_path: Path) -> None:
    done = everystep("verify", noted)
    assert done.code == 0 and "other files" not in done.out
    right = read_json(noted / PLACE)
    wrong = [
        (right | {"release_sha256": "cd" * 32}, "is that of another release"),
        (
            right
            | {
                "forgotten_by": [
                    right["forgotten_by"][0] | {"superseded": {MODEL: {"step9": f"tensors-v1:{'0' * 64}"}}}
                ]
            },
            "names checkpoints",
        ),
        (right | {"format": "everystep/notices/2"}, "format"),
    ]
    for tree, why in wrong:
        write_json(noted / PLACE, tree)
        done = everystep("verify", noted)
        assert done.code == 1 and f"{PLACE}: " in done.out and why in done.out
    done = everystep("pull", noted, "--model", MODEL, "--out", tmp_path / "pulled")  # nothing promises a notice
    assert done.code == 0 and "is not known" in done.err
