"""One process fetches every case from a hub on this machine, because importing `datasets` takes seconds."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.pipeline.sources.declared import declared, read_all, tree
from tests.servers.hub import environment, serve_hub

REVISION = "a" * 40
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
CASES: dict[str, dict[str, Any]] = {
    "lines": LINES,
    "columnar": LINES | {"repository": "owner/columnar"},
    "few": LINES | {"max_documents": 2, "id_column": None},
    "digest": LINES | {"sha256": "0" * 64},
    "commit": LINES | {"revision": "b" * 40},
    "column": LINES | {"text_column": "content"},
    "split": LINES | {"split": "validation"},
    "hidden": LINES,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def fetched(home: Path) -> dict[str, Any]:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    table = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(ROWS), table)
    repositories = {
        "owner/lines": {REVISION: {"README.md": b"---\nlicense: cc0-1.0\n---\n", "data/train.jsonl": lines}},
        "owner/columnar": {REVISION: {"data/train-00000-of-00001.parquet": table.getvalue()}},
    }
    cases = {name: tree("huggingface", **changes) for name, changes in CASES.items()}
    with serve_hub(repositories) as url:
        steered = os.environ | environment(url, str(home / "cache")) | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", FETCH_ALL]
        done = subprocess.run(
            command,
            input=json.dumps(cases),
            cwd=home,
            env=steered,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_rows_are_kept_as_canonical_lines_of_the_declared_columns(home: Path, fetched: dict[str, Any]) -> None:
    assert [file["path"] for file in fetched["lines"]] == ["rows.jsonl"]
    first = (home / "raw/lines/rows.jsonl").read_text().splitlines()[0]
    assert first == '{"about.license":"CC0-1.0","id":"0","text":"Text 0."}'


def test_files_of_the_hub_in_another_format_give_the_same_digest(fetched: dict[str, Any]) -> None:
    assert fetched["columnar"] == fetched["lines"]


def test_kept_rows_are_read_back_as_documents(home: Path, fetched: dict[str, Any]) -> None:
    found = read_all(home / "raw/lines", reader="jsonl", id_column="id", metadata_columns=["about.license"])
    assert [(document.key, document[1]) for document in found] == [(str(row["id"]), row["text"]) for row in ROWS]


def test_only_the_first_rows_are_taken_where_the_declaration_says_so(home: Path, fetched: dict[str, Any]) -> None:
    found = read_all(home / "raw/few", reader="jsonl")
    assert [document.key for document in found] == ["rows.jsonl:1", "rows.jsonl:2"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("digest", f"expected sha256 {'0' * 64} of the rows, got "),
        ("commit", "owner/lines@bbbbbbbbbbbb: "),
        ("column", "has no column content, only "),
        ("split", "validation"),
        ("hidden", "a local path of that name hides the Hub's"),
    ],
)
def test_what_is_not_as_declared_is_an_error_and_leaves_nothing(
    home: Path, fetched: dict[str, Any], case: str, message: str
) -> None:
    assert isinstance(fetched[case], str)
    assert fetched[case].startswith(f"source {case}: owner/lines")
    assert message in fetched[case]
    assert list((home / "raw" / case).iterdir()) == []


def test_declared_digest_of_rows_is_optional() -> None:
    assert declared("huggingface", sha256="1" * 64) != declared("huggingface")
