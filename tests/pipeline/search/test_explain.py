"""Explained texts: the maximal spans are those that reading all rows would find, at every step."""

import random
from contextlib import ExitStack
from pathlib import Path

import pytest

from pipeline.formats.canonical import parse
from pipeline.formats.manifests import Tokens
from pipeline.formats.rows import Rows
from pipeline.search.explain import Words, maximal_spans
from pipeline.search.index import open_index
from pipeline.search.timeline import timeline_of
from tests.pipeline.search.indexed import MODEL, STEPS, Brute, indexed, packed
from tests.project import run
from tests.releases import everystep

VOCABULARY, WIDTH = 9, 12
TEXTS = [b"", b"", b"", b"", b"", b"a", b" b", b"c.", b"\n"]
"""Of the ids 0 to 8: `a` goes on with a word, ` b` begins one, `c.` ends a sentence."""


def brute_spans(brute: Brute, ids: list[int], words: Words, step: int) -> list[tuple[int, int]]:
    """Every run of whole words within a sentence that was read by the step and is in no longer one."""
    read = []
    for start in range(len(ids)):
        for stop in range(start + 1, len(ids) + 1):
            inside = [TEXTS[id] for id in ids[start : stop - 1]]
            whole = words.begins(start) and words.begins(stop)
            sentence = not any(b"." in text or b"\n" in text for text in inside)
            if whole and sentence and stop - start <= brute.width and brute.count(ids[start:stop], step):
                read.append((start, stop))
    return [(a, b) for a, b in read if not any((c, d) != (a, b) and c <= a and b <= d for c, d in read)]


def test_maximal_spans_are_those_that_brute_force_finds_at_each_step(tmp_path: Path) -> None:
    draw = random.Random(3)
    rows = packed(draw, VOCABULARY, WIDTH, 120)
    release, brute = indexed(tmp_path, rows, VOCABULARY, 50), Brute(rows)
    with ExitStack() as opened:
        index = opened.enter_context(open_index(release))
        found = 0
        for _ in range(25):
            step = draw.choice([0, 1, STEPS // 2, STEPS])
            taken = rows[draw.randrange(len(rows))][: draw.randrange(1, WIDTH)].tolist()
            ids = [*taken, *(draw.randrange(5, VOCABULARY) for _ in range(draw.randrange(1, 12)))]
            words = Words([TEXTS[id] for id in ids])
            spans = list(maximal_spans(index, ids, words, timeline_of(release, MODEL, step)))
            assert spans == brute_spans(brute, ids, words, step), (ids, step)
            found += len(spans)
        assert found > 40


def test_a_text_is_explained_by_the_documents_that_a_checkpoint_had_read(built_project: Path) -> None:
    release, model = built_project / "release", "mobilellm"
    read = parse(everystep("trace", release, "--model", model, "--step", "3", "--text", "--json").out.encode(), "trace")
    piece = max(read[0]["pieces"], key=lambda piece: len(piece["text"]))
    text = piece["text"].replace("�", " ")[5:60]
    options = ["--model", model, "--text", text, "--most-places", "0", "--density", "1", "--json"]
    after, before = (
        parse(everystep("explain", release, *options, "--step", str(step)).out.encode(), "explain") for step in (4, 0)
    )
    assert before["spans"] == []  # nothing was read before the first step
    longest = max(after["spans"], key=lambda span: span["stop"] - span["start"])
    assert piece["id"] in {one["id"] for place in longest["shown"] for one in place["documents"]}
    assert 1 <= longest["first_step"] <= longest["last_step"] <= 4
    assert longest["reads"] <= longest["places"]
    shown = everystep("explain", release, *options[:-1], "--step", "4")
    assert shown.code == 0
    assert "[1: " in shown.out
    assert "1 maximal" in shown.out or "maximal spans" in shown.out


def test_what_a_model_writes_is_explained(built_project: Path) -> None:
    command = ["everystep", "explain", "release", "--model", "openelm", "--prompt", "the", "--tokens", "12", "--json"]
    said = parse(run(built_project, *command, EVERYSTEP_PROCESSES="1").stdout.encode(), "explain")
    assert (len(said["ids"]), said["model"], said["until"]) == (12, "openelm", 8)


def test_misuse_is_named(built_project: Path) -> None:
    done = everystep("explain", built_project / "release", "--text", "x", "--prompt", "x", "--model", "openelm")
    assert (done.code, "give either --text or --prompt" in done.err) == (2, True)
    long = ("the " * 5000, "at most 4,096 are explained")
    for text, named in (("", "the text is empty"), ("\ud800", "not UTF-8"), long):
        done = everystep("explain", built_project / "release", "--text", text, "--model", "openelm")
        assert (done.code, named in done.said) == (2, True)


def test_the_text_of_a_step_is_that_of_its_rows(built_project: Path) -> None:
    """Decoded by the tokenizer's own library, special tokens included."""
    tokenizers = pytest.importorskip("tokenizers")
    release = built_project / "release"
    tokens = parse((release / "manifests/tokens.json").read_bytes(), "tokens")
    manifest = Tokens.from_json(tokens, "tokens")
    rows = Rows(release / "data/tokens", manifest.shards("train"), manifest.width, manifest.vocabulary)
    library = tokenizers.Tokenizer.from_file(str(release / "data/tokenizer/tokenizer.json"))
    read = parse(everystep("trace", release, "--model", "openelm", "--step", "2", "--text", "--json").out.encode(), "x")
    assert len(read) == 8
    for row in read:
        whole = "".join(piece["text"] for piece in row["pieces"])
        assert whole == library.decode(rows[row["row"]].tolist(), skip_special_tokens=False)
    shown = everystep("trace", release, "--model", "openelm", "--step", "2", "--text")
    assert "bytes not UTF-8 are U+FFFD" in shown.err
    assert everystep("trace", release, "--model", "openelm", "--document", "x", "--text").code == 2
