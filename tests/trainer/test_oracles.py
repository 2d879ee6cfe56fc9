"""The decoder computes what transformers' own models do, built from their own configs and filled by our hand.

Nothing of `pipeline.audit.export_model` is used: two errors there, or one shared with it, could not cancel. Norms and
biases are random, so that a forgotten one shows.
"""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipeline.formats.families import build_spec
from pipeline.formats.initial import normal
from pipeline.formats.model import ModelSpec, RotaryScaling, tensor_shapes
from pipeline.formats.rotary import frequencies
from tests.trainer import tiny
from trainer.model import Decoder, load_tensors

torch.set_num_threads(1)

COMMON: dict[str, Any] = {"vocabulary": 200, "context": 128, "width": 96, "layers": 3}
LLAMA = COMMON | tiny.LLAMA | {"query_heads": 6, "kv_heads": 2, "ffn_width": 160, "tied_embedding": False}
NEOX = COMMON | tiny.PYTHIA | {"family": "pythia", "heads": 3}
OUTSIDE = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def build(spec: ModelSpec) -> Decoder:
    """Weights of gain one, so that no rounding error grows; norms near one, biases near zero."""
    tensors = {}
    for name, shape in tensor_shapes(spec).items():
        std = 0.3 if len(shape) == 1 else shape[1] ** -0.5
        tensors[name] = normal(11, name, shape, std) + np.float32(name.endswith("norm.weight"))
    model = Decoder(spec)
    load_tensors(model, tensors)
    return model


def fill(theirs: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Every parameter of theirs gets its tensor, and every tensor a parameter."""
    missing, unexpected = theirs.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) <= ({"lm_head.weight"} if theirs.config.tie_word_embeddings else set())
    theirs.tie_weights()


def assert_same_logits(ours: Decoder, theirs: Any) -> None:
    tokens_BT = torch.from_numpy(np.random.default_rng(4).integers(0, ours.spec.vocabulary, (3, 128)))
    with torch.no_grad():
        expected_BTV = theirs.eval()(tokens_BT).logits
        assert expected_BTV.std() > 0.5
        torch.testing.assert_close(ours(tokens_BT), expected_BTV, rtol=1e-5, atol=1e-5)


def llama_tensors(spec: ModelSpec, ours: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rows of queries, keys and values, then of gate and up, taken apart; one set for each application."""
    found = {theirs: ours[mine] for mine, theirs in OUTSIDE.items() if mine in ours}
    for depth, stored in enumerate(spec.applications):
        layer, mine = spec.layers[stored], f"layers.{stored}."
        q, k = layer.query_heads * layer.head_width, layer.kv_heads * layer.head_width
        norms = (
            ("post_attention", "post_feedforward") if layer.norm_position == "after" else ("input", "post_attention")
        )
        theirs = {
            f"{norms[0]}_layernorm.weight": ours[mine + "attention_norm.weight"],
            f"{norms[1]}_layernorm.weight": ours[mine + "ffn_norm.weight"],
            "self_attn.o_proj.weight": ours[mine + "attention.output.weight"],
        }
        for kind in ("weight", "bias") if layer.bias else ("weight",):
            fused = ours[f"{mine}attention.query_key_value.{kind}"]
            theirs |= {f"self_attn.q_proj.{kind}": fused[:q], f"self_attn.k_proj.{kind}": fused[q : q + k]}
            theirs[f"self_attn.v_proj.{kind}"] = fused[q + k :]
        if layer.qk_norm:
            theirs["self_attn.q_norm.weight"] = ours[mine + "attention.query_norm.weight"]
            theirs["self_attn.k_norm.weight"] = ours[mine + "attention.key_norm.weight"]
        mine = f"layers.{spec.ffn_owner[stored]}.ffn."
        gate_up = ours[mine + "gate_up.weight"]
        theirs |= {"mlp.gate_proj.weight": gate_up[: layer.ffn_width], "mlp.up_proj.weight": gate_up[layer.ffn_width :]}
        theirs["mlp.down_proj.weight"] = ours[mine + "down.weight"]
        found |= {f"model.layers.{depth}.{name}": tensor for name, tensor in theirs.items()}
    return found


def weights(ours: Decoder) -> dict[str, torch.Tensor]:
    return {name: tensor.detach() for name, tensor in ours.named_parameters()}


@pytest.mark.parametrize(
    "section",
    [
        LLAMA | {"family": "llama", "norm_epsilon": 1e-6},
        LLAMA | {"family": "mobilellm", "tied_embedding": True},
        LLAMA | {"family": "mobilellm-ls", "tied_embedding": True},
        {key: value for key, value in LLAMA.items() if key != "kv_heads"} | {"family": "mobillama", "shared_ffn": True},
    ],
    ids=lambda section: section["family"],
)
def test_llamas_logits_are_ours(section: dict[str, Any]) -> None:
    ours = build(build_spec(section, "a test"))
    config = LlamaConfig(
        vocab_size=200,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=len(ours.spec.applications),
        num_attention_heads=6,
        num_key_value_heads=section.get("kv_heads", 6),
        max_position_embeddings=128,
        rms_norm_eps=section["norm_epsilon"],
        tie_word_embeddings=section["tied_embedding"],
    )
    theirs = LlamaForCausalLM(config)
    fill(theirs, llama_tensors(ours.spec, weights(ours)))
    assert_same_logits(ours, theirs)


SIZES: dict[str, Any] = {"vocab_size": 200, "hidden_size": 96, "intermediate_size": 160, "num_hidden_layers": 3}
SIZES |= {"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 128}
SIZES |= {"rms_norm_eps": 1e-5, "tie_word_embeddings": True, "pad_token_id": None}
THEIR_SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
KIN: dict[str, tuple[dict[str, Any], type[Any], Any]] = {
    "llama3": (
        {"rotary_scaling": tiny.SCALING | {"original_context": 32}, "rotary_base": 500000.0},
        LlamaForCausalLM,
        LlamaConfig(
            rope_parameters=THEIR_SCALING
            | {"rope_type": "llama3", "rope_theta": 500000.0, "original_max_position_embeddings": 32},
            **SIZES,
        ),
    ),
    "olmo2": ({}, Olmo2ForCausalLM, Olmo2Config(**SIZES)),
    "qwen2": ({}, Qwen2ForCausalLM, Qwen2Config(**SIZES)),
    "qwen3": ({"head_width": 32}, Qwen3ForCausalLM, Qwen3Config(head_dim=32, **SIZES)),
    "smollm3": (
        {"unrotated_every": 2},
        SmolLM3ForCausalLM,
        SmolLM3Config(
            no_rope_layers=[1, 0, 1], rope_parameters={"rope_type": "default", "rope_theta": 10000.0}, **SIZES
        ),
    ),
}
"""Family → its own keys, transformers' class, and a config of theirs for the same model."""


@pytest.mark.parametrize(("width", "factor"), [(128, 8.0), (64, 32.0)], ids=["Llama 3.1", "Llama 3.2"])
def test_scaled_frequencies_are_llamas_bit_for_bit(width: int, factor: float) -> None:
    scaling = RotaryScaling(factor=factor, low_frequency_factor=1, high_frequency_factor=4, original_context=8192)
    ours, plain = frequencies(500000.0, width, scaling), frequencies(500000.0, width)
    rotary = {"rope_type": "llama3", "rope_theta": 500000.0, "original_max_position_embeddings": 8192}
    config = LlamaConfig(
        hidden_size=2 * width,
        num_attention_heads=2,
        max_position_embeddings=131072,
        rope_parameters=rotary | THEIR_SCALING | {"factor": factor},
    )
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config)
    assert np.array_equal(ours, theirs.numpy())
    unchanged, slowest = ours == plain, ours == plain / np.float32(factor)
    assert unchanged.any() and slowest.any() and not (unchanged | slowest).all()


@pytest.mark.parametrize("family", KIN)
def test_logits_and_gradients_of_llamas_kin_are_ours(family: str) -> None:
    more, kind, config = KIN[family]
    ours = build(build_spec(LLAMA | {"family": family, "tied_embedding": True} | more, "a test"))
    theirs = kind(config)
    fill(theirs, llama_tensors(ours.spec, weights(ours)))
    assert_same_logits(ours, theirs)
    rows_BT = torch.from_numpy(np.random.default_rng(5).integers(0, 200, (2, 128)))
    loss = theirs.train()(rows_BT, labels=rows_BT).loss
    loss.backward()
    ours.loss(rows_BT).backward()
    gradients = {name: tensor.grad for name, tensor in ours.named_parameters() if tensor.grad is not None}
    expected = {name: tensor.grad for name, tensor in theirs.named_parameters()}
    found = llama_tensors(ours.spec, gradients)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().max() > 1e-4, name
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda told, name=name: f"{name}: {told}"
        )


def test_neoxs_logits_are_ours() -> None:
    """NeoX keeps query, key and value of a head together; we keep all queries, all keys, all values."""
    ours = build(build_spec(NEOX, "a test"))
    mine = weights(ours)
    found = {
        "gpt_neox.embed_in.weight": mine["embedding.weight"],
        "gpt_neox.final_layer_norm.weight": mine["final_norm.weight"],
        "gpt_neox.final_layer_norm.bias": mine["final_norm.bias"],
        "lm_head.weight": mine["output.weight"],  # `embed_out` in files and before transformers 5
    }
    names = {
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attention.output": "attention.dense",
        "ffn.up": "mlp.dense_h_to_4h",
        "ffn.down": "mlp.dense_4h_to_h",
    }
    for layer in range(3):
        for kind in ("weight", "bias"):
            for own, name in names.items():
                found[f"gpt_neox.layers.{layer}.{name}.{kind}"] = mine[f"layers.{layer}.{own}.{kind}"]
            queries, keys, values = mine[f"layers.{layer}.attention.query_key_value.{kind}"].split(96)
            heads = [part[32 * head : 32 * head + 32] for head in range(3) for part in (queries, keys, values)]
            found[f"gpt_neox.layers.{layer}.attention.query_key_value.{kind}"] = torch.cat(heads)
    config = GPTNeoXConfig(  # type: ignore[call-arg]
        vocab_size=200,
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=128,
        rotary_pct=0.25,
        rotary_emb_base=10000,
        hidden_act="gelu",
        tie_word_embeddings=False,
    )
    theirs = GPTNeoXForCausalLM(config)
    fill(theirs, found)
    assert_same_logits(ours, theirs)
