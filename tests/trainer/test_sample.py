"""`everystep sample`: a verified checkpoint continues a text; every draw is a function of the seed and the position."""

import codecs
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from pipeline.base.errors import EverystepError, how_to_install
from pipeline.formats import checkpoints as ck
from pipeline.formats.vocabulary import token_texts
from tests.project import run
from tests.releases import checkpoint, copied, everystep, flip, read_json, reseal, reseal_model, reseal_sums, write_json
from tests.trainer.tiny import tiny_spec
from trainer.model import Decoder, initialize
from trainer.sample import continuation, draw

CONTEXT = 32  # of the small project
GREEDY: dict[str, Any] = {"temperature": 0.0, "top_k": 1, "seed": 0}


def sample(folder: Path, *more: str, model: str = "mobilellm") -> Any:
    """The real command in its own process, because it enters a numerics class."""
    return run(folder.parent, "everystep", "sample", folder.name, "--model", model, *more, check=False)


def answer(folder: Path, *more: str, model: str = "mobilellm") -> Any:
    done = sample(folder, "--json", *more, model=model)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def logits(seed: int = 0, size: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=size)


# One draw


def test_a_draw_is_a_function_of_its_arguments_and_touches_no_generator() -> None:
    def states() -> tuple[list[int], list[int]]:
        return torch.get_rng_state().tolist(), np.random.get_state(legacy=False)["state"]["key"].tolist()

    before = states()
    drawn = [draw(logits(), position, temperature=0.8, top_k=50, seed=7) for position in range(300)]
    again = [draw(logits(), position, temperature=0.8, top_k=50, seed=7) for position in reversed(range(300))]
    assert drawn == again[::-1]
    assert len(set(drawn)) > 10
    assert drawn != [draw(logits(), position, temperature=0.8, top_k=50, seed=8) for position in range(300)]
    assert states() == before


def test_draws_follow_the_softmax_of_the_likeliest() -> None:
    values, temperature, top_k, count = logits(3), 0.7, 8, 40_000
    drawn = [draw(values, position, temperature=temperature, top_k=top_k, seed=1) for position in range(count)]
    kept = np.sort(np.argsort(-values)[:top_k])
    expected = np.exp(values[kept] / temperature) / np.exp(values[kept] / temperature).sum()
    found = np.bincount(drawn, minlength=len(values))
    assert set(np.flatnonzero(found)) == set(kept)
    deviations = np.sqrt(count * expected * (1 - expected))
    assert (abs(found[kept] - count * expected) < 5 * deviations).all()


def test_temperature_zero_and_top_one_are_greedy() -> None:
    for seed in range(20):
        values = logits(seed)
        assert draw(values, 5, temperature=0.0, top_k=50, seed=seed) == values.argmax()
        assert draw(values, 5, temperature=0.8, top_k=1, seed=seed) == values.argmax()


def test_of_equal_logits_the_lower_id_comes_first() -> None:
    assert draw(np.zeros(9), 0, temperature=0.0, top_k=9, seed=0) == 0
    assert {draw(np.zeros(9), position, temperature=1.0, top_k=2, seed=0) for position in range(50)} == {0, 1}


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(EverystepError, match="diverged"):
        draw(np.array([0.0, np.nan]), 0, temperature=0.8, top_k=2, seed=0)


# A continuation


@pytest.mark.parametrize("family", ["mobilellm", "mobilellm-ls", "mobillama", "openelm"])
@pytest.mark.parametrize("length", [1, 2, 20])
@torch.no_grad()
def test_the_cache_changes_no_token(family: str, length: int) -> None:
    model = Decoder(tiny_spec(family))
    initialize(model, 3)
    prompt = np.random.default_rng(5).integers(0, 320, length).tolist()
    found = list(continuation(model, prompt, 320, lambda logits_V, _: draw(logits_V, 0, **GREEDY)))
    expected = list(prompt)
    while len(expected) <= model.spec.context:
        expected.append(int(model(torch.tensor([expected]))[0, -1].argmax()))
    assert prompt + found == expected


def test_ids_that_pad_the_embedding_are_never_drawn() -> None:
    model = Decoder(tiny_spec())
    initialize(model, 3)
    found = list(continuation(model, [1], 7, lambda logits_V, p: draw(logits_V, p, temperature=9.0, top_k=99, seed=0)))
    assert len(found) == model.spec.context and max(found) < 7


# The command


def test_the_prompt_comes_first_and_the_same_seed_says_the_same(built_project: Path) -> None:
    release = built_project / "release"
    said = [sample(release, "--prompt", "the river", "--tokens", "9", "--seed", seed).stdout for seed in "445"]
    assert said[0] == said[1] != said[2]
    assert said[0].startswith("the river") and said[0].endswith("\n")


def test_text_is_the_bytes_of_the_tokens_and_the_step_is_the_last_one(built_project: Path) -> None:
    release = built_project / "release"
    found = answer(release, "--prompt", "the river", "--tokens", "12", "--temperature", "0", model="openelm")
    assert found["ended"] == "as many tokens as asked"
    texts = token_texts(release / "data" / "tokenizer" / "tokenizer.json")
    assert found["text"] == b"".join(texts[token] for token in found["token_ids"]).decode("utf-8", "replace")
    assert (found["model"], found["prompt"], len(found["token_ids"])) == ("openelm", "the river", 12)
    record = read_json(checkpoint(release, "openelm", 8) / "record.json")
    assert (found["revision"], found["weights_digest"]) == (record["revision"], record["weights_digest"])


def test_greedy_is_what_transformers_generates_from_the_pulled_checkpoint(built_project: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    release, pulled = built_project / "release", tmp_path / "pulled"
    everystep("pull", release, "--model", "mobilellm", "--step", "8", "--out", pulled)
    found = answer(release, "--step", "8", "--prompt", "the river", "--tokens", "10", "--temperature", "0")
    prompt = Tokenizer.from_file(str(pulled / "tokenizer.json")).encode("the river").ids
    theirs = AutoModelForCausalLM.from_pretrained(pulled).generate(torch.tensor([prompt]), max_new_tokens=10)
    assert theirs[0, len(prompt) :].tolist() == found["token_ids"]


def test_a_project_is_sampled_before_anything_is_released(built_project: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for part in ("data/tokenizer", "manifests", "runs"):
        copied(built_project / part, project / part)
    more = ("--prompt", "the", "--tokens", "5", "--top-k", "3")
    assert answer(project, *more) == answer(built_project / "release", *more)
    flip(checkpoint(project, "mobilellm", 8) / "model.safetensors", 0.9)
    done = sample(project, *more)
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr
    record = checkpoint(project, "mobilellm", 4) / "record.json"
    write_json(record, read_json(record) | {"loss": 0.5})
    done = sample(project, *more)
    assert done.returncode == 1
    assert "not the checkpoint that manifests/models/mobilellm.json promises" in done.stderr


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "record.json"])
def test_a_tampered_checkpoint_says_nothing(built_project: Path, tmp_path: Path, file: str) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    flip(checkpoint(release, "mobilellm", 8) / file, 0.9)
    reseal_sums(release)
    done = sample(release)
    assert done.returncode in (1, 2)
    assert file in done.stderr and done.stdout == ""


def test_the_end_of_the_context_is_said(built_project: Path) -> None:
    release = built_project / "release"
    done = sample(release, "--temperature", "0")
    assert done.returncode == 0
    assert f"stopped at the end of the context, after {CONTEXT} of 64 tokens" in done.stderr


def test_the_end_token_ends_the_text(built_project: Path, tmp_path: Path) -> None:
    """With weights of zero all logits are equal, and greedy takes the first id: the end token."""
    release = copied(built_project / "release", tmp_path / "release")
    path = checkpoint(release, "mobilellm", 8) / ck.WEIGHTS
    ck.write_tensors(path, {name: np.zeros_like(tensor) for name, tensor in ck.read_tensors(path).items()})
    reseal_model(release, "mobilellm")
    reseal(release)
    done = sample(release, "--prompt", "the river", "--temperature", "0")
    assert (done.returncode, done.stdout) == (0, "the river\n")
    assert "stopped at the end of the document, after 1 of 64 tokens" in done.stderr


def test_a_prompt_that_fills_the_context_gets_one_token_and_a_longer_one_is_refused(built_project: Path) -> None:
    release = built_project / "release"
    tokenizer = Tokenizer.from_file(str(release / "data" / "tokenizer" / "tokenizer.json"))
    fits, longer = ("~" * CONTEXT, "~" * (CONTEXT + 1))
    assert [len(tokenizer.encode(text).ids) for text in (fits, longer)] == [CONTEXT, CONTEXT + 1]
    assert len(answer(release, "--prompt", fits)["token_ids"]) == 1
    done = sample(release, "--prompt", longer)
    assert done.returncode == 2
    assert f"--prompt: {CONTEXT + 1} tokens do not fit the context of mobilellm, {CONTEXT}" in done.stderr


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--step", "9"], "0, 1, 2, 4, 8"),
        (["--temperature", "-1"], "--temperature"),
        (["--temperature", "nan"], "--temperature"),
        (["--top-k", "0"], "--top-k"),
        (["--tokens", "0"], "--tokens"),
        (["--seed", "-1"], "--seed"),
        (["--prompt", "\udcff"], "not UTF-8"),
    ],
    ids=str,
)
def test_misuse_is_named(built_project: Path, more: list[str], named: str) -> None:
    done = everystep("sample", built_project / "release", "--model", "mobilellm", *more)
    assert done.code == 2
    assert named in done.err


def test_a_prompt_without_the_tokenizer_library_is_told_what_to_install(built_project: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TOKENIZERS)
    environment: dict[str, Any] = {"PYTHONPATH": str(tmp_path)}
    release = built_project / "release"
    command = ("everystep", "sample", str(release), "--model", "mobilellm", "--tokens", "3")
    assert run(tmp_path, *command, **environment).returncode == 0
    done = run(tmp_path, *command, "--prompt", "x", check=False, **environment)
    assert done.returncode == 2
    assert f"--prompt: needs the library tokenizers; {how_to_install('train')}" in done.stderr


WITHOUT_TOKENIZERS = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tokenizers":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
"""


def test_characters_come_out_whole_and_cannot_steer_the_terminal() -> None:
    pieces = ["naïve ", "日本", "\x1b[2J", "\x9b", "\tx\n"]
    code = f"from pipeline.cli.common import show_text\nfor piece in {pieces!r}: show_text(piece)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode() == "naïve 日本␛[2J\\x9b\tx\n"


def test_partial_characters_wait_for_their_last_byte() -> None:
    """What the command relies on: an incremental decoder says nothing early, and nothing twice."""
    written, content = codecs.getincrementaldecoder("utf-8")("replace"), "é日\U0001f600".encode() + b"\xff\xe6"
    pieces = [written.decode(bytes([byte])) for byte in content] + [written.decode(b"", final=True)]
    assert pieces == ["", "é", "", "", "日", "", "", "", "\U0001f600", "\ufffd", "", "\ufffd"]
