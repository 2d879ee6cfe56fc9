import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats.canonical import pretty
from pipeline.formats.errors import EverystepError
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import FORMAT, manifest_path, read_manifest, shards_of, write_manifest

SHARD = Shard("000000.jsonl.zst", 3, 60, "ab" * 32)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_chain() -> None:
    write_manifest("fetch", "s", inputs=[], parameters={"url": "x"}, outputs={}, files=[])
    upstream = [manifest_path("fetch", "s")]
    write_manifest("extract", "s", inputs=upstream, parameters={}, outputs={"documents": [SHARD]}, documents=3)


def test_a_manifest_comes_back_as_it_was_written(project: Path) -> None:
    write_chain()
    tree = read_manifest(manifest_path("extract", "s"), "extract")
    assert (tree["format"], tree["stage"], tree["of"], tree["documents"]) == (FORMAT, "extract", "s", 3)
    assert shards_of(tree, "documents") == [SHARD]
    assert pretty(tree) == manifest_path("extract", "s").read_bytes()


def test_inputs_are_digests_of_the_bytes_that_stand_there(project: Path) -> None:
    write_chain()
    inputs = read_manifest(manifest_path("extract", "s"))["inputs"]
    assert inputs == {
        "manifests/sources/s.json": hashlib.sha256((project / "manifests/sources/s.json").read_bytes()).hexdigest()
    }


def test_writing_twice_gives_the_same_bytes(project: Path) -> None:
    write_chain()
    first = manifest_path("extract", "s").read_bytes()
    write_chain()
    assert manifest_path("extract", "s").read_bytes() == first


def test_each_stage_and_source_has_a_path_of_its_own() -> None:
    per_part = ["fetch", "extract", "filter", "train", "evaluate"]
    paths = [manifest_path(stage, name) for stage in per_part for name in ("a", "b")]
    paths += [manifest_path(stage) for stage in ("dedup", "tokenizer", "tokenize", "release")]
    assert len(set(paths)) == len(paths)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"format":"everystep/manifest/2"}', b'{"format":1,"format":1}', b"\xff"]
)
def test_a_manifest_of_another_format_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "m.json").write_bytes(text)
    with pytest.raises(EverystepError, match=rf"^{tmp_path}/m\.json: not "):
        read_manifest(tmp_path / "m.json")


def test_a_manifest_of_another_stage_is_refused(project: Path) -> None:
    write_chain()
    with pytest.raises(EverystepError, match="not a manifest of format everystep/manifest/1 of stage filter"):
        read_manifest(manifest_path("extract", "s"), "filter")


def test_a_manifest_that_is_not_there_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match="no such file; run `dvc repro` first"):
        read_manifest(tmp_path / "m.json")
    with pytest.raises(EverystepError, match="cannot be read"):
        read_manifest(tmp_path)


PLAIN = SHARD.to_json()
WRONG_SHARDS: list[Any] = [
    PLAIN | {"lines": "3"},
    PLAIN | {"lines": -1},
    PLAIN | {"lines": True},
    PLAIN | {"bytes": 1.5},
    PLAIN | {"path": None},
    PLAIN | {"sha256": "AB" * 32},
    PLAIN | {"sha256": "ab" * 31},
    PLAIN | {"sha256": "ab" * 32 + "\n"},
    PLAIN | {"more": 1},
    {"path": "x"},
    "shard",
    None,
]


@pytest.mark.parametrize("shard", WRONG_SHARDS)
def test_an_entry_that_is_no_shard_is_refused(shard: Any) -> None:
    with pytest.raises(EverystepError, match="a manifest of stage tokenize does not list train"):
        shards_of({"stage": "tokenize", "outputs": {"train": [PLAIN, shard]}}, "train")


@pytest.mark.parametrize("tree", [{}, {"outputs": None}, {"outputs": []}, {"outputs": {}}, {"outputs": {"train": 3}}])
def test_outputs_that_are_no_outputs_are_refused(tree: dict[str, Any]) -> None:
    with pytest.raises(EverystepError, match="does not list train"):
        shards_of(tree, "train")
