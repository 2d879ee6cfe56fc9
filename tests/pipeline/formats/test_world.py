"""Other people's readers read our line files: the seek table at the end does them no harm."""

import importlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats.documents import Document, encode_document, text_sha256
from pipeline.formats.lines import write_lines

NUM_DOCUMENTS = 3000  # about 1.5 MB, many frames: more than one read of any of them


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world") / "000000.jsonl.zst"
    write_lines(path, map(encode_document, documents()), path.name)
    return path


def documents() -> list[Document]:
    texts = [f"Über {n}\n" + f"{n * n} " * 60 for n in range(NUM_DOCUMENTS)]
    about = {"license": "CC0-1.0", "source": "s"}
    return [Document(f"s/{n}", text, about | {"text_sha256": text_sha256(text)}) for n, text in enumerate(texts)]


def expect(texts: list[Any]) -> None:
    assert texts == [document.text for document in documents()]


def test_zstdcat(path: Path) -> None:
    if not shutil.which("zstd"):
        pytest.skip("zstd is not installed")
    plain = subprocess.run(["zstd", "-dcq", path], check=True, capture_output=True).stdout
    assert plain == b"".join(map(encode_document, documents()))


def test_pandas(path: Path) -> None:
    pandas = importlib.import_module("pandas")
    expect(pandas.read_json(path, lines=True)["text"].tolist())
    with pandas.read_json(path, lines=True, chunksize=1000) as chunks:
        expect([text for chunk in chunks for text in chunk["text"]])


def test_pyarrow(path: Path) -> None:
    import pyarrow as pa
    from pyarrow import json

    expect(json.read_json(path)["text"].to_pylist())
    with pa.input_stream(path, compression="zstd") as stream:
        expect(json.read_json(stream)["text"].to_pylist())


@pytest.mark.parametrize("compression", ["zstd", "infer"])
def test_fsspec(path: Path, compression: str) -> None:
    import fsspec
    import orjson

    with fsspec.open(str(path), "rt", encoding="utf-8", compression=compression) as file:
        expect([orjson.loads(line)["text"] for line in file])


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets(path: Path, streaming: bool, tmp_path: Path) -> None:
    datasets = importlib.import_module("datasets")
    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(
        "json", data_files=str(path), split="train", streaming=streaming, cache_dir=str(tmp_path)
    )
    rows = list(loaded)
    expect([row["text"] for row in rows])
    assert rows[7] == {"id": "s/7", "metadata": documents()[7].metadata, "text": documents()[7].text}


def test_polars(path: Path) -> None:
    polars = importlib.import_module("polars")
    expect(polars.read_ndjson(path)["text"].to_list())


def test_duckdb(path: Path) -> None:
    duckdb = importlib.import_module("duckdb")
    found = duckdb.execute("SELECT text FROM read_json(?, format='newline_delimited')", [str(path)]).fetchall()
    expect([text for (text,) in found])
