"""`everystep pull`: one checkpoint as transformers loads it; nothing is written from a source that differs."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.base.files import list_files
from pipeline.formats.model import ModelSpec
from pipeline.formats.release import Kind, content_digest
from pipeline.formats.rows import Rows
from pipeline.formats.stages import manifest_path
from tests.project import MODELS, ROOT
from tests.releases import (
    checkpoint,
    copied,
    everystep,
    flip,
    read_json,
    reseal,
    reseal_file,
    reseal_sums,
    shards_of,
    write_json,
)
from trainer.model import Decoder, load_tensors

WITHOUT = """
import sys
from tests.releases import read_json, shards_of
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "dvc", "datasets", "tokenizers", "datatrove", "transformers"):
            raise ImportError(f"a reader does not need {name}")
sys.meta_path.insert(0, Refuse())
from pipeline.cli.program import main
sys.argv = ["everystep", *sys.argv[1:]]
main()
"""


@pytest.fixture
def release(built_project: Path, tmp_path: Path) -> Path:
    return copied(built_project / "release", tmp_path / "release")


def released_row(release: Path, number: int) -> np.ndarray:
    tokens = read_json(release / manifest_path("tokenize"))
    rows = Rows(release / "data" / "tokens", shards_of(tokens, "train"), tokens["width"], tokens["vocabulary"])
    return rows[number]


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_transformers_gives_the_trainers_logits_on_a_released_row(
    built_project: Path, tmp_path: Path, model: str
) -> None:
    release, out = built_project / "release", tmp_path / "pulled"
    done = everystep("pull", release, "--model", model, "--step", "4", "--out", out)
    assert (done.code, done.err.count("\n"), "rung 1 of 5 (files)" in done.err) == (0, 1, True)
    assert str(out) in done.out
    assert ("trust_remote_code" in done.out) == (model == "openelm")
    theirs = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    folder = checkpoint(release, model, 4)
    ours = Decoder(ModelSpec.from_json(read_json(folder / "config.json")))
    load_tensors(ours, load_arrays(folder / "model.safetensors"))
    row_BT = torch.from_numpy(released_row(release, 7))[None, :-1]
    torch.testing.assert_close(theirs(row_BT).logits, ours(row_BT), rtol=1e-5, atol=1e-5)


def test_the_pulled_tokenizer_reads_released_rows_back(built_project: Path, tmp_path: Path) -> None:
    release, out = built_project / "release", tmp_path / "pulled"
    everystep("pull", release, "--model", "mobilellm", "--step", "8", "--out", out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    text = tokenizer.decode(released_row(release, 3))
    assert "\ufffd" not in text
    assert tokenizer.eos_token == "<|endoftext|>"
    words = tokenizer(" the river and the mountain")["input_ids"]
    assert tokenizer.decode(words) == " the river and the mountain"


def test_what_was_pulled_says_which_state_of_which_release_it_is(built_project: Path, tmp_path: Path) -> None:
    release, out = built_project / "release", tmp_path / "pulled"
    everystep("pull", release, "--model", "mobilellm", "--step", "2", "--out", out)
    said, record = read_json(out / "everystep.json"), read_json(checkpoint(release, "mobilellm", 2) / "record.json")
    assert said.items() >= record.items()
    assert said["release"] == read_json(release / "release.json")["name"]


def test_pulling_twice_gives_the_same_bytes(built_project: Path, tmp_path: Path) -> None:
    release = built_project / "release"
    for name in ("a", "b"):
        everystep("pull", release, "--model", "openelm", "--step", "1", "--out", tmp_path / name)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    "file",
    [
        "runs/openelm/step000004-tokens1024/model.safetensors",
        "runs/openelm/step000004-tokens1024/record.json",
        "runs/openelm/step000004-tokens1024/config.json",
        "data/tokenizer/tokenizer.json",
        "trainer/remote/modeling_everystep_openelm.py",
        "manifests/models/openelm.json",
    ],
)
def test_a_tampered_source_is_refused_before_anything_is_written(release: Path, tmp_path: Path, file: str) -> None:
    flip(release / file, 0.9)
    reseal_sums(release)
    done = everystep("pull", release, "--model", "openelm", "--step", "4", "--out", tmp_path / "pulled")
    assert done.code in (1, 2)
    assert file in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


def test_edited_remote_code_is_never_handed_out_though_all_digests_are_right(release: Path, tmp_path: Path) -> None:
    path = "trainer/remote/modeling_everystep_openelm.py"
    with (release / path).open("a") as file:
        file.write("print('mine')\n")
    reseal_file(release, path)
    for command in (["pull", "--step", "4"], ["average", "--last", "2"]):
        name, *options = command
        done = everystep(name, release, "--model", "openelm", *options, "--out", tmp_path / "pulled")
        assert done.code == 1
        assert f"{path}: not the code of this installation" in done.err
        assert "trust_remote_code" not in done.said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]
    done = everystep("pull", release, "--model", "mobilellm", "--step", "4", "--out", tmp_path / "pulled")
    assert done.code == 0  # it needs no code, and gets none
    assert not list((tmp_path / "pulled").glob("*.py"))


def test_revisions_that_name_another_state_mislead_nobody(release: Path, tmp_path: Path) -> None:
    path = release / "revisions.jsonl"
    path.write_text(path.read_text().replace("step000004-tokens1024", "step000008-tokens2048"))
    everystep("pull", release, "--model", "mobilellm", "--step", "4", "--out", tmp_path / "pulled")
    assert read_json(tmp_path / "pulled" / "everystep.json")["step"] == 4


def test_a_manifest_that_gives_a_step_another_revision_is_refused(release: Path, tmp_path: Path) -> None:
    path = release / "manifests" / "models" / "mobilellm.json"
    tree = read_json(path)
    tree["checkpoints"][3]["revision"] = tree["checkpoints"][4]["revision"]
    write_json(path, tree)
    reseal(release)
    done = everystep("pull", release, "--model", "mobilellm", "--step", "4", "--out", tmp_path / "pulled")
    assert done.code == 1
    assert "step000008-tokens2048" in done.err
    assert not (tmp_path / "pulled").exists()


def test_several_checkpoints_come_as_folders_named_by_their_step(built_project: Path, tmp_path: Path) -> None:
    """As a loop over steps wants them, each like one that is pulled alone."""
    release, loop = built_project / "release", tmp_path / "loop"
    done = everystep("pull", release, "--model", "openelm", "--step", "8", "--step", "2", "--out", loop)
    assert (done.code, done.err.count("\n"), "rung 1 of 5 (files)" in done.err) == (0, 1, True)
    assert sorted(path.name for path in loop.iterdir()) == ["step2", "step8"]
    assert [line.partition(":")[0] for line in done.out.splitlines()[:-1]] == [f"{loop}/step2", f"{loop}/step8"]
    for step in (2, 8):
        alone = tmp_path / f"alone{step}"
        everystep("pull", release, "--model", "openelm", "--step", str(step), "--out", alone)
        assert list_files(alone) == list_files(loop / f"step{step}")
        assert all(
            (alone / file).read_bytes() == (loop / f"step{step}" / file).read_bytes() for file in list_files(alone)
        )
    AutoModelForCausalLM.from_pretrained(f"{loop}/step8", trust_remote_code=True)


def test_all_checkpoints_or_the_last_one_and_each_shared_file_is_verified_once(
    built_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: Counter[str] = Counter()

    def counted(path: Path, kind: Kind) -> str:
        checked[path.relative_to(built_project / "release").as_posix()] += 1
        return content_digest(path, kind)

    monkeypatch.setattr("pipeline.release.release.content_digest", counted)
    release = built_project / "release"
    assert everystep("pull", release, "--model", "openelm", "--all", "--out", tmp_path / "all").code == 0
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == [f"step{n}" for n in (0, 1, 2, 4, 8)]
    assert checked["data/tokenizer/tokenizer.json"] == 1
    assert not any("optimizer" in path for path in checked)
    assert everystep("pull", release, "--model", "openelm", "--out", tmp_path / "last").code == 0
    assert read_json(tmp_path / "last" / "everystep.json")["step"] == 8


def test_one_bad_checkpoint_among_all_leaves_no_folder(release: Path, tmp_path: Path) -> None:
    flip(checkpoint(release, "mobilellm", 4) / "model.safetensors", 0.9)
    reseal_sums(release)
    done = everystep("pull", release, "--model", "mobilellm", "--all", "--out", tmp_path / "all")
    assert done.code == 1 and "step000004-tokens1024" in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


def test_a_model_may_be_left_out_where_there_is_only_one(release: Path, tmp_path: Path) -> None:
    done = everystep("pull", release, "--out", tmp_path / "pulled")
    assert done.code == 2 and "--model: name one of mobilellm, openelm" in done.err
    (release / "manifests" / "models" / "openelm.json").unlink()
    reseal(release)
    assert everystep("pull", release, "--out", tmp_path / "pulled").code == 0
    assert read_json(tmp_path / "pulled" / "everystep.json")["model"] == "mobilellm"


def test_one_step_and_all_of_them_contradict_each_other(built_project: Path, tmp_path: Path) -> None:
    release = built_project / "release"
    done = everystep("pull", release, "--model", "openelm", "--step", "4", "--all", "--out", tmp_path / "x")
    assert done.code == 2 and "either --step or --all" in done.err


def test_what_was_pulled_carries_its_card_and_licence(
    built_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, out = built_project / "release", tmp_path / "pulled"
    everystep("pull", release, "--model", "openelm", "--step", "4", "--out", out)
    assert (out / "LICENSE").read_bytes() == (release / "LICENSE").read_bytes()
    assert (out / "NOTICE").read_bytes() == (release / "NOTICE").read_bytes()
    assert read_json(out / "everystep.json")["license"] == "Apache-2.0"
    from huggingface_hub import ModelCard

    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    record = read_json(checkpoint(release, "openelm", 4) / "record.json")
    for said in ("revision", "weights_digest", "state_digest"):
        assert f"`{record[said]}`" in card.text
    assert "trust_remote_code=True" in card.text
    for example in re.findall(r"```python\n(.*?)```", card.text, flags=re.S):
        monkeypatch.chdir(out)
        exec(example, {})


@pytest.mark.parametrize("command", ["pull", "average", "export"])
def test_of_four_at_once_one_makes_the_folder_and_three_say_why_not(
    built_project: Path, tmp_path: Path, command: str
) -> None:
    """Each is started at the same moment, a few times over."""
    release = str(built_project / "release")
    arguments = {
        "pull": ["pull", release, "--model", "mobilellm", "--step", "4"],
        "average": ["average", release, "--model", "mobilellm", "--last", "2"],
        "export": ["export", "tokens", release, "--layout", "llm360", "--chunks", "2", "--steps", "8"],
    }[command]
    for turn in range(3):
        out = tmp_path / str(turn) / "out"
        codes = at_once(4, [*arguments, "--out", str(out)])
        assert sorted(code for code, _ in codes) == [0, 2, 2, 2]
        assert all(f"{out}: already exists" in said for code, said in codes if code == 2)
        assert [path.name for path in out.parent.iterdir()] == ["out"]
        assert list_files(out) == list_files(tmp_path / "0" / "out")


def at_once(number: int, arguments: list[str]) -> list[tuple[int, str]]:
    """Exit code and messages of a command run in `number` processes that all wait for one moment to begin."""
    with Pool(number) as pool:
        return pool.starmap(_at, [(time.monotonic() + 0.3, arguments)] * number, chunksize=1)


def _at(moment: float, arguments: list[str]) -> tuple[int, str]:
    time.sleep(max(0.0, moment - time.monotonic()))
    done = everystep(*arguments)
    return done.code, done.err


def test_a_missing_file_is_named(release: Path, tmp_path: Path) -> None:
    shutil.rmtree(checkpoint(release, "mobilellm", 4))
    done = everystep("pull", release, "--model", "mobilellm", "--step", "4", "--out", tmp_path / "pulled")
    assert done.code == 2
    assert "step000004-tokens1024" in done.err


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder"])
def test_what_exists_is_never_written_over(built_project: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "pulled"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        if kind == "folder":
            (out / "mine").write_text("mine")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    done = everystep("pull", built_project / "release", "--model", "mobilellm", "--step", "4", "--out", out)
    assert done.code == 2
    assert f"{out}: already exists" in done.err
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("model", "step", "named"),
    [("gpt", "4", MODELS), ("mobilellm", "9", ["0, 1, 2, 4, 8"]), ("mobilellm", "-1", ["0, 1, 2, 4, 8"])],
)
def test_an_unknown_model_or_step_is_told_what_there_is(
    built_project: Path, tmp_path: Path, model: str, step: str, named: list[str]
) -> None:
    release = built_project / "release"
    done = everystep("pull", release, "--model", model, "--step", step, "--out", tmp_path / "pulled")
    assert done.code == 2
    assert all(name in done.err for name in named)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(built_project: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "pulled"
    done = everystep("pull", built_project / "release", "--model", "mobilellm", "--step", "4", "--out", out)
    assert done.code == 2
    assert str(tmp_path / "file") in done.err


def test_a_reader_needs_neither_torch_nor_dvc_nor_tokenizers(built_project: Path, tmp_path: Path) -> None:
    release = str(built_project / "release")
    for command in (
        ["show", release],
        ["verify", release],
        ["trace", release, "--model", "openelm", "--step", "3"],
        ["pull", release, "--model", "openelm", "--step", "4", "--out", str(tmp_path / "pulled")],
    ):
        code = [sys.executable, "-c", WITHOUT, *command]
        done = subprocess.run(code, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "pulled" / "model.safetensors").is_file()
