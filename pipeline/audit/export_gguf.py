"""A checkpoint as one GGUF file, which llama.cpp and what is built on it load: weights, sizes and tokenizer.

The file is written by the `gguf` package of llama.cpp's own repository, in the layout that llama.cpp's loader expects
of each architecture; llama.cpp's converter is not needed, which knows no new tokenizer. It has no clock and no host
in it: the same checkpoint gives the same bytes.

llama.cpp stores one layer for each depth, as the Hub does, so blocks that are applied twice and shared FFNs are written
out. What it cannot hold is refused with the reason.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline.audit.hub_forms import (
    LLAMA,
    NEOX,
    OLMO2,
    OPENELM,
    SMOLLM3,
    Array,
    Form,
    Tensors,
    form_of,
    renamed,
    split_rows,
)
from pipeline.audit.pull import portable_tokenizer
from pipeline.base.errors import EverystepError, well_shaped
from pipeline.base.files import atomic_writer
from pipeline.base.paths import TOKENIZER
from pipeline.formats.canonical import Json
from pipeline.formats.model import ModelSpec, tensor_shapes, unrolled
from pipeline.formats.rotary import frequencies
from pipeline.formats.vocabulary import FILL_MIDDLE, FILL_PREFIX, FILL_SUFFIX, end_token
from pipeline.release.facts import read_words
from pipeline.release.release import Release, State

Kind = Literal["f32", "f16"]
NAMES = {
    "embedding": "token_embd",
    "final_norm": "output_norm",
    "output": "output",
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.query_key_value": "attn_qkv",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "attention.output": "attn_output",
    "ffn_norm": "ffn_norm",
    "ffn.gate": "ffn_gate",
    "ffn.up": "ffn_up",
    "ffn.down": "ffn_down",
    "layers": "blk",
    "rotary_slowdown": "rope_freqs",
}
NAMES_AFTER = NAMES | {"attention_norm": "post_attention_norm", "ffn_norm": "post_ffw_norm"}
"""Those of OLMo 2, whose norms come after what they norm."""
SPLIT_LIKE_GPT_2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
"""The pre-tokenizer whose pieces llama.cpp's `gpt-2` reproduces (tests/trainer/test_llama_cpp.py)."""
FILL_IN_THE_MIDDLE = {"fim_pre": FILL_PREFIX, "fim_suf": FILL_SUFFIX, "fim_mid": FILL_MIDDLE}


def export_gguf(release: Release, state: State, out: Path, kind: Kind = "f32") -> None:
    """Write a verified state as the new file `out`. With `f16`, matrices are halved; norms and biases stay float32."""
    about = {
        "general.name": f"{release.name} {state.model} {state.entry.revision}",
        "general.license": read_words(release).release.license,
        "everystep.release": f"{release.name} {release.version}",
        "everystep.model": state.model,
        "everystep.revision": state.entry.revision,
        "everystep.weights_digest": state.record.weights_digest,
    }
    write_gguf(out, state.spec, state.weights(), release.file(TOKENIZER), about, kind)


def write_gguf(
    out: Path, spec: ModelSpec, tensors: Tensors, tokenizer_json: Path, about: Mapping[str, str], kind: Kind = "f32"
) -> None:
    """Write a model and its tokenizer; `about` are texts that llama.cpp prints when it loads the file."""
    from gguf import GGUFWriter, LlamaFileType

    if os.path.lexists(out):
        raise EverystepError(f"{out}: already exists; name a new file")
    twin, origin = unrolled(spec)
    plain = {name: tensors[origin[name]] for name in tensor_shapes(twin)}
    architecture, ours = _laid_out(twin, plain)
    with atomic_writer(out) as file:  # the writer opens the unfinished file again, by its name
        writer = GGUFWriter(Path(file.name), architecture)
        for key, text in about.items():
            writer.add_string(key, text)
        writer.add_file_type(LlamaFileType.ALL_F32 if kind == "f32" else LlamaFileType.MOSTLY_F16)
        _add_sizes(writer, twin, architecture)
        _add_tokenizer(writer, spec, tokenizer_json)
        names = NAMES_AFTER if form_of(twin) is OLMO2 else NAMES
        for name, tensor in ours.items():
            writer.add_tensor(renamed(name, names), _stored(name, tensor, kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def _laid_out(twin: ModelSpec, tensors: Tensors) -> tuple[str, dict[str, Array]]:
    """The architecture of llama.cpp that holds an unrolled model, and its tensors cut and ordered for it."""
    form, layer = form_of(twin), twin.layers[0]
    if form is NEOX:
        return "gptneox", dict(tensors)
    if form is not OPENELM:
        _require_as_llama_cpp_has_it(twin, form)
        parts = split_rows(twin, tensors)
        if form in (LLAMA, SMOLLM3):
            heads = {"query": layer.query_heads, "key": layer.kv_heads}
            parts = {name: _interleaved(part, heads.get(name.split(".")[-2])) for name, part in parts.items()}
        return form.name, parts | _slowdown(twin)
    if not layer.qk_norm:
        raise EverystepError(
            "llama.cpp's Llama has equal layers, and its OpenELM, whose layers may differ, norms queries and keys; "
            "this model has layers that differ and does not norm them"
        )
    if not twin.tied_embedding:
        raise EverystepError("llama.cpp's OpenELM uses the embedding as its head; this model has a head of its own")
    gate_up = {name: tensor for name, tensor in tensors.items() if ".gate_up." in name}
    return "openelm", {name: tensors[name] for name in tensors.keys() - gate_up} | split_rows(twin, gate_up)


def _require_as_llama_cpp_has_it(twin: ModelSpec, form: Form) -> None:
    if twin.rotary_scaling is not None and form is not LLAMA:
        raise EverystepError(f"rotary_scaling: llama.cpp reads it of Llama, but not of {form.name}")
    if form is OLMO2 and twin.tied_embedding:
        raise EverystepError("llama.cpp's OLMo 2 has a head of its own; this model uses the embedding as its head")
    unrotated = [depth for depth, layer in enumerate(twin.layers) if not layer.rotary_share]
    if form is SMOLLM3 and unrotated != [*range(3, len(twin.layers), 4)]:
        raise EverystepError(
            f"llama.cpp's SmolLM3 does not rotate layers 3, 7, 11 and so on; of this model these are {unrotated}"
        )


def _slowdown(twin: ModelSpec) -> dict[str, Array]:
    """How many times slower `rotary_scaling` makes each pair of dimensions turn."""
    if twin.rotary_scaling is None:
        return {}
    base, width = twin.rotary_base, twin.layers[0].rotary_width
    return {"rotary_slowdown.weight": frequencies(base, width) / frequencies(base, width, twin.rotary_scaling)}


def _interleaved(rows: Array, heads: int | None) -> Array:
    """llama.cpp's Llama and SmolLM3 rotate neighbours in a head; ours, and transformers', rotates the two halves."""
    if heads is None:
        return rows
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _stored(name: str, tensor: Array, kind: Kind) -> Array:
    if kind == "f32" or tensor.ndim < 2:
        return np.ascontiguousarray(tensor, np.float32)
    if np.abs(tensor).max() > np.finfo(np.float16).max:
        raise EverystepError(f"{name}: a weight is past the largest number of float16; write f32")
    return np.ascontiguousarray(tensor, np.float16)


def _add_sizes(writer: Any, twin: ModelSpec, architecture: str) -> None:
    first = twin.layers[0]
    writer.add_vocab_size(twin.vocabulary)
    writer.add_context_length(twin.context)
    writer.add_embedding_length(twin.width)
    writer.add_block_count(len(twin.layers))
    if form_of(twin) is OPENELM:
        writer.add_feed_forward_length([layer.ffn_width for layer in twin.layers])
        writer.add_head_count([layer.query_heads for layer in twin.layers])
        writer.add_head_count_kv([layer.kv_heads for layer in twin.layers])
    else:
        writer.add_feed_forward_length(first.ffn_width)
        writer.add_head_count(first.query_heads)
        writer.add_head_count_kv(first.kv_heads)
    writer.add_key_length(first.head_width)
    writer.add_value_length(first.head_width)
    writer.add_rope_dimension_count(first.rotary_width)
    writer.add_rope_freq_base(twin.rotary_base)
    if architecture == "gptneox":
        writer.add_layer_norm_eps(twin.norm_epsilon)
        writer.add_parallel_residual(first.residual == "parallel")
    else:
        writer.add_layer_norm_rms_eps(twin.norm_epsilon)


def _add_tokenizer(writer: Any, spec: ModelSpec, tokenizer_json: Path) -> None:
    """The vocabulary and merges of a byte-level BPE. Ids that no token has are unused; no begin token is added."""
    from gguf import TokenType

    tree: Json = json.loads(portable_tokenizer(tokenizer_json))
    with well_shaped(tokenizer_json):
        splits = {key: tree["pre_tokenizer"].get(key) for key in SPLIT_LIKE_GPT_2}
        if splits != SPLIT_LIKE_GPT_2 or tree.get("normalizer") or tree.get("post_processor"):
            raise EverystepError(
                f"{tokenizer_json}: llama.cpp has no rule that splits text as this tokenizer does; known is GPT-2's, "
                "which is byte-level with its pattern, without a normalizer, an added blank or added tokens"
            )
        texts = {number: (token, TokenType.NORMAL) for token, number in tree["model"]["vocab"].items()}
        for added in tree["added_tokens"]:
            kind = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
            texts[added["id"]] = (added["content"], kind)
        merges = tree["model"]["merges"]
    if past := [number for number in texts if number >= spec.vocabulary]:
        raise EverystepError(
            f"{tokenizer_json}: id {past[0]} is not in the vocabulary of {spec.vocabulary} of the model"
        )
    tokens = [texts.get(number, (f"[PAD{number}]", TokenType.UNUSED)) for number in range(spec.vocabulary)]
    end = end_token(tokenizer_json)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([text for text, _ in tokens])
    writer.add_token_types([kind for _, kind in tokens])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(end)
    writer.add_bos_token_id(end)  # llama.cpp takes id 11 for one where none is named
    writer.add_add_bos_token(False)
    ids = {text: number for number, (text, _) in texts.items()}
    for key, text in FILL_IN_THE_MIDDLE.items():
        if text in ids:
            writer.add_uint32(f"tokenizer.ggml.{key}_token_id", ids[text])
