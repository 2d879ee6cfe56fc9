"""`everystep average`: the mean of a model's last checkpoints, verified, as a folder that transformers loads."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from pipeline.base.files import list_files
from pipeline.formats.digests import tensors_digest
from pipeline.formats.model import ModelSpec
from tests.releases import checkpoint, copied, everystep, flip, read_json, reseal_sums
from trainer.model import Decoder, load_tensors


def numpys_mean(release: Path, model: str, steps: tuple[int, ...]) -> dict[str, np.ndarray]:
    states = [load_file(checkpoint(release, model, step) / "model.safetensors") for step in steps]
    return {
        name: np.asarray(np.mean([state[name] for state in states], axis=0, dtype=np.float64), np.float32)
        for name in states[0]
    }


@pytest.mark.parametrize("model", ["mobilellm", "openelm"])
@torch.no_grad()
def test_it_is_numpys_float64_mean_and_transformers_loads_it(built_project: Path, tmp_path: Path, model: str) -> None:
    release, out = built_project / "release", tmp_path / "mean"
    done = everystep("average", release, "--model", model, "--last", "3", "--out", out)
    assert (done.code, done.err.count("\n"), "rung 1 of 5 (files)" in done.err) == (0, 1, True)
    expected = numpys_mean(release, model, (2, 4, 8))
    assert read_json(out / "everystep.json")["weights_digest"] == tensors_digest(expected)
    ours = Decoder(ModelSpec.from_json(read_json(checkpoint(release, model, 8) / "config.json")))
    load_tensors(ours, expected)
    theirs = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    tokens_BT = torch.arange(30)[None]
    torch.testing.assert_close(theirs(tokens_BT).logits, ours(tokens_BT), rtol=1e-5, atol=1e-5)


def test_what_was_averaged_is_named_with_its_digests(built_project: Path, tmp_path: Path) -> None:
    release, out = built_project / "release", tmp_path / "mean"
    done = everystep("average", release, "--model", "mobilellm", "--last", "2", "--out", out)
    said = read_json(out / "everystep.json")
    records = [read_json(checkpoint(release, "mobilellm", step) / "record.json") for step in (4, 8)]
    assert [state.items() <= record.items() for state, record in zip(said["mean_of"], records, strict=True)] == [
        True
    ] * 2
    assert {"revision", "weights_digest", "state_digest"} <= said["mean_of"][0].keys()
    assert said["release"] == read_json(release / "release.json")["name"]
    assert all(record["revision"] in done.out for record in records)


def test_averaging_twice_gives_the_same_bytes(built_project: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        everystep("average", built_project / "release", "--model", "openelm", "--last", "4", "--out", tmp_path / name)
    files = list_files(tmp_path / "a")
    assert files == list_files(tmp_path / "b") != []
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    ("last", "named"), [("1", "--last"), ("0", "--last"), ("5", "1, 2, 4, 8"), ("6", "step 0, which is untrained")]
)
def test_fewer_than_two_and_more_than_were_trained_are_refused(
    built_project: Path, tmp_path: Path, last: str, named: str
) -> None:
    done = everystep(
        "average", built_project / "release", "--model", "openelm", "--last", last, "--out", tmp_path / "m"
    )
    assert done.code == 2
    assert named in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [4, 8])
def test_one_tampered_checkpoint_is_enough_to_refuse(built_project: Path, tmp_path: Path, step: int) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    flip(checkpoint(release, "mobilellm", step) / "model.safetensors", 0.9)
    reseal_sums(release)
    done = everystep("average", release, "--model", "mobilellm", "--last", "2", "--out", tmp_path / "mean")
    assert done.code == 1
    assert f"step{step:06d}" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_what_exists_is_never_written_over(built_project: Path, tmp_path: Path) -> None:
    done = everystep("average", built_project / "release", "--model", "openelm", "--last", "2", "--out", tmp_path)
    assert done.code == 2
    assert "already exists" in done.err
