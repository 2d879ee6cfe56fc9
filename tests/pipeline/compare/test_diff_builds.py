"""Two builds: which stage differs first, why, what follows, and what is inside. Releases are real, and altered by an
attacker who makes every digest fit, so that nothing but the comparison can tell."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.files import sha256_file
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import pretty
from pipeline.formats.current import section_digest
from pipeline.formats.lines import LineFile, write_lines
from pipeline.formats.manifests import digest_of_code
from pipeline.formats.tables import DOCUMENT_INDEX, REMOVALS, read_table, removal, write_table
from tests.releases import (
    checkpoint,
    copied,
    edit_log,
    everystep,
    flip,
    read_json,
    reseal,
    reseal_file,
    reseal_model,
    write_json,
)
from tests.servers.web import serve_folder

INDEX = "data/tokens/train.parquet"
ROWS = "data/tokens/train/000000.jsonl.zst"
LARGE = (".safetensors", ".zst", ".parquet")


@pytest.fixture
def released(built_project: Path) -> Path:
    return built_project / "release"


@pytest.fixture
def other(released: Path, tmp_path: Path) -> Path:
    return copied(released, tmp_path / "other")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def told(*arguments: str | Path, code: int = 1) -> Any:
    """What `everystep diff --json` says."""
    done = everystep("diff", *arguments, "--json", "--list", "1000")
    assert done.code == code, done.said
    return json.loads(done.out)


def causes(tree: Any) -> list[str]:
    return [stage["stage"] for stage in tree["stages"] if stage["is_cause"]]


def named(tree: Any, kind: str) -> list[str]:
    return [each["where"] for each in tree["differences"].get(kind, {"first": []})["first"]]


def edit_params(release: Path, section: str, edit: Callable[[Any], None]) -> None:
    """Change a section of `params.yaml`, and its digest in every manifest that was built with it."""
    params = read_json(release / "params.yaml")
    edit(params[section])
    (release / "params.yaml").write_bytes(pretty(params))
    for path in (release / "manifests").rglob("*.json"):
        tree = read_json(path)
        tree["params"] = {name: section_digest(params, name) for name in tree["params"]}
        write_json(path, tree)
    reseal(release)


def edit_code(release: Path, name: str) -> None:
    """Give one file of code another digest."""
    path = release / "manifests" / "code.json"
    tree = read_json(path)
    tree["files"][name] = "0" * 64
    for stage in tree["stages"].values():
        stage["digest"] = digest_of_code({file: tree["files"][file] for file in stage["files"]})
    write_json(path, tree)


def test_a_copy_is_the_same_wherever_it_is(released: Path, other: Path) -> None:
    done = everystep("diff", released, other)
    assert done.code == 0
    assert done.err.count("rung 1 of 5 (files)") == 2
    assert "same: all" in done.out and "the files themselves were not read" in done.out
    with serve_folder(released) as web, serve_folder(other) as second:
        assert told(web.url, second.url, code=0)["same"]
        moved = {request.path.lstrip("/") for server in (web, second) for request in server.counted.requests}
        assert moved == {"release.json"}


def test_a_side_may_be_pinned_by_the_digest_of_its_root(released: Path, other: Path) -> None:
    pinned = f"{released}#sha256={sha256_file(released / 'release.json')}"
    done = everystep("diff", pinned, f"{pinned}@openelm:4")
    assert done.code == 2  # a release and a checkpoint
    assert told(pinned, other, code=0)["same"]
    assert told(f"{pinned}@openelm:4", f"{other}@openelm:4", code=0)["same"]
    wrong = f"{other}#sha256={'0' * 64}"
    for side in (wrong, f"{wrong}@openelm:4"):
        done = everystep("diff", side, side)
        assert done.code == 1 and "release.json has the SHA-256" in done.err


def test_equal_digests_need_no_file_at_all(released: Path, other: Path) -> None:
    for path in other.rglob("*"):
        if path.is_file() and path.name != "release.json":
            path.unlink()
    assert told(released, other, code=0)["same"]


def test_a_release_is_the_same_as_the_project_that_built_it(released: Path, built_project: Path) -> None:
    tree = told(released, built_project, code=0)
    assert tree["same"] and tree["differences"] == {}
    assert told(built_project, released, code=0)["same"]
    assert told(built_project / "dvc.lock", released / "dvc.lock", code=0)["same"]


def test_a_changed_key_of_params_is_the_cause_and_what_comes_after_follows(released: Path, other: Path) -> None:
    edit_params(other, "dedup", lambda dedup: dedup.update(seed=dedup["seed"] + 1))
    tree = told(released, other)
    assert tree["first"]["where"] == "dedup.seed" and tree["first"]["stage"] == "dedup"
    assert tree["first"]["b"] == tree["first"]["a"] + 1
    assert causes(tree) == ["dedup"]
    assert {"tokenizer", "tokenize", "train@openelm", "evaluate@openelm", "coverage"} < {
        stage["stage"] for stage in tree["stages"] if stage["follows"]
    }
    said = everystep("diff", released, other).out
    assert "differ, first in dedup, because of params: dedup.seed: " in said


def test_a_key_that_many_stages_read_is_counted_once(released: Path, other: Path) -> None:
    edit_params(other, "filter", lambda rules: rules["gopher_quality"].update(min_doc_words=7))
    tree = told(released, other)
    assert causes(tree) == ["filter@letters"]
    assert named(tree, "params") == ["filter.gopher_quality.min_doc_words"]


def test_words_of_the_publisher_change_papers_and_no_stage(released: Path, other: Path) -> None:
    edit_params(other, "descriptions", lambda said: said["notes"].update(title="Other notes"))
    tree = told(released, other)
    assert (tree["stages"], named(tree, "params")) == ([], ["descriptions.notes.title"])
    assert named(tree, "file") == []
    assert "no stage came out differently" in everystep("diff", released, other).out


def test_a_changed_file_of_code_is_named_and_is_no_cause_where_nothing_changed(released: Path, other: Path) -> None:
    edit_code(other, "pipeline/blocks/quality.py")
    reseal(other)
    tree = told(released, other)
    assert (named(tree, "code"), tree["stages"]) == (["pipeline/blocks/quality.py"], [])


def test_a_stage_with_other_code_and_another_result_blames_the_code(released: Path, other: Path) -> None:
    edit_code(other, "pipeline/blocks/duplicates.py")
    path = other / "manifests" / "deduplicated.json"
    manifest = read_json(path)
    manifest["documents"] -= 1
    write_json(path, manifest)
    reseal(other)
    tree = told(released, other)
    assert tree["first"]["where"] == "pipeline/blocks/duplicates.py"
    assert tree["first"]["stage"] == "dedup"
    assert named(tree, "count") == ["dedup: documents"]


def test_another_version_of_a_library_is_environment(released: Path, other: Path) -> None:
    pins = (other / "constraints.txt").read_text()
    (other / "constraints.txt").write_text(pins.replace("zstandard==", "zstandard==9"))
    code = read_json(other / "manifests" / "code.json")
    edit_code(other, "constraints.txt")
    reseal(other)
    tree = told(released, other)
    assert named(tree, "environment") == ["constraints.txt"]  # the digest is not that of the file, so no line is told
    code["files"]["constraints.txt"] = read_json(other / "release.json")["files"]["constraints.txt"]["digest"]
    write_json(other / "manifests" / "code.json", code)
    reseal(other)
    assert named(told(released, other), "environment") == ["constraints.txt: zstandard"]


def test_other_numerics_of_a_training_are_environment(released: Path, other: Path) -> None:
    path = other / "manifests" / "models" / "openelm.json"
    manifest = read_json(path)
    manifest["numerics"]["torch"] = "2.13.0+other"
    write_json(path, manifest)
    reseal(other)
    tree = told(released, other)
    assert tree["first"]["where"] == "numerics.torch" and tree["first"]["kind"] == "environment"
    assert causes(tree) == ["train@openelm"]


def test_other_bytes_of_a_source_that_names_no_digest_are_data(released: Path, other: Path) -> None:
    path = other / "manifests" / "sources" / "notes.json"
    manifest = read_json(path)
    manifest["files"][0]["sha256"] = "0" * 64
    write_json(path, manifest)
    reseal(other)
    tree = told(released, other)
    assert tree["first"]["kind"] == "data" and tree["first"]["stage"] == "fetch@notes"
    assert causes(tree) == ["fetch@notes"]


def test_a_stage_that_nothing_explains_says_where_to_look(released: Path, other: Path) -> None:
    path = other / "manifests" / "filtered" / "notes.json"
    manifest = read_json(path)
    manifest["bytes"] += 1
    write_json(path, manifest)
    reseal(other)
    tree = told(released, other)
    assert "code, params and inputs are the same" in tree["first"]["where"]
    assert "first in filter@notes: code, params and inputs are the same" in everystep("diff", released, other).out


def test_a_key_of_a_recipe_is_named(released: Path, other: Path) -> None:
    recipe = read_json(other / "recipes" / "openelm.yaml")
    recipe["optimizer"]["beta2"] = 0.99
    (other / "recipes" / "openelm.yaml").write_bytes(pretty(recipe))
    path = other / "manifests" / "models" / "openelm.json"
    manifest = read_json(path)
    manifest["parameters"] = recipe
    write_json(path, manifest)
    reseal(other)
    tree = told(released, other)
    assert tree["first"]["where"] == "recipes/openelm.yaml.optimizer.beta2"
    assert (tree["first"]["a"], tree["first"]["b"]) == (0.95, 0.99)
    assert causes(tree) == ["train@openelm"]


def test_a_dropped_document_is_named_with_what_removed_it(released: Path, other: Path) -> None:
    index = read_table(other / INDEX, DOCUMENT_INDEX).to_pylist()
    gone, *_ = [row for row in index if row["source"] == "tales"]
    write_table(other / INDEX, [row for row in index if row != gone], DOCUMENT_INDEX, "train.parquet")
    table = other / "data" / "deduplicated" / "removals.parquet"
    lost = removal("dedup", "tales", gone["id"], "exact_duplicate", kept="notes/001", similarity=1.0, bytes=9)
    write_table(table, [*read_table(table, REMOVALS).to_pylist(), lost], REMOVALS, table.name)
    reseal(other)
    tree = told(released, other)
    assert named(tree, "document") == [gone["id"]]
    (document,) = tree["differences"]["document"]["first"]
    assert document["only_in"] == "A"
    assert document["a"] == "CC0-1.0, train; B removed it by dedup as exact_duplicate of notes/001"
    assert [(row["source"], row["license"], row["only_in_a"]) for row in tree["documents"]] == [("tales", "CC0-1.0", 1)]
    assert causes(tree) == ["dedup"]


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [("text_sha256", "0" * 64, "text "), ("license", "CC-BY-4.0", "CC0-1.0 -> CC-BY-4.0")],
)
def test_a_document_with_another_text_or_licence_is_named(
    released: Path, other: Path, column: str, value: str, said: str
) -> None:
    index = read_table(other / INDEX, DOCUMENT_INDEX).to_pylist()
    index[7][column] = value
    write_table(other / INDEX, index, DOCUMENT_INDEX, "train.parquet")
    reseal(other)
    done = everystep("diff", released, other)
    assert f"{index[7]['id']}: " in done.out and said in done.out


def test_a_document_that_moved_to_the_other_split_is_no_document_that_went(released: Path, other: Path) -> None:
    paths = [other / f"data/tokens/{split}.parquet" for split in ("train", "validation")]
    train, validation = (read_table(path, DOCUMENT_INDEX).to_pylist() for path in paths)
    moved = train.pop()
    write_table(paths[0], train, DOCUMENT_INDEX, "train.parquet")
    write_table(paths[1], [*validation, moved], DOCUMENT_INDEX, "validation.parquet")
    reseal(other)
    tree = told(released, other)
    (document,) = tree["differences"]["document"]["first"]
    assert document["where"] == f"{moved['id']}: splits"
    assert (document["a"], document["b"]) == ("train", "validation")
    assert [(row["only_in_a"], row["only_in_b"], row["moved"]) for row in tree["documents"]] == [(0, 0, 1)]


def test_an_altered_row_is_named_with_place_ids_and_document(released: Path, other: Path) -> None:
    with LineFile(other / ROWS) as file:
        lines = [line + b"\n" for line in file]
    row = json.loads(lines[70])["token_ids"]
    row[5] = row[5] % 300 + 1
    lines[70] = json.dumps({"token_ids": row}, separators=(",", ":")).encode() + b"\n"
    write_lines(other / ROWS, lines, "000000.jsonl.zst", digits=True)
    reseal(other)
    tree = told(released, other)
    (found,) = tree["differences"]["row"]["first"]
    assert (tree["differences"]["row"]["count"], found["where"]) == (1, "train row 70, place 5")
    assert found["b"].startswith(f"id {row[5]} of ") and found["a"].split(" of ")[1] == found["b"].split(" of ")[1]
    trace = everystep("trace", released, "--model", "openelm", "--document", found["a"].split(" of ")[1], "--json")
    assert any(start <= 70 < stop for start, stop in json.loads(trace.out)["rows"])


def test_rows_that_one_side_has_more_of_are_counted(released: Path, other: Path) -> None:
    with LineFile(other / ROWS) as file:
        lines = [line + b"\n" for line in file]
    write_lines(other / ROWS, lines[:-3], "000000.jsonl.zst", digits=True)
    reseal(other)
    tree = told(released, other)
    assert tree["differences"]["row"]["count"] == 3
    assert named(tree, "row") == [f"train rows from {len(lines) - 3} on"]


def test_a_flipped_bit_of_a_tensor_is_named_to_the_number(released: Path, other: Path) -> None:
    folder = checkpoint(other, "openelm", 4)
    tensors = ck.read_tensors(folder / ck.WEIGHTS)
    name = sorted(tensors)[3]
    tensors[name].reshape(-1).view("u4")[17] ^= 1
    ck.write_tensors(folder / ck.WEIGHTS, tensors)
    reseal_model(other, "openelm")
    reseal(other)
    tree = told(released, other)
    assert "code, params and inputs are the same" in tree["first"]["where"] and causes(tree) == ["train@openelm"]
    (tensor,) = tree["tensors"]
    assert (tensor["name"], tensor["differ"]) == (name, 1)
    assert int(tensor["first_bits"][0], 16) ^ int(tensor["first_bits"][1], 16) == 1
    assert named(tree, "state")[0] == "openelm step000004-tokens1024: other weights"


def test_the_first_step_of_a_log_that_differs_is_named(released: Path, other: Path) -> None:
    def edit(entries: list[Any]) -> None:
        for entry in entries[5:]:
            entry["loss"] += 1

    edit_log(other, "openelm", edit)
    reseal(other)
    tree = told(released, other)
    assert tree["agree"] == [
        "both have the same documents and rows",
        "openelm: both have the same steps 1 to 5, and others from step 6 on",
    ]
    assert named(tree, "step") == [f"openelm step {step}: loss" for step in (6, 7, 8)]


def test_a_fork_has_no_steps_of_its_parent_and_says_what_is_the_same(released: Path, other: Path) -> None:
    """What `everystep fork` and a training leave: a manifest of the parent, its section in the recipe, later steps."""
    path = other / "manifests" / "models" / "openelm.json"
    manifest = read_json(path)
    begun = {"state_digest": manifest["checkpoints"][3]["state_digest"], "step": 4, "tokens": 1024, "first_sample": 32}
    manifest["parameters"]["parent"] = begun
    manifest["checkpoints"] = [entry for entry in manifest["checkpoints"] if entry["step"] > 4]
    write_json(path, manifest)
    (other / "recipes" / "openelm.yaml").write_bytes(pretty(manifest["parameters"]))
    parent = {"release_sha256": sha256_file(released / "release.json"), "model": "openelm", "step": 4}
    tree = {"format": manifest["format"], "stage": "parent", "of": None, "inputs": {}, "params": {}, "outputs": {}}
    facts = {"release": "demo", "version": "1", "tokens": 1024, "state_digest": begun["state_digest"]}
    write_json(other / "manifests" / "parent.json", tree | facts | {"parameters": parent, "files": {}, "carried": {}})
    edit_log(other, "openelm", lambda entries: entries.__delitem__(slice(0, 4)))
    reseal(other)
    found = told(released, other)
    assert found["fork"] == {"side": "B", "model": "openelm", "step": 4}
    assert found["agree"] == ["both have the same documents and rows", "openelm: both have the same steps 5 to 8"]
    assert named(found, "params") == ["recipes/openelm.yaml.parent"]
    assert not {"state", "step", "tensor"} & found["differences"].keys()
    assert told(other, released)["fork"] == {"side": "A", "model": "openelm", "step": 4}


def test_a_model_that_one_side_lacks_is_one_cause(released: Path, other: Path) -> None:
    for folder in ("models", "evaluations"):
        (other / "manifests" / folder / "openelm.json").unlink()
    shutil.rmtree(other / "runs" / "openelm")
    shutil.rmtree(other / "results" / "openelm")
    reseal(other)
    tree = told(released, other)
    assert causes(tree) == ["train@openelm"]
    assert everystep("diff", other, released).out.splitlines()[2] == (
        "differ, first in the stage train@openelm, which only B has"
    )


def test_a_file_that_its_manifest_does_not_tell_of_is_named(released: Path, other: Path) -> None:
    flip(checkpoint(other, "openelm", 4) / ck.WEIGHTS, 0.9)
    weights = "runs/openelm/step000004-tokens1024/model.safetensors"
    reseal_file(other, weights)
    tree = told(released, other)
    assert (tree["stages"], named(tree, "file")) == ([], [weights])
    assert "differ, first in runs/openelm" in everystep("diff", released, other, "--list", "0").out


def test_releases_whose_manifests_have_other_versions_are_compared(released: Path, other: Path) -> None:
    edit_params(other, "dedup", lambda dedup: dedup.update(seed=dedup["seed"] + 1))
    path = other / "manifests" / "models" / "openelm.json"
    manifest = read_json(path)
    manifest["checkpoints"][-1]["state_digest"] = "tensors-v1:" + "0" * 64
    write_json(path, manifest)
    reseal(other)
    for path in (other / "manifests").rglob("*.json"):
        write_json(path, read_json(path) | {"format": "everystep/manifest/2"})
    root = read_json(other / "release.json")
    for path in (other / "manifests").rglob("*.json"):
        root["files"][path.relative_to(other).as_posix()]["digest"] = sha256_file(path)
    write_json(other / "release.json", root)
    tree = told(released, other)
    assert "dedup.seed" in named(tree, "params")
    assert tree["not_compared"] == ["a side has manifests of format everystep/manifest/2, so tensors were not compared"]


def test_a_file_that_no_stage_explains_is_its_own_difference(released: Path, other: Path) -> None:
    with (other / "LICENSE").open("a") as file:
        file.write("more\n")
    reseal(other)
    papers = ["README.md", "report/index.html"]  # which have a digest of all else
    assert named(told(released, other), "file") == ["LICENSE", *papers]


def test_another_version_is_told(released: Path, other: Path) -> None:
    root = read_json(other / "release.json")
    root["version"] = "0.2.0"
    write_json(other / "release.json", root)
    done = everystep("diff", released, other)
    assert done.code == 1 and "version: 0.1.0 -> 0.2.0" in done.out


def test_of_a_difference_far_away_only_small_files_and_what_differs_move(released: Path, other: Path) -> None:
    index = read_table(other / INDEX, DOCUMENT_INDEX).to_pylist()
    index[7]["text_sha256"] = "0" * 64
    write_table(other / INDEX, index, DOCUMENT_INDEX, "train.parquet")
    reseal(other)
    with serve_folder(released) as left, serve_folder(other) as right:
        assert named(told(left.url, right.url), "document") == [index[7]["id"]]
        moved = {request.path.lstrip("/") for request in [*left.counted.requests, *right.counted.requests]}
        large = {path for path in moved if path.endswith(LARGE)}
        assert large == {INDEX, "data/tokens/validation.parquet"}
        total = sum(path.stat().st_size for path in released.rglob("*") if path.is_file())
        assert left.counted.sent() < total / 5
    with serve_folder(released) as left, serve_folder(other) as right:
        tree = told(left.url, right.url, "--metadata")
        assert "documents and rows differ, and were not read" in tree["not_compared"]


def test_a_project_that_has_no_data_is_compared_by_its_manifests(
    built_project: Path, other: Path, tmp_path: Path
) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("manifests", "recipes"):
        shutil.copytree(built_project / name, clone / name)
    for name in ("dvc.lock", "params.yaml", "constraints.txt"):
        shutil.copy(built_project / name, clone)
    assert told(other, clone, code=0)["same"]
    edit_params(other, "dedup", lambda dedup: dedup.update(seed=dedup["seed"] + 1))
    with (other / ROWS).open("ab"):
        pass
    tree = told(other, clone)
    assert causes(tree) == ["dedup"]


def test_two_locks_are_compared_by_stage_params_and_data(built_project: Path, tmp_path: Path) -> None:
    lock = read_json(built_project / "release" / "dvc.lock")
    entry = lock["stages"]["dedup"]
    entry["params"]["params.yaml"]["dedup"]["seed"] += 1
    for out in entry["outs"]:
        out["md5"] = "0" * 32
    for dep in lock["stages"]["tokenizer"]["deps"]:
        dep["md5"] = "0" * 32
    (tmp_path / "new.lock").write_bytes(pretty(lock))
    tree = told(built_project / "release" / "dvc.lock", tmp_path / "new.lock")
    assert (tree["first"]["kind"], tree["first"]["where"]) == ("params", "dedup.seed")
    assert causes(tree) == ["dedup"]
    assert [stage["stage"] for stage in tree["stages"] if stage["follows"]] == ["tokenizer"]
    assert causes(told(built_project / "release", tmp_path / "new.lock")) == ["dedup"]


def test_a_damaged_side_is_an_error_that_names_the_file(released: Path, other: Path) -> None:
    edit_params(other, "dedup", lambda dedup: dedup.update(seed=dedup["seed"] + 1))
    flip(other / "manifests" / "deduplicated.json", 0.5)
    done = everystep("diff", released, other)
    assert done.code == 1
    assert "deduplicated.json: its content is not what release.json promises" in done.err
    (other / "release.json").write_bytes((other / "release.json").read_bytes()[:100])
    done = everystep("diff", released, other)
    assert (done.code, done.out) == (2, "")
    assert "release.json: not valid JSON" in done.err


@pytest.mark.parametrize(
    ("side", "said"),
    [
        ("{release}@openelm:3000", "step 3000: no checkpoint of openelm there"),
        ("{release}@openelmo:4", "no such model; it has mobilellm, openelm"),
        ("{empty}", "neither a release, a project, a dvc.lock nor a folder with safetensors"),
        ("{empty}/none", "no such file or folder; a checkpoint of a release is written ADDRESS@MODEL:STEP"),
        ("{empty}@openelm:4", "neither a release nor a project"),
        ("{release}/README.md", "neither a dvc.lock nor a .safetensors file"),
        ("{release}/params.yaml", "not a lock of DVC"),
        ("{release}@openelm:4", "@openelm:4 a checkpoint; compare two of one kind"),
    ],
)
def test_what_is_no_side_is_refused(released: Path, tmp_path: Path, side: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    done = everystep("diff", released, side.format(release=released, empty=tmp_path / "empty"))
    assert done.code == 2 and said in done.err, done.said
    assert "Traceback" not in done.err and done.out == ""
