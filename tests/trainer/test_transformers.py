"""Exported folders, read by transformers itself: the same logits, in every way that researchers ask for them.

With the newest transformers, which is installed, and with the oldest that docs/use-checkpoints.md names: the last test
runs this file once more with the libraries of `tests/oldest/transformers.txt` before all others.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, pipeline

from pipeline.audit.export_model import export
from pipeline.formats.model import num_parameters_if_repeated
from pipeline.formats.vocabulary import END_OF_TEXT
from tests.project import ROOT
from tests.trainer.exports import KIN, SUITES, build, read_spec, tokenizer_file, write_pulled
from trainer.model import Cache, Decoder, dump_tensors

torch.set_num_threads(1)

OLDEST, OLD_TOKENIZERS = (Path(sys.prefix) / "oldest" / name for name in ("transformers", "tokenizers"))
PINS = {"oldest": ROOT / "tests" / "oldest" / "transformers.txt", "newest": ROOT / "constraints-dev.txt"}
IS_OLDEST = Path(transformers.__file__).is_relative_to(OLDEST)
KNOWN = [family for family in KIN if not IS_OLDEST or family not in ("qwen3", "smollm3")]
Pair = tuple[Decoder, Any, Path]


def load(folder: Path, kind: Any = AutoModelForCausalLM, **more: Any) -> Any:
    loaded = kind.from_pretrained(folder, trust_remote_code=True, output_loading_info=True, **more)
    model, info = loaded
    assert not any(info.values()), info
    return model


def tokens(model: Decoder, rows: int = 2, length: int = 100) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(1, model.spec.vocabulary, (rows, length)))


def continuation(model: Decoder, prompt_BT: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Greedy decoding without any cache."""
    for _ in range(num_tokens):
        prompt_BT = torch.cat((prompt_BT, model(prompt_BT)[:, -1:].argmax(-1)), dim=1)
    return prompt_BT


@pytest.fixture(scope="module", params=[*SUITES, *(pytest.param(family, marks=pytest.mark.long) for family in KNOWN)])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Our model, transformers' reading of its export, and the folder."""
    model, folder = build(read_spec(request.param)), tmp_path_factory.mktemp(request.param)
    write_pulled(model, folder, tmp_path_factory.mktemp("scratch"))
    return model, load(folder), folder


@torch.no_grad()
def test_transformers_gives_our_logits(pair: Pair) -> None:
    ours, theirs, _ = pair
    tokens_BT = tokens(ours)
    expected_BTV = ours(tokens_BT)
    assert expected_BTV.std() > 0.5
    torch.testing.assert_close(theirs(tokens_BT).logits, expected_BTV, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("family", KNOWN)
def test_a_family_of_others_comes_back_as_their_own_class(family: str, tmp_path: Path) -> None:
    """Its logits, the gradients of all that has a name of its own, and its continuation with a cache."""
    ours, folder = build(read_spec(family)), tmp_path / family
    folder.mkdir()
    write_pulled(ours, folder, tmp_path)
    theirs, rows_BT = load(folder), tokens(ours, length=33)
    assert type(theirs).__module__.startswith("transformers.models.")
    loss = theirs(rows_BT, labels=rows_BT).loss
    loss.backward()
    expected = ours.loss(rows_BT)
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    of_form = export(ours.spec, {name: p.grad.numpy() for name, p in ours.named_parameters() if p.grad is not None}, 0)
    for name, gradient in of_form.tensors.items():
        found = theirs.get_parameter(name).grad
        torch.testing.assert_close(found, torch.from_numpy(gradient), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(theirs(rows_BT).logits, ours(rows_BT), rtol=1e-5, atol=2e-5)
        prompt_BT, cache = rows_BT[:, :20], Cache()
        steps = [ours(prompt_BT, cache)[:, -1:].argmax(-1)]
        for _ in range(4):
            steps.append(ours(steps[-1], cache).argmax(-1))
        mask_BT = torch.ones_like(prompt_BT)
        spoken_BT = theirs.generate(prompt_BT, attention_mask=mask_BT, max_new_tokens=5, eos_token_id=None)
        assert torch.equal(spoken_BT, torch.cat((prompt_BT, *steps), dim=1))
        assert torch.equal(spoken_BT, continuation(ours, prompt_BT, 5))


@torch.no_grad()
@pytest.mark.parametrize("cache", ["dynamic", "none", "static"])
def test_generation_continues_as_we_do_with_any_cache(pair: Pair, cache: str) -> None:
    ours, theirs, _ = pair
    prompt_BT = tokens(ours, length=20)
    ways: dict[str, dict[str, Any]] = {
        "dynamic": {},
        "none": {"use_cache": False},
        "static": {"cache_implementation": "static"},
    }
    how = ways[cache]

    def generate() -> Any:
        mask_BT = torch.ones_like(prompt_BT)
        return theirs.generate(prompt_BT, attention_mask=mask_BT, max_new_tokens=5, eos_token_id=None, **how)

    if cache == "static" and IS_OLDEST and theirs.config.model_type == "openelm":
        with pytest.raises(ValueError, match="does not support `cache_implementation='static'`"):
            generate()
    else:
        assert torch.equal(generate(), continuation(ours, prompt_BT, 5))


@torch.no_grad()
def test_a_batch_padded_on_the_left_continues_each_text(pair: Pair) -> None:
    ours, theirs, _ = pair
    short_BT, long_BT = tokens(ours, rows=1, length=14), tokens(ours, rows=1, length=20)
    mask_BT = torch.ones(2, 20, dtype=torch.long)
    mask_BT[0, :6] = 0
    batch_BT = torch.cat((torch.nn.functional.pad(short_BT, (6, 0)), long_BT))
    how = [{}] if IS_OLDEST else [{}, {"cache_implementation": "static"}]
    for cache in how:
        found = theirs.generate(batch_BT, attention_mask=mask_BT, max_new_tokens=4, eos_token_id=None, **cache)
        assert torch.equal(found[:1, 6:], continuation(ours, short_BT, 4))
        assert torch.equal(found[1:], continuation(ours, long_BT, 4))


@torch.no_grad()
def test_the_documented_lines_and_the_batched_pipeline_agree(pair: Pair) -> None:
    """Without `token_type_ids`, with a token to pad with, and the same text alone or beside a longer one."""
    _, theirs, folder = pair
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    texts = ["the river", "a silver mountain answers the quiet captain"]
    alone = []
    for text in texts:
        prompt = tokenizer(text, return_tensors="pt")
        assert set(prompt) == {"input_ids", "attention_mask"}
        alone.append(tokenizer.decode(theirs.generate(**prompt, max_new_tokens=4)[0], skip_special_tokens=True))
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    assert batch["attention_mask"][0].tolist() == sorted(batch["attention_mask"][0].tolist())  # on the left
    assert tokenizer.pad_token_id == theirs.generation_config.pad_token_id == 0
    speak = pipeline("text-generation", model=theirs, tokenizer=tokenizer)
    spoken = speak(texts, batch_size=2, max_new_tokens=4, do_sample=False)
    assert [said[0]["generated_text"] for said in spoken] == alone


@torch.no_grad()
def test_hidden_states_and_attentions_are_those_of_every_layer(pair: Pair) -> None:
    ours, _, folder = pair
    theirs = load(folder, attn_implementation="eager")
    tokens_BT = tokens(ours, length=12)
    found = theirs(tokens_BT, output_hidden_states=True, output_attentions=True)
    layers = theirs.config.num_hidden_layers
    assert len(found.hidden_states) == layers + 1 and len(found.attentions) == layers
    torch.testing.assert_close(found.hidden_states[-1], ours.hidden(tokens_BT), rtol=1e-5, atol=2e-5)
    assert torch.equal(found.hidden_states[0], theirs.get_input_embeddings()(tokens_BT))
    for weights_BHTT in found.attentions:
        assert weights_BHTT.shape[0] == 2 and weights_BHTT.shape[2:] == (12, 12)
        torch.testing.assert_close(weights_BHTT.sum(-1), torch.ones(weights_BHTT.shape[:3]))
        assert not weights_BHTT.triu(1).any()
    assert theirs(tokens_BT).hidden_states is None and theirs(tokens_BT).attentions is None


@torch.no_grad()
def test_attentions_are_the_weights_that_gave_the_output(pair: Pair) -> None:
    """The first layer of OpenELM once more, from its weights: values times weights times the output matrix."""
    ours, theirs, _ = pair
    if theirs.config.model_type != "openelm":
        pytest.skip("transformers' own classes")
    tokens_BT = tokens(ours, length=12)
    found = theirs(tokens_BT, output_hidden_states=True, output_attentions=True)
    layer = theirs.transformer.layers[0]
    read_BTM = layer.attn_norm(found.hidden_states[0])
    weights_BHTT = found.attentions[0]
    heads_BTJD = layer.attn.qkv_proj(read_BTM).unflatten(-1, (-1, layer.attn.head_width))
    v_BKTD = heads_BTJD.split(layer.attn.heads, dim=2)[2].transpose(1, 2)
    v_BHTD = v_BKTD.repeat_interleave(weights_BHTT.shape[1] // v_BKTD.shape[1], dim=1)
    x_BTM = found.hidden_states[0] + layer.attn.out_proj((weights_BHTT @ v_BHTD).transpose(1, 2).flatten(2))
    x_BTM = x_BTM + layer.ffn(layer.ffn_norm(x_BTM))
    torch.testing.assert_close(found.hidden_states[1], x_BTM, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_model_without_its_head_loads_alone(pair: Pair) -> None:
    ours, _, folder = pair
    body = AutoModel.from_pretrained(folder, trust_remote_code=True)
    tokens_BT = tokens(ours, length=30)
    found = body(tokens_BT, attention_mask=torch.ones_like(tokens_BT)).last_hidden_state
    torch.testing.assert_close(found, ours.hidden(tokens_BT), rtol=1e-5, atol=2e-5)


def test_a_training_step_has_our_loss_and_our_gradients_with_and_without_checkpointing(pair: Pair) -> None:
    ours, _, folder = pair
    rows_BT = tokens(ours, length=33)
    expected = ours.loss(rows_BT)
    (gradient,) = torch.autograd.grad(expected, ours.embedding.weight)
    runs: list[list[int]] = []
    for recompute in (False, True):
        theirs = load(folder).train()
        if recompute:
            theirs.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert theirs.is_gradient_checkpointing
        runs.append([])
        names = ("layers.0.self_attn", "layers.0.attn", "layers.0.attention")
        first = next(module for name, module in theirs.named_modules() if name.endswith(names))
        first.register_forward_hook(lambda *_, run=runs[-1]: run.append(1))
        loss = theirs(rows_BT, labels=rows_BT).loss
        loss.backward()
        assert len(runs[-1]) == 1 + recompute
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(theirs.get_input_embeddings().weight.grad, gradient, rtol=1e-4, atol=1e-5)
        assert all(parameter.grad is not None for parameter in theirs.parameters())


def test_a_tied_head_is_stored_once_and_stays_tied(pair: Pair) -> None:
    ours, theirs, folder = pair
    stored = safetensors.numpy.load_file(folder / "model.safetensors")
    assert any(name in stored for name in ("lm_head.weight", "embed_out.weight")) != ours.spec.tied_embedding
    head, embedding = theirs.get_output_embeddings().weight, theirs.get_input_embeddings().weight
    assert (head is embedding) == ours.spec.tied_embedding
    twice = 2 if len(ours.spec.applications) > len(ours.spec.layers) else 1
    blocks = num_parameters_if_repeated(ours.spec) - sum(
        tensor.size for name, tensor in dump_tensors(ours).items() if not name.startswith("layers.")
    )
    outside = sum(tensor.size for name, tensor in stored.items() if ".layers." not in name)
    assert sum(tensor.size for tensor in stored.values()) == twice * blocks + outside


def test_the_folder_survives_transformers_own_save(pair: Pair, tmp_path: Path) -> None:
    ours, _, folder = pair
    theirs = load(folder)  # once more: 4.48 would save the static cache of a generation with the weights
    theirs.save_pretrained(tmp_path)
    tokens_BT = tokens(ours, length=30)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(tokens_BT).logits, theirs(tokens_BT).logits)


def test_config_and_end_token_reach_transformers(pair: Pair) -> None:
    ours, theirs, _ = pair
    assert theirs.generation_config.eos_token_id == 0
    assert theirs.config.max_position_embeddings == ours.spec.context
    assert theirs.config.pad_token_id is None, "torch would not train the embedding of the end token"


def test_old_readers_split_text_as_the_release_does(pair: Pair) -> None:
    """tokenizers 0.19, which MobileLLM's trainer pins, read neither pairs of merges nor what it does not know."""
    _, _, folder = pair
    texts = ["the river and  the mountain\n\nquiet", "Straße 😶\u200d🌫️ 3333", END_OF_TEXT]
    from tokenizers import Tokenizer

    released = Tokenizer.from_file(str(tokenizer_file(folder.parent)))
    expected = [released.encode(text).ids for text in texts]
    assert [Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids for text in texts] == expected
    code = (
        "import json, sys, tokenizers\n"
        "one = tokenizers.Tokenizer.from_file(sys.argv[1])\n"
        "print(json.dumps([tokenizers.__version__, [one.encode(text).ids for text in json.loads(sys.argv[2])]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, folder / "tokenizer.json", json.dumps(texts)],
        env=os.environ | {"PYTHONPATH": str(OLD_TOKENIZERS)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["0.19.1", expected]


@pytest.mark.skipif(IS_OLDEST, reason="this is the inner run")
@pytest.mark.parametrize("which", ["not long", pytest.param("long", marks=pytest.mark.long)])
def test_all_of_this_holds_with_the_oldest_transformers_too(which: str) -> None:
    assert OLDEST.is_dir() and OLD_TOKENIZERS.is_dir(), "run `make .venv/tested`, which installs them"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", which, "-p", "no:cacheprovider", Path(__file__)],
        env=os.environ | {"PYTHONPATH": f"{OLDEST}{os.pathsep}{ROOT}"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_both_versions_are_the_ones_that_the_docs_name() -> None:
    pins = PINS["oldest" if IS_OLDEST else "newest"].read_text().split()
    assert f"transformers=={version('transformers')}" in pins
    said = (ROOT / "docs" / "use-checkpoints.md").read_text("utf-8")
    assert f"transformers {version('transformers')}" in said
