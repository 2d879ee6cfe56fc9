"""Three forms in which others know our models: the names of their tensors, how ours are cut for them, and back.

`llama` and `gpt_neox` are transformers' own; `openelm` is the layout of apple/OpenELM, which mlx-lm and llama.cpp read
too. All three store one layer for each depth, so they take unrolled models (`pipeline.formats.model.unrolled`).

Law: `form.join(spec, form.split(spec, tensors)) == tensors`, byte for byte, for every tensor of an unrolled model.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
    names: Mapping[str, str]
    split: Callable[[ModelSpec, Tensors], dict[str, Array]]
    """Our tensors, cut and ordered as the form has them, still under names of ours."""
    join: Callable[[ModelSpec, Tensors], dict[str, Array]]
    """The inverse of `split`."""

    def hub_name(self, name: str) -> str:
        """`layers.3.ffn.down.weight` -> `model.layers.3.mlp.down_proj.weight`."""
        return renamed(name, self.names)


def form_of(spec: ModelSpec) -> Form:
    """The form that holds an unrolled model; the error for one that fits none says why."""
    kinds = {(la.norm, la.activation, la.bias, la.residual, la.rotary_share) for la in spec.layers}
    if is_neox(spec):
        return NEOX
    if kinds != {("rms", "swiglu", False, "sequential", 1.0)}:
        raise EverystepError("no hub form is known for this mixture of norms, activations, biases and residuals")
    if is_plain_llama(spec):
        return LLAMA
    for what, values in (
        ("head_width", {layer.head_width for layer in spec.layers}),
        ("qk_norm", {layer.qk_norm for layer in spec.layers}),
    ):
        if len(values) > 1:
            raise EverystepError(
                f"{what}: {', '.join(map(str, sorted(values)))} in different layers; of all hub forms only OpenELM's "
                "has layers that differ, in their heads and FFN widths, and it has one value of this for all"
            )
    return OPENELM


def renamed(name: str, names: Mapping[str, str]) -> str:
    """Translate the name of a tensor by a table of the names of modules; depth and kind are kept."""
    module, kind = name.rsplit(".", 1)
    if not module.startswith("layers."):
        return f"{names[module]}.{kind}"
    _, depth, rest = module.split(".", 2)
    return f"{names['layers']}.{depth}.{names[rest]}.{kind}"


def is_plain_llama(spec: ModelSpec) -> bool:
    """Whether an unrolled model with Llama's blocks has equal layers without normed queries and keys."""
    first = spec.layers[0]
    return len(set(spec.layers)) == 1 and not first.qk_norm and spec.width % first.query_heads == 0


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
    split=split_rows,
    join=join_rows,
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
    split=_as_it_is,
    join=_as_it_is,
)
