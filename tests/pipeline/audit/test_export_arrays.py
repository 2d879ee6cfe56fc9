"""`everystep export tokens` for trainers that read arrays: each layout by a reader written here from its description,
and (long) by the libraries themselves."""

import json
import os
import struct
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from pipeline.audit import export_arrays, export_rows
from pipeline.base.files import list_files, sha256_file
from pipeline.formats.manifests import Tokens
from pipeline.formats.order import rows_of_samples
from pipeline.release.release import Release
from tests.releases import everystep
from tests.shards import write_rows
from tests.stubs import write_stub
from tests.trainer.corpora import SEED, WIDTH, numbered, write_ours

ROWS = 70
LAYOUTS = ("npy", "megatron", "parquet", "mds")
Ids = NDArray[np.int64]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_ours(tmp_path, numbered(ROWS))
    return tmp_path


def exported(project: Path, layout: str, *more: str, to: str = "") -> Path:
    out = project / (to or layout)
    done = everystep("export", "tokens", project, "--layout", layout, "--out", out, *more)
    assert done.code == 0, done.said
    return out


def published(count: int, rows: list[list[int]] | None = None) -> list[list[int]]:
    """The rows of the first samples in the order of the trainer."""
    rows = rows or numbered(ROWS)
    return [rows[number] for number in rows_of_samples(0, count, len(rows), SEED)]


def read_npy(out: Path, kind: str = "<u2") -> Ids:
    return np.memmap(out / "train.bin", dtype=kind, mode="r").reshape(-1, WIDTH).astype(np.int64)


def read_megatron(out: Path) -> Ids:
    """MMIDIDX, version 1: lengths, first bytes, the first sequence of each document."""
    index, content = (out / "train.idx").read_bytes(), (out / "train.bin").read_bytes()
    magic, version, code, sequences, documents = struct.unpack_from("<9sQBQQ", index)
    assert (magic, version, documents) == (b"MMIDIDX\0\0", 1, sequences + 1)
    kind = {8: np.dtype("<u2"), 4: np.dtype("<i4")}[code]
    lengths = np.frombuffer(index, "<i4", sequences, 34)
    starts = np.frombuffer(index, "<i8", sequences, 34 + 4 * sequences)
    firsts = np.frombuffer(index, "<i8", documents, 34 + 12 * sequences)
    assert len(index) == 34 + 12 * sequences + 8 * documents
    assert firsts.tolist() == list(range(documents))
    rows = [np.frombuffer(content, kind, n, start) for n, start in zip(lengths, starts, strict=True)]
    assert sum(row.nbytes for row in rows) == len(content)
    return np.array(rows, dtype=np.int64)


def read_parquet(out: Path) -> Ids:
    tables = [pq.read_table(path) for path in sorted(out.glob("*.parquet"))]
    assert {tuple(table.column_names) for table in tables} == {("input_ids",)}
    return np.array([row for table in tables for row in table["input_ids"].to_pylist()])


def read_mds(out: Path) -> Ids:
    """Number of rows, where each begins and the last ends, a description, the rows."""
    index = json.loads((out / "index.json").read_bytes())
    assert index["version"] == 2
    rows = []
    for shard in index["shards"]:
        content = (out / shard["raw_data"]["basename"]).read_bytes()
        assert len(content) == shard["raw_data"]["bytes"] <= shard["size_limit"]
        (count,) = struct.unpack_from("<I", content)
        places = struct.unpack_from(f"<{count + 1}I", content, 4)
        described = json.loads(content[4 * (count + 2) : places[0]])
        assert described == {key: shard[key] for key in described} and places[-1] == len(content)
        assert (count, described["column_encodings"]) == (shard["samples"], [f"ndarray:int32:{WIDTH}"])
        rows += [np.frombuffer(content[a:b], "<i4") for a, b in pairwise(places)]
    return np.array(rows, dtype=np.int64)


READERS: dict[str, Any] = {"npy": read_npy, "megatron": read_megatron, "parquet": read_parquet, "mds": read_mds}
FILES = {
    "npy": ["train.bin"],
    "megatron": ["train.bin", "train.idx"],
    "parquet": ["train-00000.parquet"],
    "mds": ["index.json", "shard.00000.mds"],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_in_the_published_order_and_whole_steps(project: Path, layout: str) -> None:
    done = everystep("export", "tokens", project, "--layout", layout, "--out", project / "out", "--global-batch", "8")
    files = f"{len(FILES[layout])} files" if len(FILES[layout]) > 1 else "1 file"
    assert f"64 rows in {files}, 8 steps of 8; 6 rows of the epoch are left out" in done.out
    assert list_files(project / "out") == FILES[layout]
    assert READERS[layout](project / "out").tolist() == published(64)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_steps_than_an_epoch_go_on_with_the_order(project: Path, layout: str) -> None:
    out = exported(project, layout, "--global-batch", "8", "--steps", "20")
    assert READERS[layout](out).tolist() == published(160)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_export_has_the_same_bytes_whatever_is_read_at_once(
    project: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row groups of parquet are blocks, so there the size of a block is part of the format."""
    one = exported(project, layout)
    if layout != "parquet":
        monkeypatch.setattr(export_rows, "IDS_AT_ONCE", 5 * WIDTH)
        monkeypatch.setattr(export_arrays, "ENTRIES_AT_ONCE", 9)
    two = exported(project, layout, to="again")
    assert [sha256_file(one / name) for name in FILES[layout]] == [sha256_file(two / name) for name in FILES[layout]]


def test_files_and_row_groups_are_bounded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_rows, "IDS_AT_ONCE", 5 * WIDTH)
    monkeypatch.setattr(export_arrays, "ROW_GROUPS_PER_FILE", 3)
    monkeypatch.setattr(export_arrays, "MDS_SHARD_BYTES", 2000)
    parquet, mds = exported(project, "parquet"), exported(project, "mds")
    names = [f"train-{number:05d}.parquet" for number in range(5)]
    assert list_files(parquet) == names
    metadata = pq.ParquetFile(parquet / names[0]).metadata
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [5, 5, 5]
    assert len(list_files(mds)) > 4
    assert read_parquet(parquet).tolist() == read_mds(mds).tolist() == published(ROWS)


@pytest.mark.parametrize(("vocabulary", "kind"), [(1 << 16, "<u2"), (1 << 16 | 1, "<u4")])
def test_ids_take_two_bytes_as_long_as_the_vocabulary_allows_it(tmp_path: Path, vocabulary: int, kind: str) -> None:
    rows = [[vocabulary - 1 - i for i in range(WIDTH)] for _ in range(3)]
    shards = write_rows(tmp_path / "data/tokens", [np.array(row) for row in rows], "train")
    parameters = {"context": WIDTH - 1, "seed": SEED}
    write_stub(
        Tokens, parameters=parameters, outputs={"train": shards}, root=tmp_path, width=WIDTH, vocabulary=vocabulary
    )
    assert read_npy(exported(tmp_path, "npy"), kind).tolist() == rows
    assert read_megatron(exported(tmp_path, "megatron")).tolist() == rows
    assert read_parquet(exported(tmp_path, "parquet")).tolist() == read_mds(exported(tmp_path, "mds")).tolist() == rows


def test_memory_does_not_grow_with_the_number_of_rows(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_rows, "IDS_AT_ONCE", 50 * WIDTH)
    for layout in LAYOUTS:
        peaks = []
        for steps in (100, 1000):
            tracemalloc.start()
            export_arrays.export_arrays(Release.open(project), project / f"{layout}{steps}", layout, None, steps)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert peaks[1] < peaks[0] + 100_000, (layout, peaks)  # a thousand rows are 264 KB


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--layout npy --nodes 1", "give --nodes with --layout mobilellm"),
        ("--layout mds --chunks 1", "--chunks with --layout llm360"),
        ("--layout megatron --global-batch 71", "70 rows do not fill one step of 71"),
        ("--layout flat", "'flat' is not one of"),
    ],
)
def test_what_cannot_be_exported_is_refused(project: Path, options: str, named: str) -> None:
    done = everystep("export", "tokens", project, "--out", project / "out", *options.split())
    assert done.code == 2 and named in done.err and "Traceback" not in done.err
    assert not (project / "out").exists()


PEERS = ("ai2-olmo-core==3.0.0", "megatron-core==0.16.1", "mosaicml-streaming==0.13.0")
NEEDED = (
    *("bettermap==1.3.1", "cached-path==1.8.10", "dataclass-extensions==0.5.0", "importlib-resources==7.1.0"),
    *("Brotli==1.2.1", "catalogue==2.0.10", "cramjam==2.14.0", "google-cloud-storage==3.17.1", "matplotlib==3.11.2"),
    *("google-crc32c==1.9.0", "google-resumable-media==2.11.0", "paramiko==5.1.0", "python-snappy==0.7.3"),
    *("zstd==1.5.7.2", "accelerate==1.15.0"),
)
"""What the peers import beyond the test environment."""
WITHOUT_IMAGES = {
    "torchvision/__init__.py": "",
    "torchvision/datasets.py": "class VisionDataset: ...",
    "torchvision/transforms/__init__.py": "",
    "torchvision/transforms/functional.py": "def to_tensor(image): raise NotImplementedError",
}
"""`import streaming` imports these two names for its data sets of images. The index has torchvision for another build
of torch, and nothing that reads tokens uses them."""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libraries")
    command = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--target", str(folder)]
    subprocess.run([*command, *PEERS, *NEEDED], check=True)
    for name, text in WITHOUT_IMAGES.items():
        (folder / "without-images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "without-images" / name).write_text(text)
    return folder


def by_peer(libraries: Path, code: str, *arguments: object) -> Any:
    """Run `code` with the peers' libraries; it prints JSON in its last line."""
    command = [sys.executable, "-c", f"import json, sys\n{code}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(libraries), "HF_HUB_OFFLINE": "1", "HOME": str(libraries)}
    done = subprocess.run(command, cwd=libraries, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_olmo_core_reads_the_flat_file(project: Path, libraries: Path) -> None:
    code = f"""
import numpy as np
from olmo_core.data.numpy_dataset import NumpyFSLDataset
data = NumpyFSLDataset(sys.argv[1], sequence_length={WIDTH}, pad_token_id=0, eos_token_id=0, vocab_size=320,
    dtype=np.uint16)
data.prepare()
print(json.dumps([data[i]["input_ids"].tolist() for i in range(len(data))]))
"""
    assert by_peer(libraries, code, exported(project, "npy") / "train.bin") == published(ROWS)


@pytest.mark.long
def test_megatron_core_reads_each_row_as_a_sequence_and_a_document(project: Path, libraries: Path) -> None:
    code = """
from megatron.core.datasets.indexed_dataset import IndexedDataset
data = IndexedDataset(sys.argv[1])
print(json.dumps([[row.tolist() for row in data[:len(data)]], data.document_indices.tolist()]))
"""
    found, documents = by_peer(libraries, code, exported(project, "megatron") / "train")
    assert (found, documents) == (published(ROWS), list(range(ROWS + 1)))


@pytest.mark.long
def test_streaming_reads_the_shards_and_would_have_written_the_same_bytes(
    project: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_arrays, "MDS_SHARD_BYTES", 2000)
    out = exported(project, "mds")
    code = f"""
sys.path.insert(0, "without-images")
import numpy as np
from streaming import MDSWriter, StreamingDataset
data = StreamingDataset(local=sys.argv[1], batch_size=1)
rows = [data[i]["tokens"].tolist() for i in range(len(data))]
assert rows == [sample["tokens"].tolist() for sample in data]
columns = {{"tokens": "ndarray:int32:{WIDTH}"}}
with MDSWriter(out=sys.argv[2], columns=columns, size_limit=2000) as writer:
    for row in rows:
        writer.write({{"tokens": np.array(row, dtype=np.int32)}})
print(json.dumps(rows))
"""
    assert by_peer(libraries, code, out, project / "theirs") == published(ROWS)
    assert len(list_files(out)) > 4
    assert {name: sha256_file(out / name) for name in list_files(out)} == {
        name: sha256_file(project / "theirs" / name) for name in list_files(project / "theirs")
    }


@pytest.mark.long
def test_the_trainer_of_transformers_reads_the_parquet_files(project: Path, libraries: Path) -> None:
    """`datasets` gives the rows in order; two steps of Trainer see the first of them and lose what we compute."""
    code = """
import torch
from datasets import load_dataset
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments
data = load_dataset(sys.argv[1], split="train", cache_dir="cache")
torch.manual_seed(0)
config = LlamaConfig(vocab_size=320, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
model = LlamaForCausalLM(config)
seen = []
def collate(rows):
    ids = torch.tensor([row["input_ids"] for row in rows])
    seen.append(ids.tolist())
    return {"input_ids": ids, "labels": ids}
class InOrder(Trainer):
    def _get_train_sampler(self, *rest):
        return torch.utils.data.SequentialSampler(self.train_dataset)
arguments = TrainingArguments("out", max_steps=2, per_device_train_batch_size=8, report_to=[], use_cpu=True,
    disable_tqdm=True, save_strategy="no")
losses = InOrder(model, arguments, train_dataset=data, data_collator=collate).train()
print()
print(json.dumps([data["input_ids"][:], seen[:2], losses.training_loss]))
"""
    rows, seen, loss = by_peer(libraries, code, exported(project, "parquet"))
    assert rows == published(ROWS)
    assert [row for batch in seen for row in batch] == published(16)
    assert abs(loss - np.log(320)) < 0.5  # untrained
