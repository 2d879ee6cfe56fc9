"""Programs of others read what we disclose: mlcroissant, corpuscard. `make .venv/tested` installs both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.formats.release import REVISIONS
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.disclosures.summary import write_summary
from tests.releases import copied, flip

CLIENTS = Path(sys.prefix) / "clients"
VALIDATE = "from mlcroissant.scripts.cli import main; main()"
READER = """
import json, sys
import mlcroissant
data = mlcroissant.Dataset(jsonld=sys.argv[1])
print(json.dumps({name: [{key: value.decode() if isinstance(value, bytes) else value for key, value in record.items()}
                         for record in data.records(name)] for name in sys.argv[2:]}))
"""


def client(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    assert (CLIENTS / name).is_dir(), "run `make .venv/tested`, which installs it"
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": str(CLIENTS / name)},
        capture_output=True,
        text=True,
    )


def records(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return client("mlcroissant", "-c", READER, folder / "croissant.json", *names)


def findings(path: Path) -> tuple[int, str]:
    """Exit code of `corpuscard check` and what it found; that time goes by is none of our faults."""
    done = client("corpuscard", "-m", "corpuscard.cli", "check", path)
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, "\n".join(line for line in lines if "header: last_update is" not in line)


def test_mlcroissant_finds_no_fault_and_reads_every_record(released: Path) -> None:
    done = client("mlcroissant", "-c", VALIDATE, "validate", "--jsonld", released / "croissant.json")
    assert (done.returncode, "Done." in done.stderr, "error(s)" in done.stderr) == (0, True, False), done.stderr
    done = records(released, "documents", "held_out", "removed", "personal_data", "checkpoints")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, path in (("documents", "data/tokens/train.parquet"), ("held_out", "data/tokens/validation.parquet")):
        columns = pq.read_table(released / path).to_pylist()
        assert found[name] == [{f"{name}/{key}": value for key, value in row.items()} for row in columns]
    tables = [pq.read_table(path) for path in released.glob("data/**/removals.parquet")]
    assert len(found["removed"]) == sum(table.num_rows for table in tables) > 0
    lines = [json.loads(line) for line in (released / REVISIONS).read_text().splitlines()]
    assert found["checkpoints"] == [{f"checkpoints/{key}": line[key] for key in line} for line in lines]


def test_mlcroissant_refuses_a_table_with_other_bytes(released: Path, tmp_path: Path) -> None:
    folder = copied(released, tmp_path / "release")
    flip(folder / "data/tokens/train.parquet", 0.5)
    done = records(folder, "documents")
    assert done.returncode != 0 and "during the operation Download(data/tokens/train.parquet)" in done.stderr
    assert "is not identical with the reference in the Croissant JSON-LD" in done.stderr


def test_corpuscard_accepts_what_is_declared_and_renders_all_twelve_items_of_ab_2013(released: Path) -> None:
    path = released / "disclosures/training-content.json"
    assert findings(path) == (0, "No issues found.") or findings(path) == (0, "")
    done = client("corpuscard", "-m", "corpuscard.cli", "render-ab2013", path)
    assert done.returncode == 0 and "## 12." in done.stdout and "Not provided" not in done.stdout, done.stdout


def test_corpuscard_names_what_a_silent_publisher_left_out(silent: Evidence, tmp_path: Path) -> None:
    path = tmp_path / "training-content.json"
    path.write_bytes(write_summary(silent))
    code, said = findings(path)
    assert code == 1 and "crawlers_used" in said and "continuously_trained_on_new_data" in said


@pytest.mark.parametrize("key", ["crawled", "prompts", "synthetic", "private", "licensed", "other"])
def test_a_yes_is_a_yes_with_its_details_for_corpuscard_too(declared: Evidence, tmp_path: Path, key: str) -> None:
    words = declared.release.disclosures
    assert words
    yes = words.model_copy(update={key: "the details"})
    evidence = declared.model_copy(update={"release": declared.release.model_copy(update={"disclosures": yes})})
    path = tmp_path / "training-content.json"
    path.write_bytes(write_summary(evidence))
    code, said = findings(path)
    assert code == 0 and "ERROR" not in said, said
    assert "the details" in path.read_text()
