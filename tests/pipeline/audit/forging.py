"""What an attacker on the data does: edit rows, tables and manifests, and let everything else follow."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.base.files import list_files, sha256_file, write_bytes
from pipeline.base.paths import PARAMS, SEARCH, TASKS
from pipeline.base.yaml import check, load_yaml
from pipeline.blocks.pairs import Limits, Text, pairs_asked
from pipeline.formats.current import section_digest
from pipeline.formats.lines import LineFile
from pipeline.formats.manifests import Coverage, TasksMade, path_of
from pipeline.formats.order import permute
from pipeline.formats.release import ROOT, ListedFile, is_listed, kind_of
from pipeline.formats.rows import read_written_rows, row_shard, write_row_shard
from pipeline.formats.search_index import write_index_shard
from pipeline.formats.tables import (
    DOCUMENT_INDEX,
    ITEMS,
    ITEMS_FILE,
    REMOVALS,
    read_table,
    write_batches,
    write_table,
)
from pipeline.formats.tasks import write_task
from pipeline.formats.vocabulary import token_texts
from pipeline.release.coverage import count
from pipeline.release.held_out import held_out
from pipeline.release.papers import PAPERS
from pipeline.release.release import Release
from pipeline.release.report.data import data_files
from pipeline.release.rungs import Rung
from pipeline.stages.search import sorted_suffixes
from pipeline.stages.tasks.params import TasksParams
from pipeline.stages.tasks.stage import counted, item_rows
from tests.releases import evidence_of, read_json, reseal, write_json

Tree = dict[str, Any]
Lines = list[dict[str, Any]]
Ids = NDArray[np.uint32]
TOKENS = "data/tokens"
TOKENIZER = "data/tokenizer/tokenizer.json"


class Forgery(NamedTuple):
    """A change, and what catches it."""

    name: str
    rung: Rung
    forge: Callable[[Path], object]
    named: str
    """A part of the message."""
    command: str = "verify"


def edit(release: Path, manifest: str, change: Callable[[Tree], object]) -> None:
    """Change a manifest, by its path below `manifests/`."""
    path = release / "manifests" / f"{manifest}.json"
    tree = read_json(path)
    change(tree)
    write_json(path, tree)


def edit_params(release: Path, change: Callable[[Tree], object]) -> None:
    """Change `params.yaml`, and the digests of its sections in all manifests."""
    tree = load_yaml(release / "params.yaml")
    change(tree)
    write_json(release / "params.yaml", tree)
    for path in sorted((release / "manifests").rglob("*.json")):
        manifest = read_json(path)
        manifest["params"] = {name: section_digest(tree, name) for name in manifest["params"]}
        write_json(path, manifest)


def edit_index(release: Path, change: Callable[[Lines], object], split: str = "train") -> None:
    """Change the lines of a document index."""
    path = release / TOKENS / f"{split}.parquet"
    lines = read_table(path, DOCUMENT_INDEX).to_pylist()
    change(lines)
    batch = pa.RecordBatch.from_pylist(lines, schema=DOCUMENT_INDEX)
    write_batches(path, [batch], DOCUMENT_INDEX, path.name, in_parts=True)


def edit_removals(release: Path, folder: str, change: Callable[[Lines], object]) -> None:
    """Change the lines of a table of removals, by its folder below `data/`."""
    path = release / "data" / folder / "removals.parquet"
    lines = read_table(path, REMOVALS).to_pylist()
    change(lines)
    write_table(path, lines, REMOVALS, path.name)


def placed(lines: Lines, width: int) -> None:
    """Let the documents of an index follow one another again."""
    position = 0
    for line in lines:
        line["first_row"], line["offset"] = divmod(position, width)
        position += line["num_tokens"]


def rows_of(release: Path, split: str = "train") -> Ids:
    """All rows of a split, shape (rows, width)."""
    tokens = read_json(release / "manifests/tokens.json")
    with LineFile(release / TOKENS / row_shard(split, 0)) as file:
        frames = [read_written_rows(frame, tokens["width"], tokens["vocabulary"], split) for frame in file.frames()]
    return np.concatenate(frames)


def edit_rows(release: Path, change: Callable[[Ids], object], split: str = "train") -> None:
    """Change the ids of a split in place, as one stream."""
    rows = rows_of(release, split)
    change(rows.reshape(-1))
    vocabulary = read_json(release / "manifests/tokens.json")["vocabulary"]
    write_row_shard(release / TOKENS, row_shard(split, 0), [rows], vocabulary)


def unread(release: Path, documents: int = 1) -> int:
    """The first of some consecutive documents of the training split of which no model reads a row."""
    tokens = read_json(release / "manifests/tokens.json")
    rows, seed = tokens["splits"]["train"]["rows"], tokens["parameters"]["seed"]
    touched = {*permute(np.arange(64, dtype=np.uint64), rows, seed, epoch=0).tolist()}
    lines = read_table(release / TOKENS / "train.parquet", DOCUMENT_INDEX).to_pylist()
    stops = [line["first_row"] * tokens["width"] + line["offset"] + line["num_tokens"] for line in lines]
    for number in range(1, len(lines) - documents):
        first, last = stops[number - 1] // tokens["width"], stops[number + documents - 1] // tokens["width"]
        if touched.isdisjoint(range(first, last + 1)):
            return number
    raise AssertionError("every document is read")


def start_of(release: Path, number: int, split: str = "train") -> int:
    """Where a document begins in the stream of ids."""
    line = read_table(release / TOKENS / f"{split}.parquet", DOCUMENT_INDEX).to_pylist()[number]
    return int(line["first_row"] * read_json(release / "manifests/tokens.json")["width"] + line["offset"])


def texts(release: Path) -> list[bytes]:
    """The bytes of text of each token."""
    return token_texts(release / TOKENIZER)


def sealed(release: Path, index: bool = True, explorer: bool = True) -> None:
    """Recompute everything that follows: what was read of the rows, the search index if `index`, the data of the
    explorer if `explorer`, the papers, and every digest."""
    path = release / path_of(Coverage)
    write_json(path, read_json(path) | count(_opened(release)).to_json())
    if index:
        write_index(release, rows_of(release))
    if explorer:
        write_explorer(release)
    reseal(release)
    evidence = evidence_of(release)
    for name, render in PAPERS.items():
        write_bytes(release / name, render(evidence))
    reseal(release)


def write_explorer(release: Path) -> None:
    """Write the data of the explorer from what the release now holds."""
    for path, pieces in data_files(_opened(release)):
        write_bytes(release / path, b"".join(pieces))


def asked_again(release: Path) -> None:
    """Make the minimal pairs again, and count the rows again, as they are now."""
    opened, path = _opened(release), release / path_of(TasksMade)
    params = check(TasksParams, load_yaml(release / PARAMS)["tasks"], str(path))
    tree, items = read_json(path), {}
    for name, sources in params.pairs.sources.items():
        limits = Limits(params.pairs.characters, params.pairs.words)
        texts = [Text(*document) for document in held_out(opened)]
        items[name], task = pairs_asked(name, sources, texts, limits, params.pairs.items)
        tree["tasks"][name] = task.to_json()
        write_task(release / TASKS, name, items[name])
    write_table(release / TASKS / ITEMS_FILE, item_rows(items), ITEMS, ITEMS_FILE)
    write_json(path, tree | {"counting": counted(opened, params.counting, items)})


def write_index(release: Path, rows: Ids) -> None:
    """Write the search index of rows."""
    vocabulary = read_json(release / "manifests/tokens.json")["vocabulary"]
    ids = rows.astype(np.uint16)
    suffixes = sorted_suffixes(ids, vocabulary)
    write_index_shard(release / SEARCH, "000000", ids.ravel(), suffixes, rows.shape[1], vocabulary)


def _opened(release: Path) -> Release:
    """A folder as a release, whatever its digests are."""
    listed = [path for path in list_files(release) if is_listed(path)]
    digests = {path: sha256_file(release / path) if kind_of(path) == "file" else "" for path in listed}
    files = {path: ListedFile(kind=kind_of(path), digest=digest) for path, digest in digests.items()}
    root = read_json(release / ROOT)
    opened = Release(release, root["name"], root["version"], files)
    opened.trust({*files})
    return opened


def recount(release: Path) -> None:
    """Let `tokens.json` count what the indexes hold."""

    def change(tree: Tree) -> None:
        for split in ("train", "validation"):
            lines = read_table(release / TOKENS / f"{split}.parquet", DOCUMENT_INDEX).to_pylist()
            counts: Tree = {}
            for what, column in (("documents", None), ("bytes", "bytes"), ("tokens", "num_tokens")):
                amounts = [line[column] if column else 1 for line in lines]
                counts[what] = sum(amounts)
                for by in ("source", "license"):
                    groups = Counter[str]()
                    for line, amount in zip(lines, amounts, strict=True):
                        groups[line[by]] += amount
                    counts[f"{what}_by_{by}"] = dict(sorted(groups.items()))
            tree["splits"][split] |= counts
            if split == "train":
                tree["available"] |= counts

    edit(release, "tokens", change)
