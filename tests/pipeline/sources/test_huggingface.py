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
from pipeline.sources.document import Document
from tests.pipeline.sources.declared import declared, read_all, tree
from tests.servers.cutter import cutting
from tests.servers.hub import Manners, environment, serve_hub

REVISION = "a" * 40
TOKEN = "hf_secretOfTheTests"
ROOT = Path(__file__).parents[3]
ROWS = [{"id": number, "text": f"Text {number}.", "score": 0.5, "about": {"license": "CC0-1.0"}} for number in range(5)]
FETCH_ALL = """
import json, os, sys
from pathlib import Path
from pipeline.formats.errors import EverystepError
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


def as_lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def as_parquet(rows: list[dict[str, Any]]) -> bytes:
    table = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), table, row_group_size=2)
    return table.getvalue()


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


def test_column_of_licences_is_kept_and_translated(home: Path, fetched: dict[str, Any]) -> None:
    assert fetched["licensed"] == fetched["lines"], "the same rows, whatever a column is declared for"
    found = read_all(home / "raw/licensed", reader="jsonl", **LICENSED)
    assert [item.license for item in found if isinstance(item, Document)] == ["CC-BY-4.0"] * len(ROWS)


def test_only_the_first_rows_are_taken_where_the_declaration_says_so(home: Path, fetched: dict[str, Any]) -> None:
    found = read_all(home / "raw/few", reader="jsonl")
    assert [document.key for document in found] == ["rows.jsonl:1", "rows.jsonl:2"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("digest", f"expected sha256 {'0' * 64} of the rows, got "),
        ("commit", "the data set has no such commit: correct `revision`"),
        ("column", "has no column content, only "),
        ("split", "validation"),
        ("hidden", "a local path of that name hides the Hub's"),
        ("unnamed", "Config name is missing"),
        ("program", "it is a program, and none of a data set is ever run"),
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


# Going on

MANY_ROWS = [{"id": number, "text": f"Text {number}. " * 40} for number in range(400)]
FETCH_AND_BREAK = """
import json, os, sys
from pathlib import Path
import datasets
from pipeline.formats.errors import EverystepError
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
