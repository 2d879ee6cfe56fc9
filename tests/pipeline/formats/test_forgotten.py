"""Forgotten spans: exactly the ids of the chosen documents, each once, and no file of spans that means nothing."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import Differs, EverystepError
from pipeline.formats.forgotten import Forgotten, as_spans, read_forgotten, write_forgotten
from pipeline.formats.manifests import Tokens, path_of, read_manifest
from pipeline.formats.rows import DocumentIndex
from pipeline.formats.tables import DOCUMENT_INDEX, write_table
from tests.shards import write_rows
from tests.stubs import write_stub

WIDTH = 5


def index_of(path: Path, lengths: list[int]) -> DocumentIndex:
    """An index of documents with these numbers of tokens; every third is a copy of document 0."""
    places = np.cumsum([0, *lengths])[:-1].tolist()
    rows = [
        {
            "id": f"s{i % 2}/{i if i % 3 else 0}",
            "source": f"s{i % 2}",
            "license": "CC0-1.0",
            "text_sha256": "0" * 64,
            "first_row": place // WIDTH,
            "offset": place % WIDTH,
            "num_tokens": length,
            "bytes": length,
        }
        for i, (place, length) in enumerate(zip(places, lengths, strict=True))
    ]
    write_table(path, rows, DOCUMENT_INDEX, path.name)
    return DocumentIndex(path, WIDTH)


@given(st.lists(st.integers(1, 13), min_size=1, max_size=12), st.data())
def test_the_spans_of_documents_are_their_ids_in_whole_rows(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], data: st.DataObject
) -> None:
    index = index_of(tmp_path_factory.mktemp("index") / "train.parquet", lengths)
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    forgotten = Forgotten(index.spans_of(chosen), filler=0)
    num_rows = sum(lengths) // WIDTH
    owners = np.repeat(np.arange(len(lengths)), lengths)[: num_rows * WIDTH].reshape(num_rows, WIDTH)
    marks = forgotten.marks(range(num_rows), WIDTH)
    assert (marks == chosen[owners]).all()
    assert forgotten.num_ids == marks.sum()
    assert forgotten.rows.tolist() == np.flatnonzero(marks.any(axis=1)).tolist()


def test_documents_are_chosen_by_id_and_by_source_in_every_copy(tmp_path: Path) -> None:
    index = index_of(tmp_path / "train.parquet", [3] * 8)
    assert np.flatnonzero(index.chosen(["s0/0", "s1/1"], [])).tolist() == [0, 1, 6]
    assert np.flatnonzero(index.chosen([], ["s1"])).tolist() == [1, 3, 5, 7]
    assert [about["id"] for about in index.names_of(index.chosen(["s0/2"], ["s1"]))] == [
        *("s1/1", "s0/2", "s1/0", "s1/5", "s1/7")
    ]


def tokens_of(folder: Path, spans: list[tuple[int, int, int]]) -> Tokens:
    rows = np.arange(20).reshape(4, WIDTH)
    outputs = {
        "train": write_rows(folder, rows, "train"),
        "forgotten": [write_forgotten(folder, Forgotten(as_spans(spans), 0))],
    }
    write_stub(Tokens, outputs=outputs, width=WIDTH, vocabulary=20, end_token=7, root=folder)
    return read_manifest(Tokens, folder / path_of(Tokens))


def test_spans_are_read_as_they_were_written(tmp_path: Path) -> None:
    spans = [(0, 0, 5), (2, 1, 2), (2, 2, 4)]
    found = read_forgotten(tmp_path, tokens_of(tmp_path, spans))
    assert found is not None and (found.spans == spans).all() and found.filler == 7


@pytest.mark.parametrize(
    "spans", [[(4, 0, 1)], [(0, 0, 6)], [(0, 2, 2)], [(1, 0, 1), (0, 0, 1)], [(0, 0, 3), (0, 2, 4)]]
)
def test_spans_that_mean_nothing_are_refused(tmp_path: Path, spans: list[tuple[int, int, int]]) -> None:
    with pytest.raises(EverystepError, match="not ascending pieces of the 4 rows of 5 ids"):
        read_forgotten(tmp_path, tokens_of(tmp_path, spans))


def test_other_spans_than_the_manifest_promises_differ(tmp_path: Path) -> None:
    manifest = tokens_of(tmp_path, [(0, 0, 5)])
    write_forgotten(tmp_path, Forgotten(as_spans([(0, 0, 4)]), 0))
    with pytest.raises(Differs, match="the manifest promises 1 lines"):
        read_forgotten(tmp_path, manifest)
