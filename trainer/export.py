"""A model as files that `transformers.AutoModelForCausalLM.from_pretrained(folder)` loads, with the same logits.

What plain Llama can express becomes plain Llama: no code travels with the weights. A block that is applied twice or
an FFN that is shared is written out once a depth, because Llama knows neither; so each application has its own slot
in the key/value cache. Layers of different widths and normed queries and keys (OpenELM) need the small module
`remote/modeling_everystep_openelm.py`, which travels with the weights and runs under `trust_remote_code=True`.

No torch here: whoever holds a checkpoint can export it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from pipeline.formats.canonical import pretty
from pipeline.formats.errors import EverystepError
from pipeline.formats.files import write_bytes
from trainer.description import ModelSpec, tensor_shapes, unrolled

Array = npt.NDArray[Any]

REMOTE_MODULE = "modeling_everystep_openelm"

HUB_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "attention.query.weight": "self_attn.q_proj.weight",
    "attention.key.weight": "self_attn.k_proj.weight",
    "attention.value.weight": "self_attn.v_proj.weight",
    "attention.output.weight": "self_attn.o_proj.weight",
    "attention.query_norm.weight": "self_attn.q_norm.weight",
    "attention.key_norm.weight": "self_attn.k_norm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "ffn.gate.weight": "mlp.gate_proj.weight",
    "ffn.up.weight": "mlp.up_proj.weight",
    "ffn.down.weight": "mlp.down_proj.weight",
}


@dataclass(frozen=True, kw_only=True)
class ExportedModel:
    """The files of a folder: `model.safetensors`, `config.json` and, by name, the others."""

    tensors: dict[str, Array]
    config: dict[str, Any]
    extra_files: dict[str, bytes]


def export(spec: ModelSpec, tensors: Mapping[str, Array], eos_token_id: int) -> ExportedModel:
    """The hub form of a checkpoint. A tied head is stored once, as the embedding; rows have no begin token."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != tensor_shapes(spec):
        different = sorted({name for name, _ in shapes.items() ^ tensor_shapes(spec).items()})
        raise EverystepError(f"tensors do not fit the model; missing, unknown or of another shape: {different}")
    twin, origin = unrolled(spec)
    generation = {"do_sample": False, "eos_token_id": eos_token_id, "pad_token_id": eos_token_id}
    extra_files = {"generation_config.json": pretty(generation)}
    config = _common_config(twin, np.dtype(tensors["embedding.weight"].dtype), eos_token_id)
    if is_plain_llama(twin):
        config |= _llama_config(twin)
    else:
        config |= _openelm_config(twin)
        source = Path(__file__).parent / "remote" / f"{REMOTE_MODULE}.py"
        extra_files[source.name] = source.read_bytes()
    return ExportedModel(
        tensors={hub_name(name): tensors[origin[name]] for name in tensor_shapes(twin)},
        config=config,
        extra_files=extra_files,
    )


def write_export(exported: ExportedModel, folder: Path) -> None:
    """Write the folder, each file whole or not at all; the same model gives the same bytes."""
    # One metadata entry: safetensors writes several in random order. transformers asks for this one.
    weights = {name: np.ascontiguousarray(tensor) for name, tensor in exported.tensors.items()}
    write_bytes(folder / "model.safetensors", safetensors.numpy.save(weights, metadata={"format": "pt"}))
    write_bytes(folder / "config.json", pretty(exported.config))
    for name, content in sorted(exported.extra_files.items()):
        write_bytes(folder / name, content)


def is_plain_llama(spec: ModelSpec) -> bool:
    """Whether an unrolled model is a `LlamaForCausalLM`: equal layers without normed queries and keys."""
    first = spec.layers[0]
    return len(set(spec.layers)) == 1 and not first.qk_norm and spec.width % first.query_heads == 0


def hub_name(name: str) -> str:
    """The name that Llama, and our OpenELM module, give to a tensor of ours."""
    if name in HUB_NAMES:
        return HUB_NAMES[name]
    _, depth, rest = name.split(".", 2)
    return f"model.layers.{depth}.{HUB_NAMES[rest]}"


def _common_config(spec: ModelSpec, dtype: np.dtype[Any], eos_token_id: int) -> dict[str, Any]:
    return {
        "bos_token_id": None,
        "dtype": dtype.name,
        "eos_token_id": eos_token_id,
        "hidden_size": spec.width,
        "max_position_embeddings": spec.context,
        "num_hidden_layers": len(spec.layers),
        "pad_token_id": None,
        "rms_norm_eps": spec.norm_epsilon,
        "tie_word_embeddings": spec.tied_embedding,
        "use_cache": True,
        "vocab_size": spec.vocabulary,
    }


def _llama_config(spec: ModelSpec) -> dict[str, Any]:
    layer = spec.layers[0]
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "head_dim": layer.head_width,
        "hidden_act": "silu",
        "intermediate_size": layer.ffn_width,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": layer.query_heads,
        "num_key_value_heads": layer.kv_heads,
        "rope_parameters": {"rope_theta": spec.rotary_base, "rope_type": "default"},
        "rope_theta": spec.rotary_base,  # transformers 4 and llama.cpp read this spelling
    }


def _openelm_config(spec: ModelSpec) -> dict[str, Any]:
    return {
        "architectures": ["EverystepOpenELMForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{REMOTE_MODULE}.EverystepOpenELMConfig",
            "AutoModelForCausalLM": f"{REMOTE_MODULE}.EverystepOpenELMForCausalLM",
        },
        "head_widths": [layer.head_width for layer in spec.layers],
        "intermediate_sizes": [layer.ffn_width for layer in spec.layers],
        "model_type": "everystep_openelm",
        "normed_queries_and_keys": [layer.qk_norm for layer in spec.layers],
        "num_kv_heads": [layer.kv_heads for layer in spec.layers],
        "num_query_heads": [layer.query_heads for layer in spec.layers],
        "rotary_base": spec.rotary_base,
    }
