"""Every reader of a release, and of rows that others made, against thousands of nearly right files."""

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.yaml import load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import canonical, parse, pretty
from pipeline.formats.digests import tensors_digest
from pipeline.formats.documents import Document, encode_document, read_documents, text_sha256
from pipeline.formats.lines import LineFile, Shard, encode_line, write_lines
from pipeline.formats.manifests import Tokens, read_any_manifest
from pipeline.formats.release import ROOT, kind_of, parse_root, release_root
from pipeline.formats.rows import DocumentIndex, Rows
from pipeline.formats.tables import DOCUMENT_INDEX, REMOVALS, digest_table, read_table, removal, write_table
from pipeline.formats.vocabulary import end_token, token_texts
from tests.fuzzing import Artefact, Target, run
from tests.pipeline.formats.test_checkpoints import MOMENTS, WEIGHT, record
from tests.pipeline.formats.test_vocabulary import PLAIN
from tests.project import ROOT as PROJECT
from tests.shards import write_rows
from tests.stubs import least_of
from tests.trainer.corpora import VOCABULARY, WIDTH, numbered
from trainer.plain_rows import PlainRows, check_rows

ROWS = numbered(70)
DIGEST = "0" * 64


def made(name: str, write: Callable[[Path], object]) -> Artefact:
    """The file that a writer of ours leaves at a path."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        return Artefact(name, (Path(folder) / name).read_bytes())


def as_line_file(content: bytes) -> bytes:
    lines = [line + b"\n" for line in content.split(b"\n")[:-1]]
    return made("f", lambda path: write_lines(path, lines, "f")).inner


def lines() -> Sequence[Artefact]:
    contents = [b"".join(encode_line({"n": n}) for n in range(count)) for count in (0, 9, 150)]
    return [Artefact("f.jsonl.zst", content, as_line_file) for content in contents]


def read_lines_each_way(_folder: Path, file: Path) -> None:
    with LineFile(file) as found:
        every = list(found)
        assert [found[number] for number in range(len(found))] == every
        assert found.digest()[0] == len(every)


def documents() -> Sequence[Artefact]:
    about = {"license": "CC0-1.0", "source": "s"}
    texts = [f"Text {n}. caf\u00e9" for n in range(5)]
    encoded = [encode_document(Document(f"s/{t}", t, about | {"text_sha256": text_sha256(t)})) for t in texts]
    return [Artefact("f.jsonl.zst", content, as_line_file) for content in (encoded[0], b"".join(encoded))]


def rows() -> Sequence[Artefact]:
    found = made("train/000000.jsonl.zst", lambda path: write_rows(path.parent.parent, map(np.array, ROWS), "train"))
    plain = "".join(json.dumps({"token_ids": row}) + "\n" for row in ROWS[:3]).encode()
    return [Artefact("000000.jsonl.zst", found.inner), Artefact("000000.jsonl.zst", plain, as_line_file)]


def read_rows(folder: Path, file: Path) -> None:
    with LineFile(file) as found:
        lines, size, sha256 = found.digest()
    shard = Shard(path=file.name, lines=lines, bytes=size, sha256=sha256)
    for row in Rows(folder, [shard], WIDTH, VOCABULARY):
        assert row.shape == (WIDTH,) and row.min() >= 0 and row.max() < VOCABULARY


def plain_rows() -> Sequence[Artefact]:
    spaced = "".join(json.dumps({"token_ids": row, "source": "c4"}) + "\n" for row in ROWS[:3])
    tight = "".join(json.dumps({"source": "c4", "token_ids": row}, separators=(",", ":")) + "\n" for row in ROWS[:3])
    one = json.dumps({"token_ids": ROWS[0]}) + "\n"
    return [Artefact("train_000.jsonl", text.encode()) for text in (spaced, tight, one)]


def read_plain_rows(folder: Path, file: Path) -> None:
    cache = folder.parent / "cache"
    (shard,) = check_rows(folder, [file.name], WIDTH, VOCABULARY, cache, "rows")
    assert (shard,) == check_rows(folder, [file.name], WIDTH, VOCABULARY, cache, "rows")
    found = PlainRows(folder, [shard], WIDTH, VOCABULARY, cache)
    assert [found[number].shape for number in range(len(found))] == [(WIDTH,)] * shard.lines


def removals() -> Sequence[Artefact]:
    table = [removal("filter", "s", f"s/{n}", "cap", bytes=n, similarity=n / 7) for n in range(300)]
    return [made("t.parquet", partial(write_table, rows=table[:n], schema=REMOVALS, name="t")) for n in (0, 5, 300)]


def read_removals(_folder: Path, file: Path) -> None:
    assert digest_table(file)[0] == read_table(file, REMOVALS).num_rows


def index() -> Sequence[Artefact]:
    about = {"source": "s", "license": "l", "text_sha256": DIGEST, "bytes": 1}
    places = [{"id": f"s/{n}", "first_row": n // 4, "offset": n % 4 * 8, "num_tokens": 8} for n in range(100)]
    return [made("i.parquet", lambda path: write_table(path, [place | about for place in places], DOCUMENT_INDEX, "i"))]


def read_index(_folder: Path, file: Path) -> None:
    found = DocumentIndex(file, 32, 25)
    for row in (0, 3, 24):
        found.documents_of_row(row)
    for id in ("s/0", "s/1", "s/99"):
        found.rows_of_document(id)


def tensors() -> Sequence[Artefact]:
    more: ck.Tensors = {"a": np.zeros((0, 3), np.float32), "b": np.ones(3, np.int64), "c": np.array(1.0)}
    files = [made("t.safetensors", partial(ck.write_tensors, tensors=each)) for each in (WEIGHT, MOMENTS, more)]

    def around(rest: bytes) -> Callable[[bytes], bytes]:
        return lambda header: len(header).to_bytes(8, "little") + header + rest

    headers = [(file.inner[8 : 8 + int.from_bytes(file.inner[:8], "little")], file.inner) for file in files]
    return [*files, *(Artefact("t.safetensors", head, around(content[8 + len(head) :])) for head, content in headers)]


def json_of(name: str, *trees: Any) -> Callable[[], Sequence[Artefact]]:
    return lambda: [Artefact(name, pretty(tree)) for tree in trees]


def read_json(_folder: Path, file: Path) -> None:
    value = parse(file.read_bytes(), file)
    try:
        again = canonical(value)
    except EverystepError as error:
        assert "not representable" in str(error)
    else:
        assert parse(again) == value


SHARD = {"path": "train/000000.jsonl.zst", "lines": 1, "bytes": 9, "sha256": DIGEST}
MANIFEST = least_of(Tokens) | {
    "stage": "tokenize",
    "of": None,
    "inputs": {"a.json": DIGEST},
    "outputs": {"train": [SHARD], "order": [SHARD, SHARD]},
}
RELEASE = {"format": "everystep/release/3", "name": "demo", "version": "1.0"}
FILES = {name: {"digest": DIGEST, "kind": kind_of(name)} for name in ("a.json", "b.parquet", "c/d.jsonl.zst")}
TREE = {"outputs": {"train": [SHARD], "documents": [SHARD, SHARD]}, "parameters": {"x": [1.5, None, "\u20ac"]}}


def recipes() -> Sequence[Artefact]:
    found = [PROJECT / "params.yaml", *sorted((PROJECT / "recipes").glob("*.yaml"))]
    small = b"a: [1, 0x1F, 010, 3e-4, .5, ~, 'x', 2001-01-01]\nb: |\n  text\nc: {d: \"e\\n\"}\n"
    return [Artefact("p.yaml", small), *(Artefact("p.yaml", path.read_bytes()) for path in found)]


def read_root(folder: Path) -> None:
    parse_root(release_root(folder), folder / ROOT)


TARGETS = {
    "line files": Target(lines, read_lines_each_way),
    "documents": Target(documents, lambda _folder, file: list(read_documents(file))),
    "rows": Target(rows, read_rows),
    "rows of others": Target(plain_rows, read_plain_rows),
    "removals": Target(removals, read_removals),
    "document index": Target(index, read_index),
    "tensors": Target(tensors, lambda _folder, file: tensors_digest(ck.read_tensors(file))),
    "records": Target(json_of(ck.RECORD, record().to_json()), lambda folder, _file: ck.read_record(folder)),
    "JSON": Target(json_of("a.json", TREE, [1, [2.5, {"k": "\u20ac"}]], "text"), read_json),
    "manifests": Target(json_of("m.json", MANIFEST), lambda _folder, file: read_any_manifest(file)),
    "root manifest": Target(
        json_of(ROOT, RELEASE | {"files": FILES}), lambda folder, _file: parse_root(release_root(folder), folder / ROOT)
    ),
    "tokenizer": Target(json_of("t.json", PLAIN), lambda _folder, file: (token_texts(file), end_token(file))),
    "YAML": Target(recipes, lambda _folder, file: load_yaml(file)),
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_nearly_right_file_is_read_or_refused(target: str, tmp_path: Path) -> None:
    run("tests.pipeline.formats.test_fuzz_formats", target, tmp_path, cases=200)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_a_nearly_right_file_is_read_or_refused_for_long(
    target: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    found = run("tests.pipeline.formats.test_fuzz_formats", target, tmp_path, seconds=15)
    record_property("said", f"{found['cases']:,} files, {found.get('read', 0):,} read")
