"""What an attacker on the data does: edit rows, tables and manifests, and let everything else follow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.base.files import write_bytes
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import parse
from pipeline.formats.current import section_digest
from pipeline.formats.lines import LineFile
from pipeline.formats.manifests import Coverage, path_of
from pipeline.formats.order import permute
from pipeline.formats.rows import read_written_rows, row_shard, write_row_shard
from pipeline.formats.tables import DOCUMENT_INDEX, REMOVALS, read_table, write_batches, write_table
from pipeline.formats.vocabulary import token_texts
from pipeline.release.coverage import count
from pipeline.release.facts import gather
from pipeline.release.papers import PAPERS
from tests.releases import read_json, reseal, unsealed, write_json

Tree = dict[str, Any]
Lines = list[dict[str, Any]]
Ids = NDArray[np.uint32]
TOKENS = "data/tokens"
TOKENIZER = "data/tokenizer/tokenizer.json"


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
    write_row_shard(release / TOKENS, row_shard(split, 0), [rows], read_json(release / "manifests/tokens.json")["vocabulary"])


def unread(release: Path, documents: int = 1) -> int:
    """The first of some consecutive documents of the training split of which no model reads a row."""
    tokens = read_json(release / "manifests/tokens.json")
    read = permute(np.arange(64, dtype=np.uint64), tokens["splits"]["train"]["rows"], tokens["parameters"]["seed"], epoch=0)
    touched = {int(row) for row in read}
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


def sealed(release: Path, rewrite: bool = True) -> None:
    """Recompute everything that follows: digests, what was read of the rows, the papers."""
    reseal(release)
    if rewrite:
        found = unsealed(release)
        found.trust({*found.files})
        read = count(found)
        path = release / path_of(Coverage)
        write_json(path, read_json(path) | read.to_json())
        found = unsealed(release, load_yaml(release / "params.yaml")["release"]["version"])
        for name, render in PAPERS.items():
            write_bytes(release / name, render(gather(found, read)))
        reseal(release)


def recount(release: Path) -> None:
    """Let `tokens.json` count what the indexes hold."""

    def change(tree: Tree) -> None:
        for split in ("train", "validation"):
            lines = read_table(release / TOKENS / f"{split}.parquet", DOCUMENT_INDEX).to_pylist()
            counts: Tree = {}
            for what, value in (("documents", lambda line: 1), ("bytes", lambda l: l["bytes"]), ("tokens", lambda l: l["num_tokens"])):
                counts[what] = sum(map(value, lines))
                for by in ("source", "license"):
                    names = sorted({line[by] for line in lines})
                    counts[f"{what}_by_{by}"] = {name: sum(value(l) for l in lines if l[by] == name) for name in names}
            tree["splits"][split] |= counts
            if split == "train":
                tree["available"] |= counts

    edit(release, "tokens", change)


def json_lines(path: Path) -> list[Any]:
    return [parse(line, path) for line in path.read_bytes().splitlines()]
