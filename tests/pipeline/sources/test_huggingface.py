"""One process fetches every case from a hub on this machine, because importing `datasets` takes seconds."""

import gzip
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from pipeline.formats.canonical import canonical
from pipeline.sources.document import RawDocument, Rejected
from pipeline.sources.readers import READERS
from tests.pipeline.sources.declared import declared, read_all, tree
from tests.pipeline.sources.test_fuzz_sources import in_zip
from tests.servers.cutter import cutting
from tests.servers.hub import Manners, environment, serve_hub

REVISION = "a" * 40
TOKEN = "hf_secretOfTheTests"
ROOT = Path(__file__).parents[3]
ROWS = [{"id": number, "text": f"Text {number}.", "score": 0.5, "about": {"license": "CC0-1.0"}} for number in range(5)]
FETCH_ALL = """
import json, os, sys
from pathlib import Path
from pipeline.base.errors import EverystepError
from pipeline.sources.declaration import parse_source
from pipeline.sources.fetch import fetch
answers = {}
for name, tree in json.load(sys.stdin).items():
    if name == "hidden":
        Path("owner/lines").mkdir(parents=True)
    try:
        source = parse_source(name, tree, "params.yaml")
        answers[name] = fetch(name, source, Path("raw") / name, Path("partial") / name, lambda done, total: None)
    except EverystepError as error:
        answers[name] = str(error)
print(json.dumps(answers))
"""
LINES = {"repository": "owner/lines", "id_column": "id", "metadata_columns": ["about.license"]}
LICENSED = {"id_column": "id", "license_column": "about.license", "licenses": {"CC-BY-4.0": ["CC0-1.0", "by"]}}
ODD = {"id_column": "id", "metadata_columns": ["score"]}


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> bytes:
    table = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), table, row_group_size=2)
    return table.getvalue()


def with_score(number: int, score: Any, **more: Any) -> dict[str, Any]:
    return {"id": number, "text": f"Text {number}.", "score": score} | more


SCHEMA = pa.schema({"id": pa.int64(), "text": pa.string(), "score": pa.float64()})
TWO = [with_score(1, 0.5), with_score(2, 2.0)]
FOUND = [["1", "Text 1.", "0.5"], ["2", "Text 2.", "2"]]
ODD_REPOSITORIES: dict[str, dict[str, bytes]] = {
    "nan": {"train.parquet": as_parquet([with_score(1, 0.5), with_score(2, float("nan"))])},
    "more-columns": {"train-0.jsonl": as_lines(TWO[:1]), "train-1.jsonl": as_lines([TWO[1] | {"link": "x"}])},
    "more-table-columns": {
        "train-0.parquet": as_parquet(TWO[:1]),
        "train-1.parquet": as_parquet([TWO[1] | {"link": "x"}]),
    },
    "fewer-columns": {"train-0.jsonl": as_lines(TWO[:1]), "train-1.jsonl": as_lines([{"id": 2, "text": "Text 2."}])},
    "fewer-table-columns": {
        "train-0.parquet": as_parquet(TWO[:1]),
        "train-1.parquet": as_parquet([{"id": 2, "text": "Text 2."}]),
    },
    "empty-table": {"train-0.parquet": as_parquet([], SCHEMA), "train-1.parquet": as_parquet(TWO)},
    "empty-file": {"train-0.jsonl": b"", "train-1.jsonl": as_lines(TWO)},
    "null-first": {"train-0.jsonl": as_lines([with_score(1, None)]), "train-1.jsonl": as_lines(TWO[1:])},
    "null-table-first": {"train-0.parquet": as_parquet([with_score(1, None)]), "train-1.parquet": as_parquet(TWO[1:])},
    "other-types": {"train-0.jsonl": as_lines([with_score(1, [1, "a"])]), "train-1.jsonl": as_lines(TWO[1:])},
    "half-pair": {"train.jsonl": as_lines(TWO[:1]) + b'{"id": 2, "text": "b \\ud83d", "score": 1}\n'},
    "one-odd-text": {"train.jsonl": as_lines([TWO[0], with_score(2, 1, text=["Text."])])},
    "csv": {"train.csv": b'id,text,score\n001,"one, two",1.0\n002,NA,\n003,003,"NULL"\n'},
    "tsv": {"train.tsv": b"\xef\xbb\xbfid\ttext\tscore\n001\ttrue\t1e3\n1_0\tnan\t2020-01-01\n"},
    "packed-csv": {"train.csv.gz": gzip.compress(b"id,text,score\n1,one\n2,caf\xe9,1\n3,three,1\n")},
    "array": {"train.json": json.dumps(TWO).encode()},
    "text": {"train.txt": b"One.\nTwo.\r\n"},
    "frames": {
        "train.jsonl.zst": zstandard.compress(as_lines(TWO[:1])) + zstandard.compress(as_lines(TWO[1:])),
    },
    "zipped": {"train.zip": in_zip("a/train.jsonl")(as_lines(TWO))},
    "numbers": {
        "train-0.parquet": as_parquet(TWO),
        "train-1.parquet": as_parquet([with_score(3, 1, text=3)]),
    },
    "lists": {"train.parquet": as_parquet([with_score(1, 1, text=["a", "b"])])},
    "one-file-lacks-the-text": {"train-0.jsonl": as_lines(TWO), "train-1.jsonl": as_lines([{"id": 3}])},
    "one-table-lacks-the-text": {"train-0.parquet": as_parquet(TWO), "train-1.parquet": as_parquet([{"id": 3}])},
    "cut-frame": {
        "train.jsonl.zst": zstandard.compress(as_lines(TWO)) + zstandard.compress(as_lines(TWO))[:-3],
    },
    "cut-member": {"train.jsonl.gz": gzip.compress(as_lines(TWO)) + gzip.compress(as_lines(TWO))[:-3]},
    "cut-quote": {"train.csv": b'id,text,score\n1,"one'},
    "dialect": {
        "README.md": b'---\nconfigs:\n- config_name: default\n  quotechar: "\'"\n  data_files: data/train.csv\n---\n',
        "train.csv": b"id,text,score\n1,one,1\n",
    },
    "kind": {"train.arrow": b"ARROW1\0\0"},
    "packing": {"train.jsonl": b"\x04\x22\x4d\x18" + bytes(60)},
}
EXPECTED: dict[str, list[Any]] = {
    "more-columns": FOUND,
    "more-table-columns": FOUND,
    "empty-table": FOUND,
    "empty-file": FOUND,
    "array": FOUND,
    "frames": FOUND,
    "zipped": FOUND,
    **{case: [["1", "Text 1.", None], FOUND[1]] for case in ("null-first", "null-table-first")},
    **{case: [FOUND[0], ["2", "Text 2.", None]] for case in ("nan", "fewer-columns", "fewer-table-columns")},
    "other-types": [["1", "Text 1.", '[1,"a"]'], FOUND[1]],
    "half-pair": [FOUND[0], "invalid_utf8"],
    "one-odd-text": [FOUND[0], "broken_record"],
    "csv": [["001", "one, two", "1.0"], ["002", "NA", ""], ["003", "003", "NULL"]],
    "tsv": [["001", "true", "1e3"], ["1_0", "nan", "2020-01-01"]],
    "packed-csv": ["broken_record", "invalid_utf8", ["3", "three", "1"]],
    "text": [["rows.jsonl:1", "One.", None], ["rows.jsonl:2", "Two.", None]],
}
CASES: dict[str, dict[str, Any]] = {
    "lines": LINES,
    "licensed": LICENSED | {"repository": "owner/columnar"},
    "columnar": LINES | {"repository": "owner/columnar"},
    "few": LINES | {"max_documents": 2, "id_column": None},
    "digest": LINES | {"sha256": "0" * 64},
    "commit": LINES | {"revision": "b" * 40},
    "column": LINES | {"text_column": "content"},
    "split": LINES | {"split": "validation"},
    "packed": LINES | {"repository": "owner/packed"},
    "zstd": LINES | {"repository": "owner/zstd"},
    "named": LINES | {"repository": "owner/many", "config": "second"},
    "held-out": LINES | {"repository": "owner/many", "config": "first", "split": "test"},
    "unnamed": LINES | {"repository": "owner/many"},
    "program": LINES | {"repository": "owner/program"},
    "gated": LINES | {"repository": "owner/gated"},
    "allowed": LINES | {"repository": "owner/allowed"},
    "absent": LINES | {"repository": "owner/absent"},
    "busy": LINES | {"repository": "owner/busy"},
    "right-digest": LINES,
    **{name: ODD | {"repository": f"owner/{name}"} for name in ODD_REPOSITORIES},
    "text": {"repository": "owner/text"},
    "hidden": LINES,  # last: it hides a name from all that follow
}
MANY = """---
configs:
- config_name: first
  data_files: [{split: train, path: a/train.jsonl}, {split: test, path: a/test.jsonl}]
- config_name: second
  data_files: [{split: train, path: b/train.jsonl}]
---
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


LINES_OF_ALL = as_lines(ROWS)
REPOSITORIES = {
    "owner/lines": {REVISION: {"README.md": b"---\nlicense: cc0-1.0\n---\n", "data/train.jsonl": LINES_OF_ALL}},
    "owner/columnar": {REVISION: {"data/train-00000-of-00001.parquet": as_parquet(ROWS)}},
    "owner/packed": {REVISION: {"data/train.jsonl.gz": gzip.compress(LINES_OF_ALL, mtime=0)}},
    "owner/zstd": {REVISION: {"data/train.jsonl.zst": zstandard.compress(LINES_OF_ALL)}},
    "owner/many": {
        REVISION: {
            "README.md": MANY.encode(),
            "a/train.jsonl": LINES_OF_ALL,
            "a/test.jsonl": as_lines(ROWS[:1]),
            "b/train.jsonl": as_lines(ROWS[3:]),
        }
    },
    "owner/program": {REVISION: {"program.py": b"import datasets\nopen('was-run', 'w')\n"}},
    "owner/gated": {REVISION: {"data/train.jsonl": LINES_OF_ALL}},
    "owner/allowed": {REVISION: {"data/train.jsonl": LINES_OF_ALL}},
    "owner/busy": {REVISION: {"data/train.jsonl": LINES_OF_ALL}},
    **{
        f"owner/{name}": {
            REVISION: {place if place == "README.md" else f"data/{place}": files[place] for place in files}
        }
        for name, files in ODD_REPOSITORIES.items()
    },
}


def run_in(home: Path, url: str, code: str, given: Any = None, token: str = "") -> subprocess.CompletedProcess[str]:
    """Run `code` in `home`, where the Hub's clients see only the one at `url`; `given` is its stdin, as JSON."""
    return subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(given),
        cwd=home,
        env=os.environ | environment(url, str(home / "cache"), token) | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def done(home: Path) -> subprocess.CompletedProcess[str]:
    digest = hashlib.sha256(
        b"".join(canonical({"about.license": "CC0-1.0", "id": str(i), "text": f"Text {i}."}) + b"\n" for i in range(5))
    ).hexdigest()
    cases = {name: tree("huggingface", **changes) for name, changes in CASES.items()}
    cases["right-digest"]["sha256"] = digest
    manners = Manners(
        gated={"owner/gated": "another token", "owner/allowed": TOKEN},
        busy={"datasets/owner/busy": [503, 429], "owner/busy/resolve": [503]},
        large=(".gz", ".parquet"),
    )
    with serve_hub(REPOSITORIES, manners=manners) as url:
        return run_in(home, url, FETCH_ALL, cases, token=TOKEN)


@pytest.fixture(scope="module")
def fetched(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_rows_are_kept_as_canonical_lines_of_the_declared_columns(home: Path, fetched: dict[str, Any]) -> None:
    assert [file["path"] for file in fetched["lines"]] == ["rows.jsonl"]
    first = (home / "raw/lines/rows.jsonl").read_text().splitlines()[0]
    assert first == '{"about.license":"CC0-1.0","id":"0","text":"Text 0."}'


@pytest.mark.parametrize("case", ["columnar", "packed", "zstd"])
def test_files_of_the_hub_in_another_format_give_the_same_digest(fetched: dict[str, Any], case: str) -> None:
    assert fetched[case] == fetched["lines"]


def test_declared_digest_that_comes_out_again_is_accepted(fetched: dict[str, Any]) -> None:
    assert fetched["right-digest"] == fetched["lines"]


@pytest.mark.parametrize(("case", "ids"), [("named", ["3", "4"]), ("held-out", ["0"])])
def test_configuration_and_split_choose_the_rows(
    home: Path, fetched: dict[str, Any], case: str, ids: list[str]
) -> None:
    assert isinstance(fetched[case], list), fetched[case]
    assert [document.key for document in read_all(home / "raw" / case, reader="jsonl", id_column="id")] == ids


def test_hub_that_is_busy_is_asked_again(fetched: dict[str, Any]) -> None:
    assert fetched["busy"] == fetched["lines"]


def test_gated_data_set_is_read_with_a_token_that_may(fetched: dict[str, Any]) -> None:
    assert fetched["allowed"] == fetched["lines"]


def test_token_is_neither_said_nor_kept(home: Path, done: subprocess.CompletedProcess[str]) -> None:
    assert TOKEN not in done.stdout + done.stderr
    kept = [path for folder in ("raw", "partial", "cache") for path in (home / folder).rglob("*") if path.is_file()]
    assert kept and not [path for path in kept if TOKEN.encode() in path.read_bytes()]


def test_program_of_a_data_set_is_never_run(home: Path, fetched: dict[str, Any]) -> None:
    assert not list(home.rglob("was-run"))


def test_kept_rows_are_read_back_as_documents(home: Path, fetched: dict[str, Any]) -> None:
    found = read_all(home / "raw/lines", reader="jsonl", id_column="id", metadata_columns=["about.license"])
    assert [(document.key, document[1]) for document in found] == [(str(row["id"]), row["text"]) for row in ROWS]


@pytest.mark.parametrize("case", EXPECTED)
def test_values_stay_as_they_are_written_and_a_row_that_cannot_be_read_is_on_record(
    home: Path, fetched: dict[str, Any], case: str
) -> None:
    assert isinstance(fetched[case], list), fetched[case]
    source = declared("huggingface", **CASES[case])
    rows = READERS["jsonl"].read(home / "raw" / case, "rows.jsonl", source)
    found = [[d.key, d.text, d.metadata.get("score")] if isinstance(d, RawDocument) else d.reason for d in rows]
    assert found == EXPECTED[case]


def test_what_is_wrong_with_a_row_says_where_it_stands(home: Path, fetched: dict[str, Any]) -> None:
    source = declared("huggingface", **CASES["one-odd-text"])
    *_, bad = READERS["jsonl"].read(home / "raw/one-odd-text", "rows.jsonl", source)
    wrong = "data/train.jsonl, row 2: column 'text' holds list and no string"
    assert bad == Rejected("rows.jsonl:2", "broken_record", wrong)


def test_column_of_licences_is_kept_and_translated(home: Path, fetched: dict[str, Any]) -> None:
    assert fetched["licensed"] == fetched["lines"], "the same rows, whatever a column is declared for"
    found = read_all(home / "raw/licensed", reader="jsonl", **LICENSED)
    assert [item.license for item in found if isinstance(item, RawDocument)] == ["CC-BY-4.0"] * len(ROWS)


def test_only_the_first_rows_are_taken_where_the_declaration_says_so(home: Path, fetched: dict[str, Any]) -> None:
    found = read_all(home / "raw/few", reader="jsonl")
    assert [document.key for document in found] == ["rows.jsonl:1", "rows.jsonl:2"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("digest", f"expected sha256 {'0' * 64} of the rows, got "),
        ("commit", "the data set has no such commit: correct `revision`"),
        ("column", "data/train.jsonl: has no column 'content', only id, text, score, about; correct the declaration"),
        ("numbers", "data/train-1.parquet: its column 'text' holds 'int64', not strings; set `text_column`"),
        ("lists", "data/train.parquet: its column 'text' holds 'list<element: string>', not strings"),
        ("one-file-lacks-the-text", "data/train-1.jsonl: has no column 'text', only id; correct the declaration"),
        ("one-table-lacks-the-text", "data/train-1.parquet: has no column 'text', only id; correct the declaration"),
        ("cut-frame", "data/train.jsonl.zst: damaged (it is cut off); remove the artefact and fetch again"),
        ("cut-member", "data/train.jsonl.gz: damaged (it is cut off)"),
        ("cut-quote", "data/train.csv: line 2: unexpected end of data; the file is cut off or not CSV"),
        ("dialect", "its README sets quotechar for csv, which is not supported"),
        ("kind", "its files are of the kind arrow; only parquet, csv, json, text are supported"),
        ("packing", "data/train.jsonl: lz4 is not a supported packing; pack it as zst, gz, xz or bz2"),
        ("split", "validation"),
        ("hidden", "a local path of that name hides the Hub's"),
        ("unnamed", "Config name is missing"),
        ("program", "programs of a data set are never run"),
        ("gated", "accept its terms at https://huggingface.co/datasets/owner/gated and set HF_TOKEN"),
        ("absent", "owner/absent"),
    ],
)
def test_what_is_not_as_declared_is_an_error_and_leaves_nothing(
    home: Path, fetched: dict[str, Any], case: str, message: str
) -> None:
    assert isinstance(fetched[case], str)
    assert fetched[case].startswith(f"source {case}: {CASES[case]['repository']}")
    assert message in fetched[case]
    assert list((home / "raw" / case).iterdir()) == []


def test_declared_digest_of_rows_is_optional() -> None:
    assert declared("huggingface", sha256="1" * 64) != declared("huggingface")


def test_file_that_is_not_the_one_that_the_hub_keeps_is_refused_and_removed(tmp_path: Path) -> None:
    manners = Manners(large=(".jsonl",), lies=("oid",))
    with serve_hub({"owner/lines": REPOSITORIES["owner/lines"]}, manners=manners) as url:
        done = run_in(tmp_path, url, FETCH_ALL, {"lines": tree("huggingface", **LINES)})
    answer = json.loads(done.stdout.splitlines()[-1])["lines"]
    assert "data/train.jsonl: expected sha256 " in answer
    assert "as the Hub keeps it, got " in answer
    assert not list(tmp_path.rglob("train.jsonl"))


# Going on

MANY_ROWS = [{"id": number, "text": f"Text {number}. " * 40} for number in range(400)]
FETCH_AND_BREAK = """
import json, os, sys
from pathlib import Path
import datasets
from pipeline.base.errors import EverystepError
from pipeline.sources import huggingface
from pipeline.sources.declaration import parse_source
from pipeline.sources.fetch import fetch
name, tree, dies_at = json.load(sys.stdin)
huggingface.STATE_BYTES, huggingface.FIRST_WAIT_SECONDS = 20000, 0.01
datasets.config.STREAMING_READ_RETRY_INTERVAL = datasets.config.STREAMING_OPEN_RETRY_INTERVAL = 0.05
huggingface.REPORT_SECONDS = 0
def report(done, total):
    print(done, flush=True)
    if dies_at and done > dies_at:
        os._exit(9)
for folder in ("raw", "partial"):
    Path(folder, name).mkdir(parents=True, exist_ok=True)
source = parse_source(name, tree, "params.yaml")
try:
    print(json.dumps(fetch(name, source, Path("raw", name), Path("partial", name), report)))
except EverystepError as error:
    sys.exit(str(error))
"""
SHARDS = {
    "lines": {f"data/train-{i}.jsonl": as_lines(MANY_ROWS[i * 100 : i * 100 + 100]) for i in range(4)},
    "columnar": {f"data/train-{i}.parquet": as_parquet(MANY_ROWS[i * 100 : i * 100 + 100]) for i in range(4)},
}


@pytest.mark.parametrize(("files", "limit"), [("lines", None), ("columnar", None), ("columnar", 170)])
def test_killed_fetch_goes_on_and_gives_the_same_bytes(tmp_path: Path, files: str, limit: int | None) -> None:
    whole = tree("huggingface", repository="owner/shards", id_column="id", max_documents=limit)
    with serve_hub({"owner/shards": {REVISION: SHARDS[files]}}) as url:
        killed = run_in(tmp_path, url, FETCH_AND_BREAK, ["s", whole, 60000])
        assert killed.returncode == 9 and not list((tmp_path / "raw/s").iterdir())
        resumed = run_in(tmp_path, url, FETCH_AND_BREAK, ["s", whole, 0])
        straight = run_in(tmp_path, url, FETCH_AND_BREAK, ["t", whole, 0])
    assert int(resumed.stdout.splitlines()[0]) > 20000, "it began again"
    assert resumed.stdout.splitlines()[-1] == straight.stdout.splitlines()[-1]
    found = read_all(tmp_path / "raw/s", reader="jsonl", id_column="id")
    assert [document.key for document in found] == [str(row["id"]) for row in MANY_ROWS[:limit]]


def test_other_declaration_begins_again(tmp_path: Path) -> None:
    whole = tree("huggingface", repository="owner/shards", id_column="id")
    with serve_hub({"owner/shards": {REVISION: SHARDS["lines"]}}) as url:
        run_in(tmp_path, url, FETCH_AND_BREAK, ["s", whole, 60000])
        done = run_in(tmp_path, url, FETCH_AND_BREAK, ["s", whole | {"max_documents": 5}, 0])
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "raw/s/rows.jsonl").read_text().splitlines()) == 5


def test_cut_connections_lose_and_repeat_nothing(tmp_path: Path) -> None:
    whole = tree("huggingface", repository="owner/shards", id_column="id")
    with serve_hub({"owner/shards": {REVISION: SHARDS["lines"]}}) as hub, cutting(hub, cut_after=90000, cuts=2) as way:
        done = run_in(tmp_path, way.address, FETCH_AND_BREAK, ["s", whole, 0])
        assert way.cuts == 0
    assert done.returncode == 0, done.stderr
    found = read_all(tmp_path / "raw/s", reader="jsonl", id_column="id")
    assert [document.key for document in found] == [str(row["id"]) for row in MANY_ROWS]
