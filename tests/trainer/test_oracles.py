"""The decoder's logits are those of transformers' own models, built from their own configs and filled by our hand.

Nothing of `pipeline.audit.export_model` is used: two errors there, or one shared with it, could not cancel. Norms and
biases are random, so that a forgotten one shows.
"""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM

from pipeline.formats.families import build_spec
from pipeline.formats.initial import normal
from pipeline.formats.model import ModelSpec, tensor_shapes
from tests.trainer import tiny
from trainer.model import Decoder, load_tensors

torch.set_num_threads(1)

COMMON: dict[str, Any] = {"vocabulary": 200, "context": 128, "width": 96, "layers": 3}
LLAMA = COMMON | tiny.LLAMA | {"query_heads": 6, "kv_heads": 2, "ffn_width": 160, "tied_embedding": False}
NEOX = COMMON | tiny.PYTHIA | {"family": "pythia", "heads": 3}


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


def llama_tensors(ours: Decoder) -> dict[str, torch.Tensor]:
    """Rows of queries, keys and values, then of gate and up, taken apart; one set for each application."""
    spec = ours.spec
    weights = {name: tensor.detach() for name, tensor in ours.named_parameters()}
    found = {
        "model.embed_tokens.weight": weights["embedding.weight"],
        "model.norm.weight": weights["final_norm.weight"],
    }
    if not spec.tied_embedding:
        found["lm_head.weight"] = weights["output.weight"]
    for depth, stored in enumerate(spec.applications):
        layer, mine, ffn = spec.layers[stored], f"layers.{stored}.", f"layers.{spec.ffn_owner[stored]}.ffn."
        q, k = layer.query_heads * layer.head_width, layer.kv_heads * layer.head_width
        fused, gate_up = weights[mine + "attention.query_key_value.weight"], weights[ffn + "gate_up.weight"]
        theirs = {
            "input_layernorm": weights[mine + "attention_norm.weight"],
            "self_attn.q_proj": fused[:q],
            "self_attn.k_proj": fused[q : q + k],
            "self_attn.v_proj": fused[q + k :],
            "self_attn.o_proj": weights[mine + "attention.output.weight"],
            "post_attention_layernorm": weights[mine + "ffn_norm.weight"],
            "mlp.gate_proj": gate_up[: layer.ffn_width],
            "mlp.up_proj": gate_up[layer.ffn_width :],
            "mlp.down_proj": weights[ffn + "down.weight"],
        }
        found |= {f"model.layers.{depth}.{name}.weight": tensor for name, tensor in theirs.items()}
    return found


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
    fill(theirs, llama_tensors(ours))
    assert_same_logits(ours, theirs)


def test_neoxs_logits_are_ours() -> None:
    """NeoX keeps query, key and value of a head together; we keep all queries, all keys, all values."""
    ours = build(build_spec(NEOX, "a test"))
    weights = {name: tensor.detach() for name, tensor in ours.named_parameters()}
    found = {
        "gpt_neox.embed_in.weight": weights["embedding.weight"],
        "gpt_neox.final_layer_norm.weight": weights["final_norm.weight"],
        "gpt_neox.final_layer_norm.bias": weights["final_norm.bias"],
        "lm_head.weight": weights["output.weight"],  # `embed_out` in files and before transformers 5
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
            for mine, name in names.items():
                found[f"gpt_neox.layers.{layer}.{name}.{kind}"] = weights[f"layers.{layer}.{mine}.{kind}"]
            queries, keys, values = weights[f"layers.{layer}.attention.query_key_value.{kind}"].split(96)
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
