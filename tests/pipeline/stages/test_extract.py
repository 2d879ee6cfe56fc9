"""What extraction promises, run as DVC runs it, on small corpora of many parts."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files, sha256_file
from pipeline.base.paths import DOCUMENTS, RAW
from pipeline.executor import processes
from pipeline.formats.current import take_basis
from pipeline.formats.documents import Document, read_documents, text_sha256
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Fetched
from pipeline.formats.stages import manifest_path
from pipeline.sources.readers import READERS
from pipeline.stages import extract as stage
from pipeline.stages.extract import extract
from tests.fuzzing import forget_peak, peak
from tests.pipeline.sources.declared import tree
from tests.project import make_corpora, params
from tests.releases import read_json, shards_of
from tests.shards import write_sharded
from tests.stubs import write_stub

NAME = "letters"
PER_SHARD = 8192


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stages work where they are called, as DVC calls them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERYSTEP_WORKERS", "1")
    return tmp_path


def declare(here: Path, **changes: Any) -> None:
    whole = params(make_corpora(here / "corpora"))
    whole["sources"] = {NAME: tree("url", reader="jsonl", id_column="id") | changes}
    (here / "params.yaml").write_text(json.dumps(whole))
    write_fetched()


def write_fetched() -> None:
    """The manifest of a fetch that brought the files as they are now."""
    paths = sorted((RAW / NAME).glob("*")) if (RAW / NAME).is_dir() else []
    files = [{"path": p.name, "bytes": p.stat().st_size, "sha256": sha256_file(p)} for p in paths]
    write_stub(Fetched, NAME, take_basis(), parameters={}, outputs={}, files=files)


def write_part(number: int, rows: list[Any]) -> None:
    path = RAW / NAME / f"{number:03}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_fetched()


def rows_of(start: int, stop: int) -> list[dict[str, Any]]:
    return [{"id": f"k{number}", "text": f"Text {number}."} for number in range(start, stop)]


def manifest() -> dict[str, Any]:
    tree: dict[str, Any] = read_json(manifest_path("extract", NAME))
    return tree


def shards() -> list[Shard]:
    return shards_of(manifest(), "documents")


def removed() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = pq.read_table(DOCUMENTS / NAME / "removals.parquet").to_pylist()
    return found


def test_parts_of_any_size_become_shards_of_one_size_by_any_number_of_workers(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_idle", [])  # workers of another test work in another folder
    declare(here)
    ends = [0, 1, 1, 5000, 8193, 30000, 30001]
    for number, (start, stop) in enumerate(pairwise(ends)):
        write_part(number, ["no object", *rows_of(start, stop), {"id": "no text"}])
    found = []
    for workers in ("1", "3"):
        monkeypatch.setenv("EVERYSTEP_WORKERS", workers)
        extract(NAME)
        names = [
            *(str(DOCUMENTS / NAME / path) for path in list_files(DOCUMENTS / NAME)),
            f"manifests/documents/{NAME}.json",
        ]
        found.append({name: sha256_file(Path(name)) for name in names})
    assert found[0] == found[1]
    assert [shard.lines for shard in shards()] == [PER_SHARD] * 3 + [30001 - 3 * PER_SHARD]
    about = {"license": "CC0-1.0", "source": NAME}
    expected = [
        Document(f"{NAME}/{row['id']}", row["text"], about | {"text_sha256": text_sha256(row["text"])})
        for row in rows_of(0, 30001)
    ]
    assert shards() == write_sharded(here / "at once", expected)
    gone = [f"{NAME}/{part:03}.jsonl:{line}" for part in range(6) for line in (1, ends[part + 1] - ends[part] + 2)]
    assert [row["id"] for row in removed()] == gone
    assert manifest()["removed"] == {"broken_record": 12}
    assert manifest()["examples"] == {"broken_record": gone[:3]}
    assert not list(Path(".work/extract").iterdir())


def test_a_source_without_a_document_stops_the_build(here: Path) -> None:
    declare(here)
    write_part(0, [])
    with pytest.raises(EverystepError, match=r"sources\.letters: no document was found; removed: none\."):
        extract(NAME)
    assert not Path(manifest_path("extract", NAME)).exists()


@pytest.mark.parametrize("other", [{"id": "k3", "text": "Again."}, {"id": "k3", "text": "a\0b"}])
def test_an_id_that_comes_twice_is_found_across_parts_and_among_the_removed(here: Path, other: dict[str, str]) -> None:
    declare(here)
    write_part(0, rows_of(0, 10))
    write_part(1, [*rows_of(10, 20), other])
    with pytest.raises(EverystepError, match=r"two documents have the id letters/k3; choose another id_column"):
        extract(NAME)
    assert not manifest_path("extract", NAME).exists()


def test_hashes_that_agree_by_chance_are_no_repeated_id(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(here)
    monkeypatch.setattr(stage, "_hash", lambda id: len(id) % 2)
    write_part(0, rows_of(0, 10))
    write_part(1, rows_of(10, 20))
    extract(NAME)
    assert manifest()["documents"] == 20


@pytest.mark.parametrize("share", [0.2, 0.3])
def test_too_many_failures_stop_the_build_and_leave_a_record(
    here: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    def fails(row: Any, place: str, source: Any) -> Any:
        if row["id"] in ("k1", "k4"):
            raise ValueError(f"cannot digest {row['text']}")
        return real(row, place, source)

    real = READERS["jsonl"].row_document  # type: ignore[attr-defined]
    monkeypatch.setattr(READERS["jsonl"], "row_document", fails)
    declare(here, max_failed_share=share)
    write_part(0, rows_of(0, 8))
    if share == 0.3:
        extract(NAME)
        assert manifest()["removed"] == {"failed": 2}
        assert manifest()["documents"] == 6
    else:
        with pytest.raises(EverystepError, match=r"sources\.letters\.max_failed_share: 2 of 8 documents failed"):
            extract(NAME)
        assert not manifest_path("extract", NAME).exists()
    assert [row["id"] for row in removed()] == [f"{NAME}/000.jsonl:2", f"{NAME}/000.jsonl:5"]
    assert all(row["detail"].startswith("ValueError at test_extract.py:") for row in removed())
    assert "digest" not in str(removed())


def test_licences_of_documents_are_translated_and_the_unknown_counted_by_what_they_said(here: Path) -> None:
    licenses = {"CC0-1.0": ["free for all"], "CC-BY-4.0": ["name me"]}
    declare(here, license="CC0-1.0 AND CC-BY-4.0", license_column="terms", licenses=licenses)
    said = ["name me", "free for all", "mine \u202e", "name me", None, "mine \u202e"]
    write_part(0, [row | {"terms": terms} for row, terms in zip(rows_of(0, 6), said, strict=True)])
    extract(NAME)
    found = {document.id: document.license for document in read_documents(DOCUMENTS / NAME / "000000.jsonl.zst")}
    assert found == {"letters/k0": "CC-BY-4.0", "letters/k1": "CC0-1.0", "letters/k3": "CC-BY-4.0"}
    assert manifest()["removed"] == {"unknown_license": 3}
    assert manifest()["removed_by_license"] == {r"mine \u202e": 2, "null": 1}


def test_a_manifest_names_a_hundred_licences_and_counts_the_rest(here: Path) -> None:
    declare(here, license_column="id", licenses={"CC0-1.0": ["free"]})
    write_part(0, [{"id": "free", "text": "Text."}, *rows_of(0, 200)])
    extract(NAME)
    counted = Counter(manifest()["removed_by_license"])
    assert (counted.total(), counted["(others)"], counted["k99"], counted["k100"]) == (200, 100, 1, 0)


def test_ten_times_the_documents_take_no_more_memory(here: Path) -> None:
    declare(here)
    grown = []
    for times in (1, 10):
        write_part(0, [{"id": f"k{number}", "text": f"Text {number}. " * 600} for number in range(500 * times)])
        forget_peak()
        before = peak()
        extract(NAME)
        grown.append(peak() - before)
    assert grown[1] < grown[0] + 20_000  # KiB, where the texts of the second have 45 MB more


def test_a_column_that_is_not_there_is_told_instead_of_an_empty_corpus(here: Path) -> None:
    declare(here, text_column="body")
    write_part(0, rows_of(0, 5))
    with pytest.raises(EverystepError, match=r"sources\.letters: no document was found; removed: 5 broken_record\."):
        extract(NAME)
    assert {row["detail"] for row in removed()} == {"column 'body' holds no string"}
    assert not Path(manifest_path("extract", NAME)).exists()
