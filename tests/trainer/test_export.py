"""Exported folders, read back by transformers itself, give the same logits and the same continuations."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from pipeline.formats.canonical import parse
from pipeline.formats.errors import EverystepError
from pipeline.formats.yaml import load_yaml
from trainer.description import LayerSpec, ModelSpec, num_parameters_if_repeated, tensor_shapes
from trainer.exact import normal
from trainer.export import export, write_export
from trainer.families import build_spec
from trainer.model import Decoder, dump_tensors, load_tensors

torch.set_num_threads(1)

ROOT = Path(__file__).parents[2]
FAMILIES = ["llama", "mobilellm", "mobilellm-ls", "mobillama", "openelm", "pythia"]
SIZE = {"vocabulary": 2048, "context": 256, "width": 128, "layers": 4}
SMALL: dict[str, dict[str, Any]] = {
    "llama": SIZE | {"query_heads": 4, "kv_heads": 2, "ffn_width": 192, "tied_embedding": False, "norm_epsilon": 1e-6},
    "pythia": SIZE | {"heads": 4, "initial_std": None, "initial_output_std": None},
}


def read_spec(name: str) -> ModelSpec:
    """The demo's model of a family, or a small one."""
    if name in SMALL:
        return build_spec({"family": name} | SMALL[name], name)
    return build_spec(load_yaml(ROOT / "recipes" / f"{name}.yaml")["model"], name)


def random_tensors(spec: ModelSpec) -> dict[str, Any]:
    """Weights under which every part moves the logits and no rounding error grows: norms near one, gain of one."""
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        std = 0.3 if len(shape) == 1 else shape[1] ** -0.5
        tensors[name] = normal(5, name, shape, std) + np.float32(name.endswith("norm.weight"))
    return tensors


def build(spec: ModelSpec) -> Decoder:
    model = Decoder(spec)
    load_tensors(model, random_tensors(spec))
    return model


def load(folder: Path) -> Any:
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    model, info = loaded
    assert not any(info.values()), info
    return model


def tokens(spec: ModelSpec, rows: int = 2, length: int = 200) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).integers(1, spec.vocabulary, (rows, length)))


def continuation(model: Decoder, prompt_BT: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Greedy decoding without any cache."""
    for _ in range(num_tokens):
        prompt_BT = torch.cat((prompt_BT, model(prompt_BT)[:, -1:].argmax(-1)), dim=1)
    return prompt_BT


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Any, Path]:
    """Our model, transformers' reading of its export, and the folder."""
    spec = read_spec(request.param)
    model, folder = build(spec), tmp_path_factory.mktemp(request.param)
    write_export(export(spec, dump_tensors(model), eos_token_id=0), folder)
    return model, load(folder), folder


@torch.no_grad()
def test_transformers_gives_our_logits(pair: tuple[Decoder, Any, Path]) -> None:
    ours, theirs, _ = pair
    tokens_BT = tokens(ours.spec)
    expected_BTV = ours(tokens_BT)
    assert expected_BTV.std() > 0.5
    torch.testing.assert_close(theirs(tokens_BT).logits, expected_BTV, rtol=1e-5, atol=2e-5)


@torch.no_grad()
def test_generation_with_a_cache_continues_as_we_do_without(pair: tuple[Decoder, Any, Path]) -> None:
    ours, theirs, _ = pair
    prompt_BT = tokens(ours.spec, length=20)
    mask_BT = torch.ones_like(prompt_BT)
    found = theirs.generate(prompt_BT, attention_mask=mask_BT, max_new_tokens=12, eos_token_id=None)
    assert torch.equal(found, continuation(ours, prompt_BT, 12))


@torch.no_grad()
def test_padding_on_the_left_changes_no_continuation(pair: tuple[Decoder, Any, Path]) -> None:
    ours, theirs, _ = pair
    short_BT, long_BT = tokens(ours.spec, rows=1, length=14), tokens(ours.spec, rows=1, length=20)
    mask_BT = torch.ones(2, 20, dtype=torch.long)
    mask_BT[0, :6] = 0
    batch_BT = torch.cat((torch.nn.functional.pad(short_BT, (6, 0)), long_BT))
    found = theirs.generate(batch_BT, attention_mask=mask_BT, max_new_tokens=6, eos_token_id=None)
    assert torch.equal(found[:1, 6:], continuation(ours, short_BT, 6))
    assert torch.equal(found[1:], continuation(ours, long_BT, 6))


def test_a_tied_head_is_stored_once_and_stays_tied(pair: tuple[Decoder, Any, Path]) -> None:
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


def test_the_folder_survives_transformers_own_save(pair: tuple[Decoder, Any, Path], tmp_path: Path) -> None:
    ours, theirs, _ = pair
    theirs.save_pretrained(tmp_path)
    tokens_BT = tokens(ours.spec, length=30)
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(tokens_BT).logits, theirs(tokens_BT).logits)


def test_config_and_end_token_reach_transformers(pair: tuple[Decoder, Any, Path]) -> None:
    ours, theirs, folder = pair
    assert theirs.generation_config.eos_token_id == 0
    assert theirs.config.max_position_embeddings == ours.spec.context
    remote = ours.spec.layers[0].qk_norm
    assert ("auto_map" in parse((folder / "config.json").read_bytes())) == remote
    assert (folder / "modeling_everystep_openelm.py").exists() == remote


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_comes_out_as_the_model_that_others_know(family: str) -> None:
    spec = read_spec(family)
    known = {"openelm": "EverystepOpenELMForCausalLM", "pythia": "GPTNeoXForCausalLM"}
    exported = export(spec, random_tensors(spec), eos_token_id=0)
    assert exported.config["architectures"] == [known.get(family, "LlamaForCausalLM")]


def test_a_mixture_that_nobody_knows_is_refused() -> None:
    spec = read_spec("mobilellm")
    odd = replace(spec, layers=tuple(replace(layer, activation="gelu") for layer in spec.layers))
    with pytest.raises(EverystepError, match="no hub form is known"):
        export(odd, random_tensors(odd), eos_token_id=0)


@torch.no_grad()
def test_openelm_with_equal_layers_is_qwen3(tmp_path: Path) -> None:
    """An oracle that we did not write: Llama's block with RMSNorm over each query and key head, before rotation."""
    layer = LayerSpec(query_heads=4, kv_heads=2, head_width=32, ffn_width=192, qk_norm=True)
    demo = read_spec("openelm")
    spec = replace(demo, layers=(layer,) * len(demo.layers))
    ours = build(spec)
    exported = export(spec, dump_tensors(ours), eos_token_id=0)
    config = Qwen3Config(
        **{key: exported.config[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers", "rms_norm_eps")},
        intermediate_size=192,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rotary_base},
    )
    theirs = Qwen3ForCausalLM(config)
    missing, unexpected = theirs.load_state_dict(
        {name: torch.from_numpy(tensor) for name, tensor in exported.tensors.items()}, strict=False
    )
    assert (missing, unexpected) == (["lm_head.weight"], [])
    theirs.tie_weights()
    torch.testing.assert_close(theirs(tokens(spec)).logits, ours(tokens(spec)), rtol=1e-5, atol=2e-5)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    spec = read_spec("openelm")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        write_export(export(spec, random_tensors(spec), eos_token_id=0), folder)
    names = sorted(path.name for path in folders[0].iterdir())
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


def test_tensors_of_another_model_are_refused() -> None:
    spec = read_spec("mobilellm")
    with pytest.raises(EverystepError, match=r"of another shape: .*output\.weight"):
        export(replace(spec, tied_embedding=False), random_tensors(spec), eos_token_id=0)


def test_export_needs_no_torch() -> None:
    code = "import sys, trainer.export, trainer.families; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
