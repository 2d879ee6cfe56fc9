"""A model as files that `transformers.AutoModelForCausalLM.from_pretrained(folder)` loads, with the same logits.

What plain Llama or GPT-NeoX can express becomes that: no code travels with the weights. A block that is applied twice
or an FFN that is shared is written out once a depth, because Llama knows neither; so each application has its own
slot in the key/value cache. Layers of different widths and normed queries and keys (OpenELM) need the small module
`trainer/remote/modeling_everystep_openelm.py`, which travels with the weights and runs under `trust_remote_code=True`.

No torch here: whoever holds a checkpoint can export it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from pipeline.base.errors import EverystepError
from pipeline.base.files import write_bytes
from pipeline.formats.canonical import pretty
from pipeline.formats.model import ModelSpec, tensor_shapes, unrolled
from pipeline.release.code import INSTALLED, REMOTE

Array = npt.NDArray[Any]

REMOTE_MODULE = "modeling_everystep_openelm"

LLAMA_NAMES = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "output": "lm_head",
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn.gate": "mlp.gate_proj",
    "ffn.up": "mlp.up_proj",
    "ffn.down": "mlp.down_proj",
    "layers": "model.layers",
}
NEOX_NAMES = {
    "embedding": "gpt_neox.embed_in",
    "final_norm": "gpt_neox.final_layer_norm",
    "output": "embed_out",
    "attention_norm": "input_layernorm",
    "attention.query_key_value": "attention.query_key_value",
    "attention.output": "attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn.up": "mlp.dense_h_to_4h",
    "ffn.down": "mlp.dense_4h_to_h",
    "layers": "gpt_neox.layers",
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
    plain = {name: tensors[origin[name]] for name in tensor_shapes(twin)}
    generation = {"do_sample": False, "eos_token_id": eos_token_id, "pad_token_id": eos_token_id}
    extra_files = {"generation_config.json": pretty(generation)}
    config = _common_config(twin, np.dtype(tensors["embedding.weight"].dtype), eos_token_id)
    if is_neox(twin):
        named = {_hub_name(name, NEOX_NAMES): tensor for name, tensor in _neox_tensors(twin, plain).items()}
        return ExportedModel(tensors=named, config=config | _neox_config(twin), extra_files=extra_files)
    named = {_hub_name(name, LLAMA_NAMES): tensor for name, tensor in _llama_tensors(twin, plain).items()}
    if is_plain_llama(twin):
        return ExportedModel(tensors=named, config=config | _llama_config(twin), extra_files=extra_files)
    if not is_openelm(twin):
        raise EverystepError("no hub form is known for this mixture of norms, activations, biases and residuals")
    source = INSTALLED / REMOTE / f"{REMOTE_MODULE}.py"
    extra_files[source.name] = source.read_bytes()
    return ExportedModel(tensors=named, config=config | _openelm_config(twin), extra_files=extra_files)


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
    return is_openelm(spec) and len(set(spec.layers)) == 1 and not first.qk_norm and spec.width % first.query_heads == 0


def is_openelm(spec: ModelSpec) -> bool:
    """Whether the remote module can express it: Llama's blocks, of any widths."""
    kinds = {(la.norm, la.activation, la.bias, la.residual, la.rotary_share) for la in spec.layers}
    return kinds == {("rms", "swiglu", False, "sequential", 1.0)}


def is_neox(spec: ModelSpec) -> bool:
    """Whether it is a `GPTNeoXForCausalLM`."""
    first = spec.layers[0]
    return (
        len(set(spec.layers)) == 1
        and (first.norm, first.activation, first.bias, first.qk_norm) == ("layer", "gelu", True, False)
        and first.query_heads == first.kv_heads
        and first.query_heads * first.head_width == spec.width
        and not spec.tied_embedding
    )


def _hub_name(name: str, names: Mapping[str, str]) -> str:
    """`layers.3.ffn.down.weight` -> `model.layers.3.mlp.down_proj.weight`."""
    module, kind = name.rsplit(".", 1)
    if not module.startswith("layers."):
        return f"{names[module]}.{kind}"
    _, depth, rest = module.split(".", 2)
    return f"{names['layers']}.{depth}.{names[rest]}.{kind}"


def _llama_tensors(spec: ModelSpec, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Llama keeps apart what we multiply together."""
    parted: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if name.endswith("query_key_value.weight"):
            layer = spec.layers[int(name.split(".")[1])]
            ends = np.cumsum([layer.query_heads, layer.kv_heads]) * layer.head_width
            parts = zip(("query", "key", "value"), np.split(tensor, ends), strict=True)
            parted |= {name.replace("query_key_value", part): rows for part, rows in parts}
        elif name.endswith("gate_up.weight"):
            parts = zip(("gate", "up"), np.split(tensor, 2), strict=True)
            parted |= {name.replace("gate_up", part): rows for part, rows in parts}
        else:
            parted[name] = tensor
    return parted


def _neox_tensors(spec: ModelSpec, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """GPT-NeoX orders the rows by head, then query, key, value; we the other way round."""
    heads = spec.layers[0].query_heads
    return {
        name: tensor.reshape(3, heads, -1, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)
        if ".query_key_value." in name
        else tensor
        for name, tensor in tensors.items()
    }


def _common_config(spec: ModelSpec, dtype: np.dtype[Any], eos_token_id: int) -> dict[str, Any]:
    return {
        "bos_token_id": None,
        "dtype": dtype.name,
        "eos_token_id": eos_token_id,
        "hidden_size": spec.width,
        "max_position_embeddings": spec.context,
        "num_hidden_layers": len(spec.layers),
        "pad_token_id": None,
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
        "rms_norm_eps": spec.norm_epsilon,
        "rope_parameters": {"rope_theta": spec.rotary_base, "rope_type": "default"},
        "rope_theta": spec.rotary_base,  # transformers 4 and llama.cpp read this spelling
    }


def _neox_config(spec: ModelSpec) -> dict[str, Any]:
    layer = spec.layers[0]
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout": 0.0,
        "intermediate_size": layer.ffn_width,
        "layer_norm_eps": spec.norm_epsilon,
        "model_type": "gpt_neox",
        "num_attention_heads": layer.query_heads,
        "rope_parameters": {
            "partial_rotary_factor": layer.rotary_share,
            "rope_theta": spec.rotary_base,
            "rope_type": "default",
        },
        "rotary_emb_base": spec.rotary_base,  # transformers 4 and llama.cpp read these two
        "rotary_pct": layer.rotary_share,
        "use_parallel_residual": layer.residual == "parallel",
    }


def _openelm_config(spec: ModelSpec) -> dict[str, Any]:
    return {
        "architectures": ["EverystepOpenELMForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{REMOTE_MODULE}.EverystepOpenELMConfig",
            "AutoModel": f"{REMOTE_MODULE}.EverystepOpenELMModel",
            "AutoModelForCausalLM": f"{REMOTE_MODULE}.EverystepOpenELMForCausalLM",
        },
        "head_widths": [layer.head_width for layer in spec.layers],
        "intermediate_sizes": [layer.ffn_width for layer in spec.layers],
        "model_type": "everystep_openelm",
        "normed_queries_and_keys": [layer.qk_norm for layer in spec.layers],
        "num_kv_heads": [layer.kv_heads for layer in spec.layers],
        "num_query_heads": [layer.query_heads for layer in spec.layers],
        "rms_norm_eps": spec.norm_epsilon,
        "rotary_base": spec.rotary_base,
    }
