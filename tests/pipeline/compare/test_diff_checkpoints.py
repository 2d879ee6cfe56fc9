"""Two checkpoints: of releases, of folders that `pull` wrote, of others' folders; here, and on a web server."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import pretty
from tests.project import ROOT, run
from tests.releases import checkpoint, copied, everystep, flip
from tests.servers.hub import environment, running_hub
from tests.servers.web import serve_folder

INDEX = "model.safetensors.index.json"


@pytest.fixture
def released(built_project: Path) -> Path:
    return built_project / "release"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def told(*arguments: str | Path, code: int = 1) -> Any:
    done = everystep("diff", *arguments, "--json")
    assert done.code == code, done.said
    return json.loads(done.out)


def foreign(folder: Path, step: int, dtype: torch.dtype = torch.bfloat16, shards: int = 2) -> Path:
    """A checkpoint as others publish them: sharded, with an index, in bfloat16."""
    draw = torch.Generator().manual_seed(1)
    tensors = {f"layers.{i}.weight": torch.randn(64, 64, generator=draw).to(dtype) for i in range(6)}
    tensors["layers.4.weight"][3, 5] += step
    folder.mkdir(parents=True)
    files = [f"model-{i + 1:05}-of-{shards:05}.safetensors" for i in range(shards)]
    placed = {name: files[i % shards] for i, name in enumerate(tensors)}
    for file in files:
        save_file({name: tensor for name, tensor in tensors.items() if placed[name] == file}, folder / file)
    (folder / INDEX).write_bytes(pretty({"metadata": {}, "weight_map": placed}))
    (folder / "config.json").write_bytes(pretty({"model_type": "llama", "hidden_size": 64}))
    return folder


def test_two_states_of_a_release_differ_in_keys_and_tensors(released: Path) -> None:
    tree = told(f"{released}@openelm:4", f"{released}@openelm:8")
    assert {key["where"] for key in tree["keys"]} == {"applied_updates", "learning_rate", "loss", "step", "tokens"}
    left, right = (ck.read_tensors(checkpoint(released, "openelm", step) / ck.WEIGHTS) for step in (4, 8))
    assert [tensor["name"] for tensor in tree["tensors"]] == sorted(left)
    assert tree["compared_tensors"] == len(left)
    for tensor in tree["tensors"]:
        a, b = left[tensor["name"]], right[tensor["name"]]
        assert tensor["differ"] == int((a != b).sum())
        assert tensor["largest"] == float(np.abs(b.astype(np.float64) - a.astype(np.float64)).max())
    assert tree["other_moments"] and tree["moments"] == []
    assert told(f"{released}@openelm:4", f"{released}@openelm:8", "--moments")["moments"]


def test_a_state_is_the_same_in_every_form(released: Path, tmp_path: Path) -> None:
    for model in ("openelm", "mobilellm"):
        state = f"{released}@{model}:4"
        out = tmp_path / model
        assert everystep("pull", released, "--model", model, "--step", "4", "--out", out).code == 0
        trainers = copied(checkpoint(released, model, 4), tmp_path / f"own-{model}")
        on_hub = copied(out, tmp_path / f"hub-{model}")  # as `publish` puts it there
        for name in (ck.RECORD, ck.OPTIMIZER):
            shutil.copy(trainers / name, on_hub)
        pairs: list[tuple[str | Path, str | Path]] = [
            (state, state),
            (state, out),
            (out, state),
            (state, trainers),
            (trainers, out),
            (out, out),
        ]
        for one, other in [*pairs, (on_hub, state), (out, on_hub)]:
            assert told(one, other, code=0)["same"], (one, other)
        with serve_folder(on_hub) as web:
            assert told(state, web.url, code=0)["same"]
            assert told(out, web.url, code=0)["same"]
            assert told(f"{released}@{model}:8", web.url)["tensors"]
        assert "same: the weights have one digest, and were not read" in everystep("diff", state, state).out


@pytest.mark.long
def test_a_virtual_state_is_rebuilt_and_compared(released: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "diff", f"{released}@openelm:6", f"{released}@openelm:8", "--json"]
    done = run(ROOT, *command, check=False)  # a process of its own: training settles how it computes as it starts
    assert done.returncode == 1, done.stderr
    tree = json.loads(done.stdout)
    assert {key["where"] for key in tree["keys"]} >= {"step", "loss"}
    assert tree["tensors"] and tree["compared_tensors"] == len(tree["tensors"])
    assert told(f"{released}@openelm:6", f"{released}@openelm:6", code=0)["same"]  # from the cache


def test_models_of_two_shapes(released: Path) -> None:
    done = everystep("diff", f"{released}@openelm:8", f"{released}@mobilellm:8", "--list", "100")
    assert done.code == 1
    assert "config.family" in done.out or "config.layers" in done.out
    assert "layers.0.attention.output.weight" in done.out or "only in A" in done.out


def test_folders_of_others_are_compared_number_by_number(tmp_path: Path) -> None:
    one, other = foreign(tmp_path / "one", 0), foreign(tmp_path / "other", 1)
    tree = told(one, other)
    (tensor,) = tree["tensors"]
    assert (tensor["name"], tensor["differ"], tensor["first_at"]) == ("layers.4.weight", 1, [3, 5])
    assert told(one, foreign(tmp_path / "whole", 0, shards=1), code=0)["same"]
    wide = foreign(tmp_path / "wide", 0, torch.float32)
    assert [each["a"] for each in told(one, wide)["tensors"]] == ["BF16 [64, 64]"] * 6
    done = everystep("diff", one, other)
    assert "differ: 1 of the 6 tensors of weights in A, 1 of their 4,096 numbers" in done.out


def test_a_single_file_and_links_into_a_cache(tmp_path: Path) -> None:
    one = foreign(tmp_path / "one", 0, shards=1)
    (tmp_path / "linked").mkdir()
    for file in one.iterdir():
        (tmp_path / "linked" / file.name).symlink_to(file)
    assert told(one, tmp_path / "linked", code=0)["same"]
    (file,) = one.glob("*.safetensors")
    assert told(file, one, code=0)["same"]


def test_of_a_folder_elsewhere_headers_move_and_tensors_that_both_have_in_one_shape(tmp_path: Path) -> None:
    one = foreign(tmp_path / "one", 0)
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(one / "config.json", other)
    kept = {"layers.0.weight": torch.zeros(64, 64, dtype=torch.bfloat16), "layers.1.weight": torch.zeros(1 << 16)}
    save_file(kept, other / "model.safetensors")
    with serve_folder(one) as left, serve_folder(other) as right:
        (only,) = told(left.url, foreign(tmp_path / "near", 1))["tensors"]
        assert (only["name"], only["differ"]) == ("layers.4.weight", 1)
        assert told(one, left.url, code=0)["same"]
        tree = told(left.url, right.url)
        moved = right.counted.sent("file")
    sizes = {tensor["name"]: (tensor["a"], tensor["b"], tensor["differ"]) for tensor in tree["tensors"]}
    assert sizes["layers.0.weight"] == ("BF16 [64, 64]", "BF16 [64, 64]", 4096)
    assert sizes["layers.1.weight"] == ("BF16 [64, 64]", "F32 [65536]", None)
    assert sizes["layers.5.weight"][1] is None
    assert moved < 40_000  # of 270,000: the header, the config and one tensor of 8,192 bytes
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_revisions_on_the_hub_whose_files_have_one_sha256_do_not_move(tmp_path: Path) -> None:
    """As a series should be asked: is this step really another one than that? (pythia#205)"""
    folders = [foreign(tmp_path / str(number), step) for number, step in enumerate((1, 2, 2))]
    revisions = [str(number) * 40 for number in (1, 2, 3)]
    with running_hub() as hub:
        files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
        hub.put("models", "someone/series", dict(zip(revisions, files, strict=True)))
        sides = [f"hf://someone/series@{revision}" for revision in revisions]
        command = [sys.executable, "-m", "pipeline.cli", "diff", "--json"]

        def asked(*pair: str) -> tuple[Any, bool]:
            hub.counted.clear()
            done = run(ROOT, *command, *pair, check=False, **environment(hub.url, str(tmp_path / "home")))
            assert done.returncode in (0, 1), done.stderr
            return json.loads(done.stdout), any("/objects/" in request.path for request in hub.counted.requests)

        differ, moved = asked(*sides[:2])
        assert [(each["name"], each["differ"]) for each in differ["tensors"]] == [("layers.4.weight", 1)]
        same, moved_again = asked(*sides[1:])
        assert same["same"] and "one SHA-256, as both stores say" in same["why_unread"]
        assert moved and not moved_again


def test_a_state_elsewhere_moves_nothing_but_what_proves_it(released: Path) -> None:
    with serve_folder(released) as web:
        assert told(f"{web.url}/@openelm:4", f"{released}@openelm:4", code=0)["same"]
        assert not [r for r in web.counted.requests if r.path.endswith((".safetensors", ".parquet", ".zst"))]
        assert told(f"{web.url}/@openelm:4", f"{released}@openelm:8")["tensors"]
        large = {r.path.lstrip("/") for r in web.counted.requests if r.path.endswith(".safetensors")}
        assert large == {"runs/openelm/step000004-tokens1024/model.safetensors"}


def test_a_truncated_file_is_an_error_that_names_it(released: Path, tmp_path: Path) -> None:
    one, other = foreign(tmp_path / "one", 0), foreign(tmp_path / "other", 1)
    shard = next(iter(sorted(other.glob("*.safetensors"))))
    os.truncate(shard, shard.stat().st_size - 10)
    done = everystep("diff", one, other)
    assert done.code == 2 and f"{shard}: not a readable safetensors file" in done.err
    shard.unlink()
    done = everystep("diff", one, other)
    assert done.code == 2 and str(shard) in done.err
    broken = copied(released, tmp_path / "broken")
    flip(checkpoint(broken, "openelm", 8) / ck.WEIGHTS, 0.9)
    done = everystep("diff", f"{broken}@openelm:4", f"{broken}@openelm:8")
    assert done.code == 1 and "model.safetensors: its content is not what release.json promises" in done.err


def test_an_index_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    one, other = foreign(tmp_path / "one", 0), foreign(tmp_path / "other", 0)
    (other / INDEX).write_bytes(pretty({"weight_map": {"x": "../one/model-00001-of-00002.safetensors"}}))
    done = everystep("diff", one, other)
    assert done.code == 2 and "is not a plain relative path" in done.err
    (other / INDEX).write_bytes(pretty({"weight_map": 3}))
    assert "weight_map: expected tensors with the names of their files" in everystep("diff", one, other).err


def test_several_files_without_an_index_and_pickles_are_refused(tmp_path: Path) -> None:
    one, other = foreign(tmp_path / "one", 0), foreign(tmp_path / "other", 0)
    (other / INDEX).unlink()
    done = everystep("diff", one, other)
    assert done.code == 2 and f"several, without {INDEX}" in done.err
    for file in other.glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    done = everystep("diff", one, other)
    assert done.code == 2 and "neither a release, a project, a dvc.lock nor a folder with safetensors" in done.err
