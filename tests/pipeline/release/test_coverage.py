"""How much of the rows was read: counted by arithmetic, compared with a count row by row."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.formats.manifests import RowsRead
from pipeline.formats.order import rows_of_step, rows_read
from pipeline.formats.rows import DocumentIndex
from pipeline.formats.tables import DOCUMENT_INDEX, write_table
from pipeline.release.coverage import INDEX, count
from pipeline.release.release import Release
from tests.releases import copied, read_json, unsealed, write_json

TOKENS_JSON = "manifests/tokens.json"


def write_index(path: Path, lengths: list[int], width: int) -> DocumentIndex:
    """The index of documents of these lengths, of three sources and two licences in turn."""
    starts = np.cumsum([0, *lengths])
    rows = [
        {
            "id": f"{i}",
            "source": f"source-{i % 3}",
            "license": f"license-{i % 2}",
            "text_sha256": "",
            "first_row": int(start) // width,
            "offset": int(start) % width,
            "num_tokens": length,
            "bytes": length,
        }
        for i, (start, length) in enumerate(zip(starts, lengths, strict=False))
    ]
    write_table(path, rows, DOCUMENT_INDEX, path.name)
    return DocumentIndex(path, width)


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    width=st.integers(2, 9),
    chosen=st.randoms(use_true_random=False),
)
def test_tokens_of_documents_in_some_rows_are_those_that_a_walk_over_the_rows_finds(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], width: int, chosen: object
) -> None:
    index = write_index(tmp_path_factory.mktemp("index") / "train.parquet", lengths, width)
    flags = np.array([chosen.random() < 0.4 for _ in range(index.num_full_rows)], dtype=np.bool_)  # type: ignore[attr-defined]
    documents: dict[tuple[str, str], set[str]] = {}
    tokens: Counter[tuple[str, str]] = Counter()
    for spans in index.documents_of_rows(np.flatnonzero(flags).tolist()):
        for span in spans:
            documents.setdefault((span.source, span.license), set()).add(span.id)
            tokens[span.source, span.license] += span.stop - span.start
    assert index.counts_in(flags) == {key: (len(documents[key]), tokens[key]) for key in tokens}


def test_batches_of_an_index_are_counted_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.random.default_rng(1).integers(1, 300, 9000).tolist()
    index = write_index(tmp_path / "train.parquet", lengths, 33)
    flags = np.arange(index.num_full_rows) % 5 == 0
    at_once = index.counts_in(flags)
    monkeypatch.setattr("pipeline.formats.rows.IDS_AT_ONCE", 1000)
    assert index.counts_in(flags) == at_once
    assert sum(tokens for _, tokens in at_once.values()) == 33 * int(flags.sum())


@pytest.mark.parametrize(
    ("steps", "batch", "num_rows"), [(0, 4, 9), (1, 1, 1), (7, 3, 100), (33, 3, 100), (40, 3, 100)]
)
def test_rows_read_are_those_of_all_steps(steps: int, batch: int, num_rows: int) -> None:
    expected = {row for step in range(steps) for row in rows_of_step(step, batch, num_rows, seed=5).tolist()}
    assert set(np.flatnonzero(rows_read(steps * batch, num_rows, seed=5)).tolist()) == expected


def test_many_samples_are_permuted_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = rows_read(700, 1000, seed=5)
    monkeypatch.setattr("pipeline.formats.order.SAMPLES_AT_ONCE", 64)
    assert (rows_read(700, 1000, seed=5) == whole).all()


@pytest.fixture
def release(built_project: Path, tmp_path: Path) -> Path:
    return copied(built_project / "release", tmp_path / "release")


def without(folder: Path, model: str) -> Release:
    """The release without one of its models."""
    release = unsealed(folder)
    files = {path: file for path, file in release.files.items() if model not in path}
    return Release(folder, release.name, release.version, files)


def test_models_that_read_different_amounts_have_shares_of_their_own(release: Path) -> None:
    """The data is counted for the longest training, which reads whatever any other does."""
    alone = count(without(release, "openelm"))
    path = release / "manifests" / "models" / "openelm.json"
    manifest = read_json(path)
    manifest["parameters"]["schedule"]["steps"] *= 3
    write_json(path, manifest)
    both = count(unsealed(release))
    assert both.models == {"mobilellm": RowsRead(samples=64, rows=64), "openelm": RowsRead(samples=192, rows=192)}
    assert (alone.rows, both.rows) == (64, 192)
    assert alone.tokens < both.tokens == sum(both.tokens_by_source.values())
    manifest["parameters"]["data"]["global_batch"] = 10**6
    write_json(path, manifest)
    whole, tokens = count(unsealed(release)), read_json(release / TOKENS_JSON)["splits"]["train"]
    assert whole.models["openelm"].rows == whole.rows == tokens["rows"]
    assert whole.tokens == tokens["tokens"] - tokens["dropped_tail_tokens"]


@pytest.mark.parametrize("value", [-4, "4", 1e9, True, 2**60, None])
def test_a_training_of_no_number_of_rows_is_refused(release: Path, value: object) -> None:
    path = release / "manifests" / "models" / "openelm.json"
    manifest = read_json(path)
    manifest["parameters"]["data"]["global_batch"] = value
    path.write_text(json.dumps(manifest))
    with pytest.raises(EverystepError, match=r"openelm\.json: parameters\.data\.global_batch: "):
        count(unsealed(release))


def test_rows_that_the_documents_do_not_fill_are_refused_before_memory_is_asked_for_them(release: Path) -> None:
    tokens = read_json(release / TOKENS_JSON)
    tokens["splits"]["train"]["rows"] = 10**12
    write_json(release / TOKENS_JSON, tokens)
    with pytest.raises(EverystepError, match=f"{INDEX}: its documents fill [0-9]+ rows, not 1000000000000"):
        count(unsealed(release))
