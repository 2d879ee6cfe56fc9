import hashlib
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import pretty
from pipeline.formats.current import read_all_current, read_current, section_digest, take_basis
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import (
    FORMAT,
    Deduplicated,
    Extracted,
    Fetched,
    Filtered,
    Tokens,
    Trained,
    read_any_manifest,
    read_manifest,
)
from pipeline.formats.stages import manifest_path
from tests.releases import read_json, shards_of
from tests.stubs import write_stub

SHARD = Shard(path="000000.jsonl.zst", lines=3, bytes=60, sha256="ab" * 32)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_chain() -> None:
    write_stub(Fetched, "s", take_basis(), parameters={"url": "x"}, outputs={}, files=[])
    upstream = [manifest_path("fetch", "s")]
    write_stub(Extracted, "s", take_basis(upstream), parameters={}, outputs={"documents": [SHARD]}, documents=3)


def test_a_manifest_comes_back_as_it_was_written(project: Path) -> None:
    write_chain()
    tree = read_json(manifest_path("extract", "s"))
    assert (tree["format"], tree["stage"], tree["of"], tree["documents"]) == (FORMAT, "extract", "s", 3)
    assert shards_of(tree, "documents") == [SHARD]
    assert pretty(tree) == manifest_path("extract", "s").read_bytes()


def test_inputs_are_digests_of_the_bytes_that_stand_there(project: Path) -> None:
    write_chain()
    inputs = read_json(manifest_path("extract", "s"))["inputs"]
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
    "text", [b"", b"[]", b"{}", b'{"format":"everystep/manifest/1"}', b'{"format":1,"format":1}', b"\xff"]
)
def test_a_manifest_of_another_format_is_refused_by_name(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "m.json").write_bytes(text)
    with pytest.raises(EverystepError, match=rf"^{tmp_path}/m\.json: not "):
        read_any_manifest(tmp_path / "m.json")


def test_a_manifest_of_another_stage_is_refused(project: Path) -> None:
    write_chain()
    with pytest.raises(EverystepError, match="not a manifest of format everystep/manifest/5 of stage filter"):
        read_manifest(Filtered, manifest_path("extract", "s"))


def test_a_manifest_that_is_not_there_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match="no such file; run `dvc repro` first"):
        read_manifest(Tokens, tmp_path / "m.json")
    with pytest.raises(EverystepError, match="cannot be read"):
        read_manifest(Tokens, tmp_path)


PARAMS = {"sources": {"s": {"url": "x"}, "t": {"url": "y"}}, "filter": {"steps": []}, "dedup": {"seed": 1}}


@pytest.fixture
def built(project: Path) -> Path:
    """Three stages that were run in their order, and the recipe of a model with its run."""
    (project / "params.yaml").write_bytes(pretty(PARAMS))
    (project / "recipes").mkdir()
    (project / "recipes/m.yaml").write_text("name: m\n")
    for name in ("s", "t"):
        write_stub(Fetched, name, take_basis([], [f"sources.{name}"]), parameters={}, outputs={}, files=[])
        fetched = [manifest_path("fetch", name)]
        write_stub(Filtered, name, take_basis(fetched, ["filter"]), parameters={}, outputs={"documents": []})
    filtered = [manifest_path("filter", name) for name in ("s", "t")]
    write_stub(Deduplicated, None, take_basis(filtered, ["dedup"]), parameters={}, outputs={})
    inputs = [Path("recipes/m.yaml"), manifest_path("dedup")]
    rows = {"data/rows/1.jsonl": "ab" * 32}
    write_stub(Trained, "m", take_basis(inputs), parameters={}, outputs={}, digested=rows)
    return project


def change(project: Path, **sections: Any) -> None:
    (project / "params.yaml").write_bytes(pretty(PARAMS | sections))


def test_what_was_built_from_the_params_of_today_is_current(built: Path) -> None:
    assert read_current(Deduplicated).to_json() == read_json(manifest_path("dedup"))
    assert list(read_all_current(Filtered, ["s", "t"])) == ["s", "t"]
    assert read_current(Trained, "m").params == {}


def test_a_section_that_was_changed_makes_all_that_follows_it_out_of_date(built: Path) -> None:
    change(built, sources={"s": {"url": "x"}, "t": {"url": "z"}})
    read_current(Filtered, "s")
    for kind, of in ((Filtered, "t"), (Deduplicated, None), (Trained, "m")):
        with pytest.raises(EverystepError, match=r"^manifests/sources/t.json: out of date: `sources.t` in params.yaml"):
            read_current(kind, of)


def test_a_section_that_is_gone_makes_its_stage_out_of_date(built: Path) -> None:
    (built / "params.yaml").write_bytes(pretty({key: PARAMS[key] for key in ("sources", "filter")}))
    with pytest.raises(EverystepError, match=r"`dedup` in params\.yaml has changed"):
        read_current(Deduplicated)


def test_sections_that_a_stage_did_not_read_change_nothing(built: Path) -> None:
    change(built, dedup={"seed": 2}, executor="ray")
    read_all_current(Filtered, ["s", "t"])


@pytest.mark.parametrize("path", ["manifests/filtered/t.json", "manifests/sources/s.json", "recipes/m.yaml"])
def test_an_input_that_was_built_or_written_again_makes_its_readers_out_of_date(built: Path, path: str) -> None:
    (built / path).write_bytes((built / path).read_bytes() + b"\n")
    with pytest.raises(EverystepError, match=rf"out of date: {path} has changed since it was built; run `dvc repro`"):
        read_current(Trained, "m")


def test_params_that_change_while_a_stage_runs_leave_no_manifest(built: Path) -> None:
    """What came out belongs neither to the section of before nor to that of after."""
    before = manifest_path("dedup").read_bytes()
    basis = take_basis([manifest_path("filter", "s")], ["dedup"])
    change(built, dedup={"seed": 2})
    with pytest.raises(EverystepError, match=r"^dedup: changed while dedup ran, .*; run it again"):
        write_stub(Deduplicated, None, basis, parameters={}, outputs={})
    assert manifest_path("dedup").read_bytes() == before


def test_an_input_that_changes_while_a_stage_runs_leaves_no_manifest(built: Path) -> None:
    basis = take_basis([manifest_path("filter", "s")], ["dedup"])
    manifest_path("filter", "s").write_bytes(manifest_path("filter", "t").read_bytes())
    with pytest.raises(EverystepError, match=r"^manifests/filtered/s.json: changed while dedup ran"):
        write_stub(Deduplicated, None, basis, parameters={}, outputs={})


def test_the_manifest_of_another_source_in_its_place_is_not_current(built: Path) -> None:
    manifest_path("filter", "s").write_bytes(manifest_path("filter", "t").read_bytes())
    with pytest.raises(EverystepError, match=r"^manifests/filtered/s.json: is the manifest of filter of t"):
        read_current(Filtered, "s")


def test_an_input_that_is_gone_makes_its_readers_out_of_date(built: Path) -> None:
    manifest_path("fetch", "s").unlink()
    with pytest.raises(EverystepError, match=r"manifests/filtered/s.json: out of date: manifests/sources/s.json"):
        read_current(Deduplicated)


def test_the_manifest_of_a_source_that_is_declared_no_longer_is_refused(built: Path) -> None:
    with pytest.raises(EverystepError, match=r"filtered/t.json: params.yaml no longer declares 't'; delete this file"):
        read_all_current(Filtered, ["s"])


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "A", "x" * 101, "a\n", "a\x1b[2J", 7])
def test_a_name_that_could_leave_its_folder_has_no_manifest(name: Any) -> None:
    with pytest.raises(EverystepError, match="cannot be a name") as caught:
        manifest_path("train", name)
    assert "\x1b" not in str(caught.value)


def test_the_digest_of_a_section_does_not_depend_on_how_the_file_is_written() -> None:
    assert section_digest({"a": {"b": 1, "c": [1.0]}}, "a") == section_digest({"a": {"c": [1], "b": 1.0}}, "a")
    assert section_digest({"a": {"b": 1}}, "a.b") != section_digest({"a": {"b": 2}}, "a.b")
    assert section_digest({}, "a.b") == section_digest({"a": {"b": None}}, "a.b")


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
def test_an_entry_that_is_no_shard_is_refused_by_its_key(project: Path, shard: Any) -> None:
    write_chain()
    tree = read_json(manifest_path("extract", "s"))
    tree["outputs"]["documents"].append(shard)
    with pytest.raises(EverystepError, match=r"^manifests/documents/s\.json: outputs\.documents\.1"):
        Extracted.from_json(tree, manifest_path("extract", "s"))


@pytest.mark.parametrize("outputs", [None, [], {"train": 3}, 1])
def test_outputs_that_are_no_outputs_are_refused(project: Path, outputs: Any) -> None:
    write_chain()
    tree = read_json(manifest_path("extract", "s")) | {"outputs": outputs}
    with pytest.raises(EverystepError, match=r"^s\.json: outputs"):
        Extracted.from_json(tree, "s.json")


def test_an_output_that_is_not_listed_is_named(project: Path) -> None:
    write_chain()
    manifest = read_manifest(Extracted, manifest_path("extract", "s"))
    assert manifest.shard("documents") == SHARD
    with pytest.raises(EverystepError, match=r"^manifests/documents/s\.json: outputs: lists no removals"):
        manifest.shards("removals")
