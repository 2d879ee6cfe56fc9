"""`everystep personal-data`: in which documents personal data was replaced; only ids, kinds and counts."""

import json
from pathlib import Path

import pytest

from pipeline.formats.current import take_basis
from pipeline.formats.manifests import Filtered
from pipeline.formats.tables import REMOVALS, REPLACED, removal, replacement, write_table
from tests.releases import copied, everystep, reseal, reseal_file
from tests.stubs import write_stub

COUNTS = {
    "letters": {"letters/b": {"email": 2, "phone": 1}, "letters/a": {"ip": 3}, "letters/c": {"payment_card": 1}},
    "notes": {"notes/\x1b[31m": {"email": 12_000}},
    "tales": {},
}
TOTALS = [
    {"source": "letters", "documents": 3, "email": 2, "ip": 3, "payment_card": 1, "phone": 1},
    {"source": "notes", "documents": 1, "email": 12_000, "ip": 0, "payment_card": 0, "phone": 0},
    {"source": "tales", "documents": 0, "email": 0, "ip": 0, "payment_card": 0, "phone": 0},
]
LARGEST = ["notes/\x1b[31m", "letters/a", "letters/b", "letters/c"]


def table_of(source: str) -> str:
    return f"data/filtered/{source}/replaced.parquet"


@pytest.fixture
def release(built_project: Path, tmp_path: Path) -> Path:
    """A copy of the small release, in which personal data was replaced."""
    release = copied(built_project / "release", tmp_path / "release")
    for source, documents in COUNTS.items():
        rows = [replacement(source, id, counts) for id, counts in documents.items()]
        write_table(release / table_of(source), rows, REPLACED, "replaced.parquet")
        reseal_file(release, table_of(source))
    return release


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has filtered its sources."""
    monkeypatch.chdir(tmp_path)
    for source, documents in COUNTS.items():
        rows = [replacement(source, id, counts) for id, counts in documents.items()]
        shard = write_table(Path(table_of(source)), rows, REPLACED, "replaced.parquet")
        write_stub(Filtered, source, take_basis(), parameters={}, outputs={"replaced": [shard]})
    return tmp_path


@pytest.mark.parametrize("where", ["release", "project"])
def test_documents_are_listed_by_how_much_was_replaced(where: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(where)
    shown = everystep("personal-data", folder, "--json")
    assert shown.code == 0, shown.said
    found = json.loads(shown.out)
    assert found["sources"] == TOTALS
    assert [row["id"] for row in found["documents"]] == LARGEST
    assert found["documents"][2] == replacement("letters", "letters/b", {"email": 2, "phone": 1})
    fewer = json.loads(everystep("personal-data", folder, "--json", "--largest", "2").out)
    assert (fewer["sources"], [row["id"] for row in fewer["documents"]]) == (TOTALS, LARGEST[:2])


def test_a_person_reads_two_tables_and_no_id_steers_the_terminal(release: Path) -> None:
    shown = everystep("personal-data", release)
    assert shown.out.startswith("personal data was replaced in 4 documents:\n\nsource ")
    assert [line.split() for line in shown.out.splitlines() if line.startswith(("notes", "letters/b", "tales"))] == [
        ["notes", "1", "12,000", "0", "0", "0"],
        ["tales", "0", "0", "0", "0", "0"],
        ["notes/␛[31m", "12,000", "0", "0", "0"],
        ["letters/b", "2", "0", "0", "1"],
    ]
    assert "\x1b" not in shown.out


def test_a_table_that_is_not_the_promised_one_is_not_shown(project: Path, release: Path) -> None:
    for folder in (project, release):
        write_table(folder / table_of("letters"), [], REPLACED, "replaced.parquet")
        shown = everystep("personal-data", folder)
        assert (shown.code, shown.out) == (1, "")
        assert table_of("letters") in shown.err


def test_what_cannot_be_shown_is_said(release: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "neither a release nor a project" in everystep("personal-data", tmp_path / "empty").err
    assert everystep("personal-data", release, "--id", "letters/a").code == 2
    write_table(release / table_of("letters"), [removal("filter", "letters", "letters/a", "cap")], REMOVALS, "t")
    reseal_file(release, table_of("letters"))
    shown = everystep("personal-data", release)
    assert (shown.code, shown.out) == (2, "")
    assert f"{table_of('letters')}: its columns are" in shown.err


def test_a_table_that_does_not_sum_up_to_what_the_step_counted_is_found(release: Path) -> None:
    reseal(release)
    *faults, croissant = json.loads(everystep("verify", release, "--json").out)["faults"]
    faults = [fault for fault in faults if not fault.startswith(("README.md: ", "report/"))]  # have a digest of all
    assert croissant.startswith("croissant.json: line ")  # has the digest of each table as it was
    assert faults == [
        "manifests/filtered/letters.json: personal_data counts {}, data/filtered/letters/replaced.parquet holds "
        "{'email': 2, 'ip': 3, 'payment_card': 1, 'phone': 1}",
        "manifests/filtered/notes.json: personal_data counts {}, data/filtered/notes/replaced.parquet holds "
        "{'email': 12000}",
    ]
