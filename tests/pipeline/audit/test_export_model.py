"""The files of an export: which architecture a model becomes, with which bytes. Others read them in
test_transformers.py."""

import os
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Qwen3Config, Qwen3ForCausalLM

from pipeline.audit.export_model import export, hub_config, write_export
from pipeline.audit.hub_forms import Array
from pipeline.base.errors import EverystepError
from pipeline.formats.families import make_divisible
from pipeline.formats.model import LayerSpec
from tests.project import ROOT
from tests.trainer.exports import FAMILIES, build, random_tensors, read_spec
from trainer.model import dump_tensors

torch.set_num_threads(1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_comes_out_as_the_model_that_others_know(family: str) -> None:
    spec = read_spec(family)
    known = {"openelm": "OpenELMForCausalLM", "pythia": "GPTNeoXForCausalLM"}
    exported = export(spec, random_tensors(spec), eos_token_id=0)
    assert exported.config["architectures"] == [known.get(family, "LlamaForCausalLM")]


def test_a_mixture_that_nobody_knows_is_refused() -> None:
    spec = read_spec("mobilellm")
    odd = replace(spec, layers=tuple(replace(layer, activation="gelu") for layer in spec.layers))
    with pytest.raises(EverystepError, match="no hub form is known"):
        export(odd, random_tensors(odd), eos_token_id=0)


@pytest.mark.parametrize(("key", "values"), [("head_width", (16, 32)), ("qk_norm", (True, False))])
def test_what_openelm_has_once_for_all_layers_may_not_differ(key: str, values: tuple[Any, Any]) -> None:
    spec = read_spec("openelm")
    layers = tuple(replace(layer, **{key: values[depth % 2]}) for depth, layer in enumerate(spec.layers))
    odd = replace(spec, layers=layers)
    with pytest.raises(EverystepError, match=f"{key}: .*in different layers; of all hub forms only OpenELM's"):
        export(odd, random_tensors(odd), eos_token_id=0)


@given(st.integers(1, 5000), st.lists(st.integers(1, 30000), min_size=1, max_size=5))
def test_readers_of_openelm_compute_any_ffn_widths_from_its_config(width: int, ffn_widths: list[int]) -> None:
    layers = [LayerSpec(query_heads=1, kv_heads=1, head_width=2, ffn_width=ffn, qk_norm=True) for ffn in ffn_widths]
    depths = tuple(range(len(layers)))
    model = replace(read_spec("openelm"), width=width, layers=tuple(layers), applications=depths, ffn_owner=depths)
    config = hub_config(model, "float32", 0)
    computed = [make_divisible(m * width, config["ffn_dim_divisor"]) for m in config["ffn_multipliers"]]
    assert computed == ffn_widths


@torch.no_grad()
def test_openelm_with_equal_layers_is_qwen3(tmp_path: Path) -> None:
    """An oracle that we did not write: Llama's block with RMSNorm over each query and key head, before rotation."""
    layer = LayerSpec(query_heads=4, kv_heads=2, head_width=32, ffn_width=192, qk_norm=True)
    demo = read_spec("openelm")
    spec = replace(demo, layers=(layer,) * len(demo.layers))
    ours = build(spec)
    exported = export(spec, dump_tensors(ours), eos_token_id=0)
    config = Qwen3Config(
        vocab_size=spec.vocabulary,
        hidden_size=spec.width,
        num_hidden_layers=len(spec.layers),
        rms_norm_eps=spec.norm_epsilon,
        intermediate_size=192,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rotary_base},
    )
    theirs = Qwen3ForCausalLM(config)
    missing, unexpected = theirs.load_state_dict(
        {name: torch.from_numpy(tensor) for name, tensor in qwen3_tensors(exported.tensors).items()}, strict=False
    )
    assert (missing, unexpected) == (["lm_head.weight"], [])
    theirs.tie_weights()
    tokens_BT = torch.from_numpy(np.random.default_rng(3).integers(1, spec.vocabulary, (2, 200)))
    torch.testing.assert_close(theirs(tokens_BT).logits, ours(tokens_BT), rtol=1e-5, atol=2e-5)


def qwen3_tensors(openelm: dict[str, Array]) -> dict[str, Array]:
    """OpenELM's tensors with 4 query heads, 2 of keys and values, 32 wide, and FFNs of 192, under Qwen3's names."""
    cuts = {
        "attn.qkv_proj": (["q_proj", "k_proj", "v_proj"], [128, 192]),
        "ffn.proj_1": (["gate_proj", "up_proj"], [192]),
    }
    others = {
        "transformer.token_embeddings": "model.embed_tokens",
        "transformer.": "model.",
        "attn.out_proj": "attn.o_proj",
    }
    others |= {"ffn.proj_2": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    named = {}
    for name, tensor in openelm.items():
        _, (parts, ends) = next((item for item in cuts.items() if item[0] in name), ("", ([""], [])))
        for part, rows in zip(parts, np.split(tensor, ends), strict=True):
            new = name.replace("qkv_proj", part).replace("ffn.proj_1", f"mlp.{part}")
            for theirs, its in others.items():
                new = new.replace(theirs, its)
            named[new.replace(".attn.", ".self_attn.")] = rows
    return named


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    spec = read_spec("openelm")
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        write_export(export(spec, random_tensors(spec), eos_token_id=0), folder)
    names = sorted(path.name for path in folders[0].iterdir())
    assert all((folders[0] / name).read_bytes() == (folders[1] / name).read_bytes() for name in names)


def test_a_folder_is_written_one_tensor_at_a_time(tmp_path: Path) -> None:
    """A model of 7 billion parameters takes 27 GB; all bytes joined would take them twice."""
    spec = replace(read_spec("pythia"), vocabulary=16384)
    tensors = random_tensors(spec)
    exported = export(spec, tensors, eos_token_id=0)
    largest = max(tensor.nbytes for tensor in tensors.values())
    tracemalloc.start()
    write_export(exported, tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < largest < sum(tensor.nbytes for tensor in tensors.values()) / 2
    read = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert read.keys() == exported.tensors.keys()
    assert all(np.array_equal(read[name], tensor) for name, tensor in exported.tensors.items())


def test_tensors_of_another_model_are_refused() -> None:
    spec = read_spec("mobilellm")
    with pytest.raises(EverystepError, match=r"of another shape: .*output\.weight"):
        export(replace(spec, tied_embedding=False), random_tensors(spec), eos_token_id=0)


def test_export_needs_no_torch() -> None:
    code = "import sys, pipeline.audit.export_model, pipeline.formats.families; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
