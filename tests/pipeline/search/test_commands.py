"""`everystep search`, `count` and `next` on a built release: answers, requests to a static server, bad input."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.formats.manifests import Searchable, Tokens, Trained, path_of
from pipeline.formats.order import rows_of_samples
from pipeline.formats.rows import DocumentIndex, Rows
from pipeline.release.release import Release
from pipeline.search.faults import search_faults
from tests.releases import copied, everystep, flip, read_json, reseal, write_json
from tests.servers.web import serve_folder

MODEL, STEP = "openelm", 5


@pytest.fixture
def released(built_project: Path) -> Path:
    return built_project / "release"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def rows_of(release: Release) -> np.ndarray:
    tokens = release.manifest(Tokens)
    return np.array([*Rows(release.folder / "data/tokens", tokens.shards("train"), tokens.width, tokens.vocabulary)])


def asked(*words: str | Path) -> Any:
    done = everystep(*words, "--json")
    assert done.code == 0, done.said
    return json.loads(done.out)


def test_the_index_of_a_built_release_is_that_of_its_rows(released: Path) -> None:
    assert [*search_faults(Release.open(released))] == []


def test_a_found_text_is_in_the_rows_and_documents_and_steps_that_are_printed(released: Path) -> None:
    release = Release.open(released)
    rows, tokens = rows_of(release), release.manifest(Tokens)
    recipe = release.manifest(Trained, MODEL).parameters
    index = DocumentIndex(released / "data/tokens/train.parquet", tokens.width, len(rows))
    found = asked("search", released, " mountain river", "--limit", "1000")
    ids, length = found["ids"], len(found["ids"])
    held = [
        (row, start)
        for row in range(len(rows))
        for start in range(tokens.width - length + 1)
        if rows[row, start : start + length].tolist() == ids
    ]
    assert held and found["places"] == len(held) and found["rows"] == len({row for row, _ in held})
    assert sorted((place["row"], place["start"]) for place in found["shown"]) == held
    read = rows_of_samples(0, recipe.schedule.steps * recipe.data.global_batch, len(rows), recipe.data.seed).tolist()
    for place in found["shown"]:
        spans = index.documents_of_row(place["row"])
        inside = [span.id for span in spans if span.start < place["stop"] and span.stop > place["start"]]
        assert [document["id"] for document in place["documents"]] == inside
        sample = read.index(place["row"]) if place["row"] in read else None
        first = None if sample is None else sample // recipe.data.global_batch + 1
        assert place["first_steps"][MODEL] == first
    seen = read[: STEP * recipe.data.global_batch]
    by_step = asked("count", released, " mountain river", "--model", MODEL, "--until", str(STEP))
    assert by_step["reads"] == sum(seen.count(row) for row, _ in held)
    limited = asked("search", released, " mountain river", "--model", MODEL, "--until", str(STEP), "--limit", "1000")
    assert {place["row"] for place in limited["shown"]} == {row for row, _ in held} & set(seen)
    assert asked("count", released, "--ids", ",".join(map(str, ids)))["places"] == len(held)


def test_what_follows_and_the_score_of_a_text_agree(released: Path) -> None:
    scored = asked("next", released, " mountain river", "--score")
    context = ",".join(str(one["id"]) for one in scored["ids"][:-1])
    following = asked("next", released, "--ids", context, "--limit", "1000")
    assert sum(one["count"] for one in following["shown"]) == following["total"]
    counts = {one["id"]: one["count"] for one in following["shown"]}
    *before, last = scored["ids"]
    assert following["context"] == [one["id"] for one in before] and last["used"] == len(following["used"])
    assert (last["count"], last["total"]) == (counts.get(last["id"], 0), following["total"])
    assert "followed by" in everystep("next", released, " moun").out
    assert "ids before" in everystep("next", released, " mount", "--score").out


def test_a_search_takes_fewer_than_ten_requests_of_bytes_from_a_static_server(released: Path) -> None:
    """Of everything but small files that are read whole: blocks of the index, and the document index."""
    rows, draw = rows_of(Release.open(released)), random.Random(1)
    with serve_folder(released) as web:
        asked("count", web.url, "--ids", "7")  # brings the manifests and the table
        for length in (1, 1, 2, 3, 5, 8, 20, 33):
            start = draw.randrange(33 - length + 1)
            ids = ",".join(map(str, rows[draw.randrange(len(rows)), start : start + length].tolist()))
            web.counted.requests.clear()
            there = asked("search", web.url, "--ids", ids)
            data = [request for request in web.counted.requests if "/data/" in request.path]
            assert 0 < len(data) < 10, [request.path for request in data]
            assert there == asked("search", released, "--ids", ids)


def test_far_away_bytes_that_are_not_the_promised_ones_are_refused(released: Path, tmp_path: Path) -> None:
    folder = copied(released, tmp_path / "release")
    flip(folder / "data/search/000000.ids", 0.01)
    flip(folder / "data/search/000000.nodes", 0.01)
    with serve_folder(folder) as web:
        done = everystep("count", web.url, "--ids", "5,7")
    assert done.code == 1 and "is not what its table promises" in done.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([""], "the query is empty"),
        (["--ids", ""], "the query is empty"),
        ([], "give either a text or --ids"),
        (["a", "--ids", "3"], "give either a text or --ids"),
        (["--ids", "3,x"], "--ids: 'x' is not an id"),
        (["--ids", "-3"], "--ids: '-3' is not an id"),
        (["--ids", "320"], "id 320: outside the vocabulary, whose ids are 0..319"),
        (["--ids", ",".join(["5"] * 34)], "the query has 34 ids, a row 33"),
        (["a" * 3000], "a row 33: nothing that long was read together"),
        (["a", "--model", "nobody"], "--model nobody: not in this release"),
        (["a", "--until", "3"], "--until: add --model, one of mobilellm, openelm"),
        (["a", "--until", "9", "--model", MODEL], "--until 9: openelm was trained for 8 steps; give 0 to 8"),
        (["a", "--until", "-1", "--model", MODEL], "--until -1: openelm was trained for 8 steps"),
        ([b"\xff\xfe".decode(errors="surrogateescape")], "not UTF-8"),
    ],
)
@pytest.mark.parametrize("command", ["search", "count", "next"])
def test_bad_questions_are_refused_with_the_fix(released: Path, command: str, words: list[str], said: str) -> None:
    done = everystep(command, released, *words)
    assert done.code == 2 and said in done.err and "Traceback" not in done.err, done.said


def test_a_release_without_an_index_says_so(released: Path, tmp_path: Path) -> None:
    folder = copied(released, tmp_path / "release")
    root = read_json(folder / "release.json")
    root["files"] = {path: file for path, file in root["files"].items() if path != path_of(Searchable).as_posix()}
    write_json(folder / "release.json", root)
    done = everystep("count", folder, "a")
    assert done.code == 2 and "has no index to search" in done.err


def test_an_index_that_lies_with_every_digest_right_is_found_by_recomputing(released: Path, tmp_path: Path) -> None:
    folder = copied(released, tmp_path / "release")
    flip(folder / "data/search/000000.ids", 0.5)
    reseal(folder)
    (fault, *_) = search_faults(Release.open(folder))
    assert "000000.ids: is not the ids of the rows" in fault
