"""The forms in which others know our models: the names of their tensors, how ours are cut for them, and back.

All but `openelm` are transformers' own; that is the layout of apple/OpenELM, which mlx-lm and llama.cpp read too. All
store one layer for each depth, so they take unrolled models (`pipeline.formats.model.unrolled`).

Law: `form.join(spec, form.split(spec, tensors)) == tensors`, byte for byte, for every tensor of an unrolled model.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.base.errors import EverystepError
from pipeline.formats.model import LayerSpec, ModelSpec, tensor_shapes

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]


@dataclass(frozen=True, kw_only=True)
class Form:
    """A layout of tensors. Its names are those of our modules, after `split`."""

    name: str
    """Its `model_type`."""
    names: Mapping[str, str]
    holds: Callable[[ModelSpec], bool]
    """Whether it can be the form of an unrolled model. OpenELM's can be that of others, and is asked last."""
    split: Callable[[ModelSpec, Tensors], dict[str, Array]]
    """Our tensors, cut and ordered as the form has them, still under names of ours."""
    join: Callable[[ModelSpec, Tensors], dict[str, Array]]
    """The inverse of `split`."""

    def hub_name(self, name: str) -> str:
        """`layers.3.ffn.down.weight` -> `model.layers.3.mlp.down_proj.weight`."""
        return renamed(name, self.names)


def form_of(spec: ModelSpec) -> Form:
    """The form that holds an unrolled model; the error for one that fits none says why."""
    for form in (LLAMA, QWEN2, QWEN3, OLMO2, SMOLLM3, NEOX, OPENELM):
        if form.holds(spec):
            return form
    if not _has(spec, qk_norm={None, "head"}):
        raise EverystepError(
            "no hub form is known for this mixture of widths, norms, activations, biases, residuals and positions"
        )
    if spec.rotary_scaling is not None:
        raise EverystepError("rotary_scaling: only the hub forms of equal layers have it, and these layers differ")
    what, values = next((what, values) for what, values in _once_in_openelm(spec).items() if len(values) > 1)
    raise EverystepError(
        f"{what}: {', '.join(values)} in different layers; of all hub forms only OpenELM's has layers that differ, in "
        "their heads and FFN widths, and it has one value of this for all"
    )


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Translate the name of a tensor by a table of the names of modules; depth and kind are kept."""
    module, kind = name.rsplit(".", 1)
    if not module.startswith("layers."):
        return f"{names[module]}.{kind}"
    _, depth, rest = module.split(".", 2)
    return f"{names['layers']}.{depth}.{names[rest]}.{kind}"


LLAMAS: dict[str, Any] = {
    "norm": {"rms"},
    "norm_position": {"before"},
    "activation": {"swiglu"},
    "bias": {None},
    "qk_norm": {None},
    "residual": {"sequential"},
    "rotary_share": {1.0},
}
"""What Llama's layers are, all but their sizes."""


def _has(spec: ModelSpec, **others: Any) -> bool:
    """Whether all layers are Llama's, but for what is said here, key by key: the values that it may have."""
    return all(getattr(layer, key) in values for layer in spec.layers for key, values in (LLAMAS | others).items())


def _is_uniform(spec: ModelSpec, **others: Any) -> bool:
    """Whether the layers are equal, too, but for which of them rotate."""
    return len({replace(layer, rotary_share=0.0) for layer in spec.layers}) == 1 and _has(spec, **others)


def _fills_width(spec: ModelSpec) -> bool:
    """Whether the heads have the width that classes compute which have no key for it."""
    return spec.layers[0].query_heads * spec.layers[0].head_width == spec.width


def _is_llama(spec: ModelSpec) -> bool:
    return _is_uniform(spec) and spec.width % spec.layers[0].query_heads == 0


def _is_neox(spec: ModelSpec) -> bool:
    first = spec.layers[0]
    neoxs: dict[str, Any] = {"norm": {"layer"}, "activation": {"gelu"}, "bias": {"all"}, "residual": {first.residual}}
    return (
        _is_uniform(spec, **neoxs, rotary_share={first.rotary_share})
        and first.rotary_share > 0
        and first.query_heads == first.kv_heads
        and _fills_width(spec)
        and not spec.tied_embedding
        and spec.rotary_scaling is None
    )


def _is_openelm(spec: ModelSpec) -> bool:
    once = all(len(values) == 1 for values in _once_in_openelm(spec).values())
    return once and spec.rotary_scaling is None and _has(spec, qk_norm={None, "head"})


def _once_in_openelm(spec: ModelSpec) -> dict[str, list[str]]:
    """What OpenELM has once for all layers, and its values in this model."""
    return {
        key: sorted({str(getattr(layer, key) or "none") for layer in spec.layers}) for key in ("head_width", "qk_norm")
    }


def split_rows(spec: ModelSpec, tensors: Tensors) -> dict[str, Array]:
    """Take apart what we multiply together: query, key and value; gate and up."""
    parted: dict[str, Array] = {}
    for name, tensor in tensors.items():
        names = parts_of(name)
        if len(names) == 1:
            parted[name] = tensor
            continue
        ends = np.cumsum(rows_of(spec.layers[int(name.split(".")[1])], names))[:-1]
        parted |= dict(zip(names, np.split(tensor, ends), strict=True))
    return parted


def join_rows(spec: ModelSpec, parted: Tensors) -> dict[str, Array]:
    """The inverse of `split_rows`."""
    joined: dict[str, Array] = {}
    for name in tensor_shapes(spec):
        parts = [parted[part] for part in parts_of(name)]
        joined[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return joined


def parts_of(name: str) -> list[str]:
    """The names of the parts of one of our tensors, in the order of its rows; its own name if it has none."""
    for fused, parts in FUSED.items():
        if f".{fused}." in name:
            return [name.replace(fused, part) for part in parts]
    return [name]


def rows_of(layer: LayerSpec, parts: Iterable[str]) -> list[int]:
    """The number of rows of each part."""
    rows = {"query": layer.query_heads, "key": layer.kv_heads, "value": layer.kv_heads}
    kinds = [part.split(".")[-2] for part in parts]
    return [rows[kind] * layer.head_width if kind in rows else layer.ffn_width for kind in kinds]


def _by_head(spec: ModelSpec, tensors: Tensors) -> dict[str, Array]:
    """GPT-NeoX orders the rows by head, then query, key, value; we the other way round."""
    return _swapped(tensors, 3, spec.layers[0].query_heads)


def _by_kind(spec: ModelSpec, tensors: Tensors) -> dict[str, Array]:
    return _swapped(tensors, spec.layers[0].query_heads, 3)


def _swapped(tensors: Tensors, outer: int, inner: int) -> dict[str, Array]:
    """Turn rows that are ordered by `outer`, then `inner`, into rows by `inner`, then `outer`."""
    return {
        name: tensor.reshape(outer, inner, -1, *tensor.shape[1:]).swapaxes(0, 1).reshape(tensor.shape)
        if ".query_key_value." in name
        else tensor
        for name, tensor in tensors.items()
    }


def _as_it_is(spec: ModelSpec, tensors: Tensors) -> dict[str, Array]:
    """OpenELM fuses what we fuse, in our order."""
    return dict(tensors)


FUSED: dict[str, tuple[str, ...]] = {
    "attention.query_key_value": ("attention.query", "attention.key", "attention.value"),
    "ffn.gate_up": ("ffn.gate", "ffn.up"),
}

NORMED = {"attention.query_norm": "self_attn.q_norm", "attention.key_norm": "self_attn.k_norm"}
NORMED_AFTER = {"attention_norm": "post_attention_layernorm", "ffn_norm": "post_feedforward_layernorm"}
LLAMA = Form(
    name="llama",
    names={
        "embedding": "model.embed_tokens",
        "final_norm": "model.norm",
        "output": "lm_head",
        "attention_norm": "input_layernorm",
        "attention.query": "self_attn.q_proj",
        "attention.key": "self_attn.k_proj",
        "attention.value": "self_attn.v_proj",
        "attention.output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn.gate": "mlp.gate_proj",
        "ffn.up": "mlp.up_proj",
        "ffn.down": "mlp.down_proj",
        "layers": "model.layers",
    },
    holds=_is_llama,
    split=split_rows,
    join=join_rows,
)
QWEN2 = replace(
    LLAMA, name="qwen2", holds=lambda spec: _fills_width(spec) and _is_uniform(spec, bias={"query_key_value"})
)
QWEN3 = replace(
    LLAMA,
    name="qwen3",
    names={**LLAMA.names, **NORMED},
    holds=lambda spec: _is_uniform(spec, qk_norm={"head"}),
)
OLMO2 = replace(
    QWEN3,
    name="olmo2",
    names={**QWEN3.names, **NORMED_AFTER},
    holds=lambda spec: _fills_width(spec) and _is_uniform(spec, norm_position={"after"}, qk_norm={"all_heads"}),
)
SMOLLM3 = replace(
    LLAMA, name="smollm3", holds=lambda spec: _fills_width(spec) and _is_uniform(spec, rotary_share={0.0, 1.0})
)
NEOX = Form(
    name="gpt_neox",
    names={
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
    },
    holds=_is_neox,
    split=_by_head,
    join=_by_kind,
)
OPENELM = Form(
    name="openelm",
    names={
        "embedding": "transformer.token_embeddings",
        "final_norm": "transformer.norm",
        "output": "lm_head",
        "attention_norm": "attn_norm",
        "attention.query_key_value": "attn.qkv_proj",
        "attention.output": "attn.out_proj",
        "attention.query_norm": "attn.q_norm",
        "attention.key_norm": "attn.k_norm",
        "ffn_norm": "ffn_norm",
        "ffn.gate_up": "ffn.proj_1",
        "ffn.down": "ffn.proj_2",
        "layers": "transformer.layers",
    },
    holds=_is_openelm,
    split=_as_it_is,
    join=_as_it_is,
)
