"""`everystep verify`: a release passes as it was built, and any change is found and named.

First damage: bytes change, files come and go. Then attackers, who recompute every digest behind a change.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import verify
from pipeline.audit.chain import chain_faults
from pipeline.base.files import list_files
from pipeline.formats import checkpoints as ck
from tests.project import ROOT
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
    reseal_sums,
    reseal_with_page,
    swap,
    write_json,
)

MODEL = "mobilellm"
MANIFEST = f"manifests/models/{MODEL}.json"
KINDS = [
    "data/tokens/train/000000.jsonl.zst",
    "data/tokens/train.parquet",
    f"runs/{MODEL}/step000004-tokens1024/model.safetensors",
    f"runs/{MODEL}/step000004-tokens1024/record.json",
    f"runs/{MODEL}/log.jsonl",
    "manifests/tokens.json",
    "README.md",
    "loss.svg",
    "SHA256SUMS",
    "release.json",
]


@pytest.fixture
def release(built_project: Path, tmp_path: Path) -> Path:
    return copied(built_project / "release", tmp_path / "release")


def expect_fault(release: Path, *named: str, code: int = 1) -> str:
    """`verify` ends with `code`, and says every name."""
    done = everystep("verify", release)
    assert done.code == code, done.said
    for name in named:
        assert name in done.said
    return done.said


def test_a_built_release_passes(built_project: Path) -> None:
    done = everystep("verify", built_project / "release")
    assert done.code == 0
    assert done.out.startswith(f"{built_project / 'release'}: every file is what the release promises: everystep-demo ")


def test_a_copy_elsewhere_passes_and_so_does_an_attackers_reseal_of_nothing(release: Path) -> None:
    assert everystep("verify", release).code == 0
    reseal(release)
    for model in ("mobilellm", "openelm"):
        reseal_model(release, model)
    assert everystep("verify", release).code == 0


def test_programs_get_json(release: Path) -> None:
    assert json.loads(everystep("verify", release, "--json").out)["verified"] is True
    flip(release / "README.md", 0.5)
    done = everystep("verify", release, "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert found["verified"] is False
    assert any("README.md" in fault for fault in found["faults"])


# Damage


@pytest.mark.parametrize("file", KINDS)
def test_a_flipped_bit_in_each_kind_of_file_is_named(release: Path, file: str) -> None:
    content = (release / file).read_bytes()
    for place in (0.0, 0.3, 0.7, 1.0):
        flip(release / file, place)
        done = everystep("verify", release)
        assert done.code in (1, 2)
        assert file in done.said
        (release / file).write_bytes(content)


def test_a_flipped_bit_anywhere_is_named(release: Path) -> None:
    draw = random.Random(1)
    for file in draw.sample(list_files(release), 20) + ["release.json"] * 10:
        content = (release / file).read_bytes()
        flip(release / file, draw.random(), draw.randrange(8))
        done = everystep("verify", release)
        assert done.code in (1, 2)
        assert file in done.said
        (release / file).write_bytes(content)


def test_bytes_that_keep_the_content_are_still_not_the_bytes_in_the_sums(release: Path) -> None:
    """A safetensors header is not in the tensors' digest, so only SHA256SUMS can tell."""
    path = checkpoint(release, MODEL, 4) / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    padded = (length + 8).to_bytes(8, "little") + content[8 : 8 + length] + b" " * 8 + content[8 + length :]
    path.write_bytes(padded)
    said = expect_fault(release, "step000004-tokens1024/model.safetensors", "SHA256SUMS")
    assert "content is not" not in said


@pytest.mark.parametrize("file", [file for file in KINDS if file != "release.json"])
def test_a_missing_file_is_named(release: Path, file: str) -> None:
    (release / file).unlink()
    expect_fault(release, file)


def test_a_missing_folder_is_named_file_by_file(release: Path) -> None:
    shutil.rmtree(release / "results" / "openelm")
    expect_fault(release, "results/openelm/evaluation.csv: missing", "results/openelm/evaluation.jsonl: missing")


def test_a_folder_without_a_root_manifest_is_no_release(release: Path) -> None:
    (release / "release.json").unlink()
    expect_fault(release, "release.json: no such file", code=2)


@pytest.mark.parametrize("file", ["extra.txt", ".hidden", "data/tokens/train/000001.jsonl.zst", "runs/mobilellm/x/y"])
def test_an_extra_file_is_named(release: Path, file: str) -> None:
    (release / file).parent.mkdir(parents=True, exist_ok=True)
    (release / file).write_bytes(b"more")
    expect_fault(release, "1 other files", file, code=3)


def test_an_extra_file_in_the_sums_is_a_fault_because_the_two_lists_disagree(release: Path) -> None:
    (release / "extra.txt").write_bytes(b"more")
    reseal_sums(release)
    expect_fault(release, "extra.txt: SHA256SUMS lists it, release.json does not", "1 faults")


def test_a_file_that_the_sums_leave_out_is_a_fault(release: Path) -> None:
    lines = (release / "SHA256SUMS").read_text().splitlines(keepends=True)
    (release / "SHA256SUMS").write_text("".join(line for line in lines if "README.md" not in line))
    expect_fault(release, "README.md: SHA256SUMS does not list it", "1 faults")


def test_a_file_among_the_signatures_that_signs_nothing_is_no_part_of_the_release(release: Path) -> None:
    (release / "signatures").mkdir()
    (release / "signatures" / "somebody.sig").write_bytes(b"trust me")
    expect_fault(release, "signatures/somebody.sig", "unsigned: nobody has signed this release", code=3)


def test_an_empty_folder_is_no_file(release: Path) -> None:
    """Neither Git nor an object store can hold one, so a release does not say anything about it."""
    (release / "empty" / "folder").mkdir(parents=True)
    assert everystep("verify", release).code == 0


@pytest.mark.parametrize("file", ["README.md", "data/tokens/train.parquet", "release.json", "SHA256SUMS"])
def test_a_link_in_the_place_of_a_file_is_not_followed_though_its_content_is_the_same(release: Path, file: str) -> None:
    aside = release.parent / "aside"
    (release / file).rename(aside)
    (release / file).symlink_to(aside)
    expect_fault(release, f"1 links in place of files were not followed: {file}", code=4)


@pytest.mark.timeout(60)
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(release: Path) -> None:
    (release / "README.md").unlink()
    os.mkfifo(release / "README.md")
    expect_fault(release, "README.md")


def test_a_folder_in_the_place_of_a_file_is_named(release: Path) -> None:
    for file in ("README.md", "SHA256SUMS"):
        (release / file).unlink()
        (release / file).mkdir()
    expect_fault(release, "README.md", "SHA256SUMS")


UNPRIVILEGED = ["unshare", "--user"] if os.geteuid() == 0 else []
"""Who is root reads every file; root of no user namespace does not."""


@pytest.mark.parametrize("file", ["README.md", "data/tokens/train.parquet", "SHA256SUMS", "release.json"])
def test_a_file_that_cannot_be_read_is_one_fault_and_the_others_are_checked(release: Path, file: str) -> None:
    (release / file).chmod(0)
    flip(release / "NOTICE", 0.5)
    command = [*UNPRIVILEGED, sys.executable, "-m", "pipeline.cli", "verify", str(release), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    changed = "NOTICE: its content is not what release.json promises"
    others = [] if file == "release.json" else [changed]  # without it nothing is promised
    assert sorted(json.loads(done.stdout)["faults"]) == sorted([f"{file}: cannot be read: Permission denied", *others])


@pytest.mark.parametrize("file", ["README.md", f"runs/{MODEL}/step000004-tokens1024/model.safetensors"])
def test_a_file_that_changes_after_its_digest_was_taken_is_a_fault(
    release: Path, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_first(*arguments: Any) -> list[str]:
        os.utime(release / file)
        return chain_faults(*arguments)

    monkeypatch.setattr(verify, "chain_faults", change_first)
    expect_fault(release, f"{file}: changed while it was verified", "1 faults")


# Code, which whoever loads a checkpoint runs


def test_edited_remote_code_is_a_fault_though_all_digests_are_right(release: Path) -> None:
    path = "trainer/remote/modeling_everystep_openelm.py"
    with (release / path).open("a") as file:
        file.write("print('mine')\n")
    reseal_file(release, path)
    expect_fault(release, f"{path}: not the code of this installation", "1 faults")


@pytest.mark.parametrize(
    "path", ["trainer/remote/more.py", "setup.py", "trainer/recipe.py", "pytorch_model.bin", "data/tokens/x.SO"]
)
def test_any_other_code_in_a_release_is_a_fault_though_all_digests_are_right(release: Path, path: str) -> None:
    content = (ROOT / path).read_bytes() if path == "trainer/recipe.py" else b"import os\n"
    (release / path).write_bytes(content)
    reseal_file(release, path)
    expect_fault(release, f"{path}: code that Everystep did not write")


# Attackers


@pytest.mark.parametrize("files", [["model.safetensors"], ["model.safetensors", "optimizer.safetensors"]])
def test_swapped_checkpoints_are_found_by_the_log(release: Path, files: list[str]) -> None:
    for file in files:
        swap(checkpoint(release, MODEL, 2) / file, checkpoint(release, MODEL, 4) / file)
    reseal_model(release, MODEL)
    reseal(release)
    expect_fault(release, "step000002-tokens512", "log")


def test_swapped_checkpoints_are_found_though_the_log_forgot_their_digests(release: Path) -> None:
    swap(checkpoint(release, MODEL, 2) / "model.safetensors", checkpoint(release, MODEL, 4) / "model.safetensors")

    def forget(entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            entry["weights_digest"] = None

    edit_log(release, MODEL, forget)
    reseal_model(release, MODEL)
    reseal(release)
    expect_fault(release, f"runs/{MODEL}/log.jsonl")


def test_weights_that_no_optimizer_reaches_are_found_though_the_log_agrees(release: Path) -> None:
    swap(checkpoint(release, MODEL, 2) / "model.safetensors", checkpoint(release, MODEL, 4) / "model.safetensors")

    def exchange(entries: list[dict[str, Any]]) -> None:
        two, four = entries[1], entries[3]
        two["weights_digest"], four["weights_digest"] = four["weights_digest"], two["weights_digest"]

    edit_log(release, MODEL, exchange)
    reseal_model(release, MODEL)
    reseal_with_page(release)
    pair = f"runs/{MODEL}: from step000001-tokens256 to step000002-tokens512"
    expect_fault(release, f"{pair}, the weight of embedding.weight[", "it cannot move farther than ")


def test_moments_that_do_not_belong_together_are_found(release: Path) -> None:
    path = checkpoint(release, MODEL, 8) / "optimizer.safetensors"
    tensors = ck.read_tensors(path)
    ck.write_tensors(path, tensors | {name: 9 * tensors[name] for name in tensors if name.startswith("first.")})
    reseal_model(release, MODEL)
    reseal_with_page(release)
    expect_fault(release, "from step000004-tokens1024 to step000008-tokens2048, the first moment of ")


def test_a_learning_rate_that_the_recipe_does_not_give_is_found(release: Path) -> None:
    """With a rate that is large enough, weights could come from anywhere."""
    edit_log(release, MODEL, lambda entries: entries[2].update(learning_rate=1.0))
    reseal(release)
    expect_fault(release, f"runs/{MODEL}/log.jsonl: has learning_rate 1.0 at step 3, the recipe makes it ")


def test_a_state_without_its_moments_is_found(release: Path) -> None:
    path = checkpoint(release, MODEL, 8) / "optimizer.safetensors"
    tensors = ck.read_tensors(path)
    ck.write_tensors(path, {name: tensors[name] for name in tensors if name != "first.embedding.weight"})
    reseal_model(release, MODEL)
    reseal_with_page(release)
    expect_fault(release, "optimizer.safetensors: does not hold two moments of each weight")


def test_a_log_without_some_steps_is_found(release: Path) -> None:
    edit_log(release, MODEL, lambda entries: entries.pop(5))
    reseal(release)
    expect_fault(release, f"runs/{MODEL}/log.jsonl")


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("loss", "step000004-tokens1024: its record says loss"),
        ("learning_rate", "log.jsonl: has learning_rate"),
        ("tokens", "log.jsonl:4: has 512 tokens, the recipe makes it 1024"),
    ],
)
def test_a_log_that_tells_another_story_than_records_or_recipe_is_found(release: Path, key: str, named: str) -> None:
    def edit(entries: list[dict[str, Any]]) -> None:
        entries[3][key] = type(entries[3][key])(entries[3][key] / 2)

    edit_log(release, MODEL, edit)
    reseal(release)
    expect_fault(release, named)


def test_renamed_checkpoints_are_found(release: Path) -> None:
    swap(checkpoint(release, MODEL, 2), checkpoint(release, MODEL, 4))
    reseal(release)
    expect_fault(release, "step000002-tokens512")


def test_one_set_of_weights_under_two_steps_is_found(release: Path) -> None:
    shutil.copyfile(
        checkpoint(release, MODEL, 8) / "model.safetensors", checkpoint(release, MODEL, 4) / "model.safetensors"
    )

    def repeat(entries: list[dict[str, Any]]) -> None:
        entries[3]["weights_digest"] = entries[7]["weights_digest"]

    edit_log(release, MODEL, repeat)
    reseal_model(release, MODEL)
    reseal(release)
    expect_fault(release, "step000008-tokens2048", "same weights as step000004-tokens1024")


def test_a_checkpoint_left_out_everywhere_is_found_by_the_schedule(release: Path) -> None:
    shutil.rmtree(checkpoint(release, MODEL, 4))
    manifest = read_json(release / MANIFEST)
    manifest["checkpoints"] = [entry for entry in manifest["checkpoints"] if entry["step"] != 4]
    write_json(release / MANIFEST, manifest)
    revisions = (release / "revisions.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in revisions if MODEL not in line or "step000004" not in line]
    (release / "revisions.jsonl").write_text("".join(kept))
    reseal_model(release, MODEL)
    reseal(release)
    expect_fault(release, "[0, 1, 2, 4, 8]")


def test_a_checkpoint_of_another_model_is_found(release: Path) -> None:
    path = checkpoint(release, MODEL, 4) / "record.json"
    write_json(path, read_json(path) | {"model": "openelm"})
    reseal(release)
    expect_fault(release, "step000004-tokens1024: holds openelm step000004-tokens1024")


def test_a_checkpoint_with_another_config_than_the_model_is_found(release: Path) -> None:
    path = checkpoint(release, MODEL, 4) / "config.json"
    write_json(path, read_json(path) | {"rotary_base": 500.0})
    reseal(release)
    expect_fault(release, "step000004-tokens1024/config.json")


def test_a_recipe_that_is_not_the_one_in_the_manifest_is_found(release: Path) -> None:
    path = release / "recipes" / f"{MODEL}.yaml"
    write_json(path, read_json(path) | {"seed": 2})
    reseal(release)
    expect_fault(release, f"recipes/{MODEL}.yaml")


def test_revisions_that_name_another_state_are_found(release: Path) -> None:
    path = release / "revisions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[2]["revision"], lines[3]["revision"] = lines[3]["revision"], lines[2]["revision"]
    path.write_text("".join(json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n" for line in lines))
    reseal(release)
    expect_fault(release, "revisions.jsonl")


def test_a_manifest_that_speaks_of_another_model_is_found(release: Path) -> None:
    """Else the checkpoints of the first would never pass the gate."""
    (release / MANIFEST).write_bytes((release / "manifests" / "models" / "openelm.json").read_bytes())
    reseal(release)
    expect_fault(release, MANIFEST)


def test_a_model_without_its_manifest_is_found(release: Path) -> None:
    (release / MANIFEST).unlink()
    reseal(release)
    expect_fault(release, MODEL)


def test_rows_that_their_manifest_does_not_promise_are_found(release: Path) -> None:
    tree = read_json(release / "manifests" / "tokens.json")
    write_json(release / "manifests" / "tokens.json", tree | {"outputs": {**tree["outputs"], "train": []}})
    reseal(release)
    expect_fault(release, "data/tokens/train/000000.jsonl.zst")


def test_a_manifest_built_from_another_manifest_is_found(release: Path) -> None:
    tree = read_json(release / MANIFEST)
    write_json(release / MANIFEST, tree | {"inputs": {**tree["inputs"], "manifests/tokens.json": "0" * 64}})
    reseal_file(release, MANIFEST)
    expect_fault(release, f"{MANIFEST}: was built from another manifests/tokens.json")


def set_path(tree: Any, keys: list[str | int], value: Any) -> None:
    for key in keys[:-1]:
        tree = tree[key]
    tree[keys[-1]] = value


@pytest.mark.parametrize("path", ["../outside.json", "/etc/passwd", "a\nb", ""])
@pytest.mark.parametrize(
    ("file", "keys"),
    [
        ("manifests/tokens.json", ["outputs", "train", 0, "path"]),
        (MANIFEST, ["checkpoints", 1, "revision"]),
        (MANIFEST, ["of"]),
    ],
)
def test_a_path_that_leaves_the_release_is_refused(release: Path, file: str, keys: list[str | int], path: str) -> None:
    (release.parent / "outside.json").write_text("{}")
    tree = read_json(release / file)
    set_path(tree, keys, path)
    write_json(release / file, tree)
    reseal_file(release, file)
    expect_fault(release, file)


@pytest.mark.parametrize("path", ["../outside.json", "/etc/passwd"])
def test_the_root_the_sums_and_inputs_reach_nothing_outside(release: Path, path: str) -> None:
    (release.parent / "outside.json").write_text("{}")
    tree = read_json(release / MANIFEST)
    write_json(release / MANIFEST, tree | {"inputs": {path: "0" * 64}})
    reseal_file(release, MANIFEST)
    expect_fault(release, MANIFEST, path)
    root = read_json(release / "release.json")
    root["files"][path] = {"digest": "0" * 64, "kind": "file"}
    write_json(release / "release.json", root)
    reseal_sums(release)
    expect_fault(release, path)
    with (release / "SHA256SUMS").open("a") as sums:
        sums.write(f"{'0' * 64}  {path}\n")
    expect_fault(release, path)


BREAK: dict[str, Callable[[Any], Any]] = {
    "no inputs": lambda tree: {key: value for key, value in tree.items() if key != "inputs"},
    "no outputs": lambda tree: {key: value for key, value in tree.items() if key != "outputs"},
    "inputs are a list": lambda tree: tree | {"inputs": ["x"]},
    "outputs are numbers": lambda tree: tree | {"outputs": {"train": [1], "log": [1]}},
    "another stage": lambda tree: tree | {"stage": "nonsense"},
    "stage is a list": lambda tree: tree | {"stage": []},
    "no stage": lambda tree: {key: value for key, value in tree.items() if key != "stage"},
    "checkpoints are numbers": lambda tree: tree | {"checkpoints": [1]},
    "checkpoints say nothing": lambda tree: tree | {"checkpoints": [{}]},
    "unknown key of a checkpoint": lambda tree: tree | {"checkpoints": [tree["checkpoints"][0] | {"x": 1}]},
    "no parameters": lambda tree: tree | {"parameters": {}},
    "no tree": lambda tree: [],
}


@pytest.mark.parametrize("how", BREAK)
def test_a_misshapen_manifest_is_one_line_and_no_traceback(release: Path, how: str) -> None:
    write_json(release / MANIFEST, BREAK[how](read_json(release / MANIFEST)))
    reseal_file(release, MANIFEST)
    expect_fault(release, MANIFEST)


@pytest.mark.parametrize("entry", [None, "x", [], {}, {"kind": "file"}, {"kind": "nonsense", "digest": "0" * 64}])
def test_a_misshapen_root_manifest_is_one_line_and_no_traceback(release: Path, entry: Any) -> None:
    root = read_json(release / "release.json")
    root["files"]["README.md"] = entry
    write_json(release / "release.json", root)
    reseal_sums(release)
    done = everystep("verify", release)
    assert done.code in (1, 2)
    assert "README.md" in done.said
    assert "release.json" in done.said


@pytest.mark.parametrize("line", ["", "not json", "[]", "{}", '{"model": "mobilellm"}', '{"model": 1, "step": []}'])
def test_misshapen_logs_and_revisions_are_named(release: Path, line: str) -> None:
    for file in (f"runs/{MODEL}/log.jsonl", "revisions.jsonl"):
        content = (release / file).read_text()
        (release / file).write_text(content.split("\n", 1)[0] + f"\n{line}\n")
        reseal(release)
        expect_fault(release, file)
        (release / file).write_text(content)
