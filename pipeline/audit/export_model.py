"""A model as files that `transformers.AutoModelForCausalLM.from_pretrained(folder)` loads, with the same logits.

What Llama, Qwen2, Qwen3, OLMo 2, SmolLM3 or GPT-NeoX can express becomes that: no code travels with the weights. A
block that is applied twice or an FFN that is shared is written out once a depth, because none of them knows either; so
each application has its own slot in the key/value cache. Layers of different widths (OpenELM) become the layout of
apple/OpenELM, which transformers does not have: the small module `trainer/remote/modeling_everystep_openelm.py` travels
with the weights and runs under `trust_remote_code=True`; mlx-lm and llama.cpp read the layout without it.

No torch here: a reader with a checkpoint can export it. `pipeline.audit.import_model` is the way back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.audit.hub_forms import LLAMA, NEOX, OLMO2, OPENELM, QWEN2, QWEN3, SMOLLM3, Array, form_of
from pipeline.base.errors import EverystepError
from pipeline.base.files import write_bytes
from pipeline.formats.canonical import pretty
from pipeline.formats.checkpoints import write_tensors
from pipeline.formats.model import ModelSpec, tensor_shapes, unrolled
from pipeline.release.code import INSTALLED, REMOTE

REMOTE_MODULE = "modeling_everystep_openelm"


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
    form = form_of(twin)
    plain = {name: tensors[origin[name]] for name in tensor_shapes(twin)}
    generation = {"do_sample": False, "eos_token_id": eos_token_id, "pad_token_id": eos_token_id}
    extra_files = {"generation_config.json": pretty(generation)}
    if form is OPENELM:
        source = INSTALLED / REMOTE / f"{REMOTE_MODULE}.py"
        extra_files[source.name] = source.read_bytes()
    return ExportedModel(
        tensors={form.hub_name(name): tensor for name, tensor in form.split(twin, plain).items()},
        config=hub_config(spec, np.dtype(tensors["embedding.weight"].dtype).name, eos_token_id),
        extra_files=extra_files,
    )


def hub_config(spec: ModelSpec, dtype: str, eos_token_id: int) -> dict[str, Any]:
    """The `config.json` of the hub form of a model."""
    twin, _ = unrolled(spec)
    form = form_of(twin)
    common = {
        "bos_token_id": None,
        "dtype": dtype,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,
        "use_cache": True,
        "vocab_size": spec.vocabulary,
    }
    return common | {"model_type": form.name} | CONFIGS[form.name](twin)


def write_export(exported: ExportedModel, folder: Path) -> None:
    """Write the folder, each file whole or not at all; the same model gives the same bytes."""
    write_tensors(folder / "model.safetensors", exported.tensors)  # one by one; the library joins all bytes first
    write_bytes(folder / "config.json", pretty(exported.config))
    for name, content in sorted(exported.extra_files.items()):
        write_bytes(folder / name, content)


def _plain_sizes(spec: ModelSpec) -> dict[str, Any]:
    """What transformers' own classes call the sizes of a model."""
    return {
        "hidden_size": spec.width,
        "max_position_embeddings": spec.context,
        "num_hidden_layers": len(spec.layers),
        "tie_word_embeddings": spec.tied_embedding,
    }


def _llama_config(spec: ModelSpec) -> dict[str, Any]:
    return _config_of_equal_layers(spec) | {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "head_dim": spec.layers[0].head_width,
        "mlp_bias": False,
    }


def _qwen2_config(spec: ModelSpec) -> dict[str, Any]:
    return _config_of_equal_layers(spec) | {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": False}


def _qwen3_config(spec: ModelSpec) -> dict[str, Any]:
    return _config_of_equal_layers(spec) | {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "head_dim": spec.layers[0].head_width,
        "use_sliding_window": False,
    }


def _olmo2_config(spec: ModelSpec) -> dict[str, Any]:
    return _config_of_equal_layers(spec) | {"architectures": ["Olmo2ForCausalLM"], "attention_bias": False}


def _smollm3_config(spec: ModelSpec) -> dict[str, Any]:
    return _config_of_equal_layers(spec) | {
        "architectures": ["SmolLM3ForCausalLM"],
        "attention_bias": False,
        "mlp_bias": False,
        "no_rope_layers": [int(layer.rotary_share > 0) for layer in spec.layers],  # 1: it has
        "use_sliding_window": False,
    }


def _config_of_equal_layers(spec: ModelSpec) -> dict[str, Any]:
    """What Llama and its kin have in common. transformers 4 and llama.cpp read the last keys of the rotation."""
    layer = spec.layers[0]
    rotary = _rotary_config(spec)
    older = {"rope_theta": spec.rotary_base} | ({"rope_scaling": rotary} if spec.rotary_scaling else {})
    return _plain_sizes(spec) | {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "intermediate_size": layer.ffn_width,
        "num_attention_heads": layer.query_heads,
        "num_key_value_heads": layer.kv_heads,
        "rms_norm_eps": spec.norm_epsilon,
        "rope_parameters": rotary | {"rope_theta": spec.rotary_base},
        **older,
    }


def _rotary_config(spec: ModelSpec) -> dict[str, Any]:
    if spec.rotary_scaling is None:
        return {"rope_type": "default"}
    return {
        "factor": spec.rotary_scaling.factor,
        "high_freq_factor": spec.rotary_scaling.high_frequency_factor,
        "low_freq_factor": spec.rotary_scaling.low_frequency_factor,
        "original_max_position_embeddings": spec.rotary_scaling.original_context,
        "rope_type": "llama3",
    }


def _neox_config(spec: ModelSpec) -> dict[str, Any]:
    layer = spec.layers[0]
    return _plain_sizes(spec) | {
        "architectures": ["GPTNeoXForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "hidden_act": "gelu",
        "hidden_dropout": 0.0,
        "intermediate_size": layer.ffn_width,
        "layer_norm_eps": spec.norm_epsilon,
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
    """The keys of apple/OpenELM.

    Its readers compute the width of an FFN as the multiple of `ffn_dim_divisor` next to multiplier * width. With the
    greatest common divisor of all widths, and multipliers that are not rounded, every width comes out as it is.
    """
    first = spec.layers[0]
    ffn_widths = [layer.ffn_width for layer in spec.layers]
    groups = {layer.query_heads // layer.kv_heads for layer in spec.layers}
    return {
        "activation_fn_name": "swish",
        "architectures": ["OpenELMForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{REMOTE_MODULE}.OpenELMConfig",
            "AutoModel": f"{REMOTE_MODULE}.OpenELMModel",
            "AutoModelForCausalLM": f"{REMOTE_MODULE}.OpenELMForCausalLM",
        },
        "ffn_dim_divisor": gcd(*ffn_widths),
        "ffn_multipliers": [width / spec.width for width in ffn_widths],
        "ffn_with_glu": True,
        "head_dim": first.head_width,
        "max_context_length": spec.context,
        "model_dim": spec.width,
        "normalization_layer_name": "rms_norm",
        "normalize_qk_projections": first.qk_norm is not None,
        "num_gqa_groups": groups.pop() if len(groups) == 1 else None,
        "num_kv_heads": [layer.kv_heads for layer in spec.layers],
        "num_query_heads": [layer.query_heads for layer in spec.layers],
        "num_transformer_layers": len(spec.layers),
        "rms_norm_eps": spec.norm_epsilon,  # not a key of Apple's, whose code has 1e-6; mlx-lm reads it
        "rope_freq_constant": spec.rotary_base,
        "rope_max_length": 2 * spec.context,
        "share_input_output_layers": spec.tied_embedding,
    }


CONFIGS = {
    LLAMA.name: _llama_config,
    NEOX.name: _neox_config,
    OLMO2.name: _olmo2_config,
    OPENELM.name: _openelm_config,
    QWEN2.name: _qwen2_config,
    QWEN3.name: _qwen3_config,
    SMOLLM3.name: _smollm3_config,
}
"""Form → its keys of `config.json`."""
