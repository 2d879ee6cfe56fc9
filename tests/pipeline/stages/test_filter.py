"""What the filter promises, run as DVC runs it, on small corpora that were made for one rule each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files, sha256_file
from pipeline.base.paths import DOCUMENTS
from pipeline.blocks.block import Block, Fault, Outcome, Rewritten
from pipeline.blocks.personal_data import REPLACEMENTS
from pipeline.formats.current import take_basis
from pipeline.formats.documents import Document, read_documents, shard_name, text_sha256
from pipeline.formats.manifests import Extracted
from pipeline.stages import filter as stage
from pipeline.stages.evaluation_ngrams import evaluation_ngrams
from pipeline.stages.evaluation_sets import evaluation_sets
from pipeline.stages.filter import Tally, clean, filter
from tests.project import EVALUATION_SET, make_corpora, params
from tests.releases import everystep
from tests.shards import write_documents
from tests.stubs import write_stub

GOOD = " ".join(
    """
    The old house by the river stands with quiet rooms, wide doors and a garden that nobody has entered for years.
    Every morning a captain walked along its wall and counted the windows, because he had promised to watch them.
    In winter he wrote letters to his sister, who lived beyond the mountains and kept each of them in a silver box.
    What they said to one another was never grand: weather, prices at the market, a cat that would not be tamed.
    """.split()  # noqa: SIM905
)
GERMAN = (
    "Es war einmal ein alter König, der in einem großen Schloss am Rande des Waldes wohnte und jeden Abend aus dem "
    "Fenster sah. Man sagt of him, that seine Töchter längst verheiratet waren und nur selten zu Besuch kamen."
)
LETTERS: dict[str, tuple[str, str]] = {
    "good": ("CC0-1.0", GOOD),
    "either": ("MIT OR CC0-1.0", GOOD + " Again."),
    "both": ("MIT AND CC0-1.0", GOOD + " No."),
    "closed": ("LicenseRef-Proprietary", GOOD),
    "no expression": ("see the file", GOOD),
    "blank": ("CC0-1.0", " \n\u200b\u00a0".replace("\u200b", "")),
    "short": ("CC0-1.0", "The end of it."),
    "again": ("CC0-1.0", "\n".join([GOOD, "and so on and so on", *["the same line to the end"] * 9])),
    "german": (
        "CC0-1.0",
        GERMAN,
    ),
    "mojibake": ("CC0-1.0", GOOD + " The café".encode().decode("latin-1") + " is there."),
    "personal": ("CC0-1.0", GOOD + " Write to jane.doe@company.co.uk or john@company.co.uk, call +44 20 7219 3000."),
    "other": (
        "CC0-1.0",
        "The boat that came up the stream in spring carried salt and two passengers, who did not speak to each other. "
        "One of them had a map of the valley with him, and the other had been born there and would not look at it.",
    ),
    "quiz": ("CC0-1.0", f"{GOOD} He asked: {GOOD.split('.')[1].upper()}! And she knew."),
}
QUESTION = "Complete this: every morning a captain walked along its wall, and counted the windows because he"
PERSONAL = ("jane", "john", "7219", "3000", "company")


def make(
    folder: Path, letters: dict[str, tuple[str, str]], question: str = QUESTION, shards: int = 1, **changes: Any
) -> None:
    """In `folder`, the working directory: these texts as extracted documents, each under its own licence."""
    corpora = make_corpora(folder / "corpora")
    (corpora / EVALUATION_SET).write_text(json.dumps({"id": "q1", "question": question}))
    tree = params(corpora)
    tree["filter"] |= {"language": {"min_probability": 0.4}} | changes
    (folder / "params.yaml").write_text(json.dumps(tree))
    evaluation_sets()
    evaluation_ngrams()
    documents = [
        Document(f"letters/{id}", text, {"license": terms, "source": "letters", "text_sha256": text_sha256(text)})
        for id, (terms, text) in letters.items()
    ]
    names = [shard_name(number) for number in range(shards)]
    parts = [write_documents(DOCUMENTS / "letters" / n, documents[i::shards], n) for i, n in enumerate(names)]
    write_stub(Extracted, "letters", take_basis(), parameters={}, outputs={"documents": parts})


def removed() -> dict[str, tuple[str, str | None]]:
    rows = pq.read_table("data/filtered/letters/removals.parquet").to_pylist()
    return {row["id"].removeprefix("letters/"): (row["reason"], row["detail"]) for row in rows}


def kept() -> dict[str, str]:
    found = read_documents(Path("data/filtered/letters/000000.jsonl.zst"))
    return {document.id.removeprefix("letters/"): document.text for document in found}


def manifest() -> dict[str, Any]:
    tree: dict[str, Any] = json.loads(Path("manifests/filtered/letters.json").read_text())
    return tree


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stages work where they are called, as DVC calls them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERYSTEP_WORKERS", "1")
    return tmp_path


def test_each_document_goes_for_its_own_reason(here: Path) -> None:
    make(here, LETTERS)
    filter("letters")
    assert removed() == {
        "both": ("license", "MIT AND CC0-1.0"),
        "closed": ("license", "LicenseRef-Proprietary"),
        "no expression": ("license", "see the file"),
        "blank": ("empty", None),
        "short": ("gopher_short_doc", "4"),
        "again": ("dup_line_frac", "0.727"),
        "german": removed()["german"],
        "quiz": ("contamination", "quiz q1"),
        **dict.fromkeys(("good", "either", "mojibake", "personal"), ("contamination", "quiz q1")),
    }
    assert removed()["german"][0] == "language"


def test_what_stays_is_mended_and_holds_no_personal_data(here: Path) -> None:
    make(here, LETTERS, question="Too short?")
    filter("letters")
    texts = kept()
    assert set(texts) == {"good", "either", "mojibake", "personal", "other", "quiz"}
    assert texts["mojibake"].endswith("The café is there.")
    assert texts["personal"].endswith("Write to EMAIL_ADDRESS or EMAIL_ADDRESS, call PHONE_NUMBER.")
    steps = {step["step"]: step for step in manifest()["steps"]}
    assert steps["encoding"] == {
        "step": "encoding",
        "documents": 10,
        "rewritten": 1,
        "removed": {"empty": 1},
        "counts": {"lines_mended": 1},
    }
    assert steps["personal_data"]["counts"] == {"email": 2, "phone": 1}
    assert steps["personal_data"]["rewritten"] == 1
    written = [path.read_bytes() for path in Path("manifests/filtered").iterdir()]
    written.append(json.dumps(removed()).encode())
    assert not [word for word in PERSONAL for content in written if word.encode() in content]


def test_a_table_says_in_which_documents_personal_data_was_replaced_and_how_often(here: Path) -> None:
    texts = {
        "two": f"{GOOD} Write to jane@company.co.uk.",
        "none": f"{GOOD} Write to jane@example.org.",
        "three": f"{GOOD} Write to john@company.co.uk, or to the server at 52.94.76.10, or call +44 20 7219 3000.",
        "gone": LETTERS["quiz"][1] + " Write to jane@company.co.uk and john@company.co.uk.",
        "one": f"{GOOD} My card is 4111 1111 1111 1111.",
    }
    question = GOOD.split(".")[1] + " and she knew"
    letters = {
        id: ("CC0-1.0", text.replace(GOOD.split(".")[1], "") if id != "gone" else text) for id, text in texts.items()
    }
    make(here, letters, question=question, shards=2)
    filter("letters")
    rows = pq.read_table("data/filtered/letters/replaced.parquet").to_pylist()
    none = dict.fromkeys(REPLACEMENTS, 0)
    assert rows == [
        {"id": f"letters/{id}", "source": "letters", **none, **counts}
        for id, counts in (
            ("two", {"email": 1}),
            ("three", {"email": 1, "ip": 1, "phone": 1}),
            ("one", {"payment_card": 1}),
            ("gone", {"email": 2}),
        )
    ]
    assert removed()["gone"][0] == "contamination", "a document that a later step removes is in the table too"
    (counted,) = (step["counts"] for step in manifest()["steps"] if step["step"] == "personal_data")
    assert counted == {kind: sum(row[kind] for row in rows) for kind in REPLACEMENTS}
    (shard,) = manifest()["outputs"]["replaced"]
    assert (shard["path"], shard["lines"]) == ("replaced.parquet", 4)
    shown = everystep("personal-data", here, "--json")
    found = json.loads(shown.out)
    assert found["sources"] == [{"source": "letters", "documents": 4} | counted]
    assert [row["id"] for row in found["documents"]] == [f"letters/{id}" for id in ("three", "gone", "one", "two")]


def test_without_personal_data_or_its_step_the_table_is_empty(here: Path) -> None:
    make(here, {"personal": LETTERS["personal"]}, steps=["normalize"])
    filter("letters")
    assert pq.read_table("data/filtered/letters/replaced.parquet").num_rows == 0
    assert manifest()["outputs"]["replaced"][0]["lines"] == 0
    shown = everystep("personal-data", here)
    assert (shown.code, "replaced in 0 documents" in shown.out) == (0, True)


def test_the_manifest_counts_every_document_through_every_step(here: Path) -> None:
    make(here, LETTERS)
    filter("letters")
    tree = manifest()
    inside = len(LETTERS) - tree["removed"]["license"]
    for step in tree["steps"]:
        assert step["documents"] == inside
        inside -= sum(step["removed"].values())
    assert inside == tree["documents"] == 1
    by_reason: dict[str, list[str]] = {}
    for id, (reason, _) in removed().items():
        by_reason.setdefault(reason, []).append(f"letters/{id}")
    assert tree["removed"] == {reason: len(ids) for reason, ids in by_reason.items()}
    assert tree["examples"] == {reason: ids[:3] for reason, ids in by_reason.items()}
    assert [step["step"] for step in tree["steps"]] == tree["parameters"]["steps"]
    assert {"quiz": 5} in [step["counts"] for step in tree["steps"]]


def test_a_cap_is_filled_by_licensed_documents_alone(here: Path) -> None:
    size = len(GOOD)
    letters = {f"{terms}-{n}": (terms, GOOD) for n in range(10) for terms in ("CC0-1.0", "LicenseRef-No")}
    make(here, letters, question="Too short?")
    tree = json.loads((here / "params.yaml").read_text())
    tree["sources"]["letters"]["cap_bytes"] = 4 * size
    (here / "params.yaml").write_text(json.dumps(tree))
    filter("letters")
    assert len(kept()) == 4
    assert manifest()["removed"] == {"cap": 6, "license": 10}


def test_steps_run_in_the_order_of_params(here: Path) -> None:
    order = ["contamination", "language", "normalize"]
    make(here, {name: LETTERS[name] for name in ("quiz", "german", "other")}, steps=order)
    filter("letters")
    assert removed()["quiz"] == ("contamination", "quiz q1")
    assert [step["documents"] for step in manifest()["steps"]] == [3, 2, 1]


def test_without_the_step_the_evaluation_sets_are_no_input(here: Path) -> None:
    make(here, {"quiz": LETTERS["quiz"]}, steps=["normalize", "c4", "fineweb"], **PAGES)
    filter("letters")
    assert list(manifest()["inputs"]) == ["manifests/documents/letters.json"]
    assert manifest()["documents"] == 1


def test_a_source_may_have_rules_of_its_own_and_the_others_keep_theirs(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = {name: LETTERS[name] for name in ("good", "again", "other")}
    letters["brief"] = ("CC0-1.0", " ".join(GOOD.split()[:15]))
    make(here, letters, question="Too short?")
    filter("letters")
    common = manifest()
    assert set(kept()) == {"good", "other"}
    own = {
        "gopher_quality": {"min_doc_words": 10, "min_stop_words": 0},
        "language": {"min_probability": 0.0},
    }
    (here / "own").mkdir()
    monkeypatch.chdir(here / "own")
    make(here / "own", letters, question="Too short?", sources={"letters": own, "notes": {"steps": ["normalize"]}})
    filter("letters")
    assert set(kept()) == {"good", "other", "brief"}
    changed = manifest()["parameters"]
    assert changed["gopher_quality"] == common["parameters"]["gopher_quality"] | own["gopher_quality"]
    assert changed == common["parameters"] | {key: changed[key] for key in own}, "notes enter no manifest of letters"


def test_a_source_may_take_other_steps(here: Path) -> None:
    make(here, LETTERS, sources={"letters": {"steps": ["normalize", "personal_data"]}})
    filter("letters")
    assert [step["step"] for step in manifest()["steps"]] == ["normalize", "personal_data"]
    assert list(manifest()["inputs"]) == ["manifests/documents/letters.json"]
    assert {reason for reason, _ in removed().values()} == {"license", "empty"}


def test_rules_that_hold_for_other_sources_change_no_document(here: Path) -> None:
    written = []
    for sources in ({}, {"notes": {"gopher_quality": {"min_doc_words": 1}}}):
        make(here, LETTERS, sources=sources)
        filter("letters")
        written.append({key: value for key, value in manifest().items() if key != "params"})
        shutil.rmtree(here / "corpora")
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("letters", "changes", "message"),
    [
        (
            {"a": ("MIT", GOOD), "b": ("CC-BY-4.0", GOOD), "c": ("CC0-1.0", "too short")},
            {},
            "none of its 3 documents stays: 2 license, 1 gopher_short_doc (CC-BY-4.0, MIT); add these licences to "
            "filter.licenses, or remove the source; data/filtered/letters/removals.parquet has the reason for each",
        ),
        ({"a": LETTERS["german"]}, {"steps": ["language"]}, "1 language; correct sources.letters.languages, or"),
        ({"a": LETTERS["short"]}, {}, "1 gopher_short_doc; change its rules under filter.sources.letters, or"),
        ({"a": LETTERS["quiz"]}, {}, "1 contamination; it holds the text of evaluation_sets, or"),
    ],
)
def test_a_source_of_which_nothing_stays_stops_the_build_with_the_reasons(
    here: Path, letters: dict[str, tuple[str, str]], changes: dict[str, Any], message: str
) -> None:
    make(here, letters, **changes)
    with pytest.raises(EverystepError) as caught:
        filter("letters")
    assert str(caught.value).startswith("params.yaml: sources.letters: none of its ")
    assert message in str(caught.value)
    assert not Path("manifests/filtered/letters.json").exists()
    assert len(removed()) == len(letters), "the record is there to be looked at"


def test_a_cap_below_the_first_document_says_what_it_takes(here: Path) -> None:
    make(here, {"a": ("CC0-1.0", GOOD)})
    tree = json.loads((here / "params.yaml").read_text())
    tree["sources"]["letters"]["cap_bytes"] = 100
    (here / "params.yaml").write_text(json.dumps(tree))
    message = rf"sources\.letters\.cap_bytes: 100 bytes is less than the {len(GOOD)} of the first document, so"
    with pytest.raises(EverystepError, match=message):
        filter("letters")


PAGES: dict[str, Any] = {
    "c4": {
        "min_num_sentences": 5,
        "min_words_per_line": 3,
        "max_word_length": 1000,
        "remove_citations": True,
        "filter_no_terminal_punct": True,
        "filter_lorem_ipsum": True,
        "filter_javascript": True,
        "filter_curly_bracket": True,
        "filter_policy": True,
    },
    "fineweb": {
        "line_punct_thr": 0.12,
        "line_punct_exclude_zero": False,
        "short_line_thr": 0.67,
        "short_line_length": 30,
        "char_duplicates_ratio": 0.01,
        "new_line_ratio": 0.3,
    },
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ["normalize", "normalize"]}, "filter: steps: normalize is listed twice"),
        ({"steps": ["c4"]}, "filter: c4: missing; add its rules"),
        ({"steps": []}, "filter.steps: "),
        ({"steps": ["spelling"]}, "filter.steps.0: "),
        ({"licenses": []}, "filter.licenses: "),
        ({"licenses": ["CC0 1.0"]}, "filter.licenses.0: 'CC0 1.0' is not an SPDX expression"),
        ({"language": {"min_probability": 1.5}}, "filter.language.min_probability: "),
        ({"sources": {"poems": {}}}, "filter.sources.poems: not declared under sources"),
        ({"sources": {"notes": {"gopher": {}}}}, "filter.sources.notes.gopher: unknown key"),
        ({"sources": {"notes": {"licenses": ["MIT"]}}}, "filter.sources.notes.licenses: unknown key"),
        ({"sources": {"notes": {"steps": ["spelling"]}}}, "filter.sources.notes.steps.0: "),
        ({"sources": {"notes": {"steps": ["c4"]}}}, "filter.sources.notes: c4: missing; add its rules"),
        ({"sources": {"notes": {"c4": {"max_word_length": 9}}}}, "filter.sources.notes.c4.min_num_sentences: missing"),
        (
            {"sources": {"notes": {"language": {"probability": 1}}}},
            "filter.sources.notes.language.probability: unknown",
        ),
        (
            {"sources": {"notes": {"language": {"min_probability": 2}}}},
            "filter.sources.notes.language.min_probability: ",
        ),
        ({"sources": {"notes": {"language": 1}}}, "filter.sources.notes.language: "),
        ({"sources": {"notes": None}}, "filter.sources.notes: "),
        ({"sources": ["notes"]}, "filter.sources: "),
    ],
)
def test_params_that_mean_nothing_are_refused(here: Path, changes: dict[str, Any], message: str) -> None:
    tree = params(make_corpora(here / "corpora"))
    tree["filter"] |= changes
    (here / "params.yaml").write_text(json.dumps(tree))
    with pytest.raises(EverystepError) as caught:
        filter("letters")
    assert str(caught.value).startswith(f"params.yaml: {message}")


def test_neither_workers_nor_where_documents_stand_change_what_becomes_of_them(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = LETTERS | {f"{n:03d}": ("CC0-1.0", f"{GOOD} Number {n}.") for n in range(60)}
    make(here, letters, question=GOOD.split(":")[1] + " no", shards=3)
    digests, decided = [], []
    for workers in ("1", "3"):
        monkeypatch.setenv("EVERYSTEP_WORKERS", workers)
        filter("letters")
        paths = [*list_files(Path("data/filtered/letters")), "../../../manifests/filtered/letters.json"]
        digests.append({path: sha256_file(Path("data/filtered/letters") / path) for path in paths})
        decided.append(removed())
    assert digests[0] == digests[1]
    assert len(digests[0]) == 6, "three shards, removals, replaced, manifest"
    backward = dict(reversed(letters.items()))
    (here / "again").mkdir()
    monkeypatch.chdir(here / "again")
    make(here / "again", backward, question=GOOD.split(":")[1] + " no", shards=2)
    monkeypatch.setenv("EVERYSTEP_WORKERS", "1")
    filter("letters")
    assert removed() == decided[0]


# Documents on which a step fails


def breaks(text: str) -> Outcome:
    """A step with a bug: it dies of some texts, and its error quotes them."""
    if "secret" in text:
        raise ValueError(f"cannot digest {text}")
    return Rewritten(text + "!", {"marks": 1})


def run_blocks(texts: list[str], *blocks: Block) -> tuple[list[str | Fault], list[Tally]]:
    tallies = [Tally() for _ in blocks]
    named = [(block.__name__, block) for block in blocks]
    return [clean(text, named, tallies) for text in texts], tallies


def test_a_document_that_makes_a_block_fail_is_set_aside_without_its_text() -> None:
    results, (tally,) = run_blocks(["good", "a secret", "better"], breaks)
    assert results[0] == "good!"
    assert results[2] == "better!"
    fault = results[1]
    assert isinstance(fault, Fault)
    assert fault.reason == "failed"
    assert fault.detail is not None
    assert fault.detail.startswith("breaks: ValueError at test_filter.py:")
    assert "secret" not in fault.detail
    assert (tally.documents, tally.rewritten, tally.removed, tally.counts) == (3, 2, {"failed": 1}, {"marks": 2})


@pytest.mark.parametrize("error", [MemoryError, OSError, ImportError])
def test_what_is_no_fault_of_the_document_stops_the_build(error: type[Exception]) -> None:
    def fails(text: str) -> Outcome:
        raise error("the machine's")

    with pytest.raises(error):
        run_blocks(["good"], fails)


def test_a_step_that_leaves_nothing_removes_the_document() -> None:
    def wipes(text: str) -> Outcome:
        return Rewritten(" \n")

    results, tallies = run_blocks(["good", "  "], wipes, breaks)
    assert results == [Fault("empty"), Fault("empty")]
    assert [tally.documents for tally in tallies] == [2, 0]


@pytest.mark.parametrize("share", [0.3, 0.5])
def test_too_many_failures_stop_the_build_and_leave_a_record(
    here: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    letters = {str(n): ("CC0-1.0", f"a secret of {GOOD}" if n < 4 else GOOD) for n in range(10)}
    make(here, letters, steps=["normalize"])
    tree = json.loads((here / "params.yaml").read_text())
    tree["sources"]["letters"]["max_failed_share"] = share
    (here / "params.yaml").write_text(json.dumps(tree))
    blocks: Callable[..., list[tuple[str, Block]]] = lambda *_: [("normalize", breaks)]  # noqa: E731
    monkeypatch.setattr(stage, "make_blocks", blocks)
    if share == 0.5:
        filter("letters")
        assert manifest()["removed"] == {"failed": 4}
        assert manifest()["steps"][0]["removed"] == {"failed": 4}
    else:
        message = r"params\.yaml: sources\.letters\.max_failed_share: 4 of 10 documents failed"
        with pytest.raises(EverystepError, match=message):
            filter("letters")
        assert not Path("manifests/filtered/letters.json").exists()
    assert set(removed()) == {"0", "1", "2", "3"}
    assert "secret" not in str(removed())
