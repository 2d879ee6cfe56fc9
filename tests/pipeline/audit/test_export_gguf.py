"""GGUF files, read back by the reader of llama.cpp's own package; what llama.cpp says with them is in
tests/trainer/test_llama_cpp.py."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from pipeline.audit.export_gguf import write_gguf
from pipeline.base.errors import EverystepError
from pipeline.formats.model import ModelSpec, num_parameters, unrolled
from tests.trainer.exports import FAMILIES, random_tensors, read_spec, tokenizer_file

ABOUT = {"general.name": "a model", "everystep.weights_digest": "tensors-v1:00"}
ARCHITECTURES = {"pythia": "gptneox"} | {name: name for name in ("openelm", "olmo2", "qwen2", "qwen3", "smollm3")}


def written(folder: Path, spec: ModelSpec, **how: Any) -> GGUFReader:
    path = folder / "model.gguf"
    write_gguf(path, spec, random_tensors(spec), tokenizer_file(folder), ABOUT, **how)
    return GGUFReader(path)


def said(read: GGUFReader) -> dict[str, Any]:
    return {key: field.contents() for key, field in read.fields.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_holds_every_weight_once_a_depth_and_the_vocabulary(family: str, tmp_path: Path) -> None:
    spec = read_spec(family)
    read = written(tmp_path, spec)
    facts, tree = said(read), json.loads((tmp_path / "released.json").read_bytes())
    assert facts["general.architecture"] == ARCHITECTURES.get(family, "llama")
    assert facts["everystep.weights_digest"] == "tensors-v1:00"
    weights = [tensor for tensor in read.tensors if tensor.name != "rope_freqs.weight"]
    assert sum(tensor.data.size for tensor in weights) == num_parameters(unrolled(spec)[0])
    assert (len(weights) < len(read.tensors)) == (spec.rotary_scaling is not None)
    assert {tensor.data.dtype for tensor in read.tensors} == {np.dtype("float32")}
    tokens, kinds = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    assert len(tokens) == len(kinds) == spec.vocabulary
    assert tokens[:320] == sorted(tree["model"]["vocab"], key=tree["model"]["vocab"].get)
    assert (kinds[0], set(kinds[1:320]), set(kinds[320:])) == (3, {1}, {5})  # control, normal, unused
    assert facts["tokenizer.ggml.merges"] == [" ".join(pair) for pair in tree["model"]["merges"]]
    assert facts["tokenizer.ggml.eos_token_id"] == 0 and facts["tokenizer.ggml.add_bos_token"] is False


def test_query_rows_of_a_llama_are_those_that_llama_cpp_rotates_together(tmp_path: Path) -> None:
    """Row i of a head and row i + half of it, which we rotate as a pair, are neighbours there."""
    spec = read_spec("mobilellm")
    layer, ours = spec.layers[0], random_tensors(spec)["layers.0.attention.query_key_value.weight"]
    tensors = {tensor.name: tensor.data for tensor in written(tmp_path, spec).tensors}
    half = layer.head_width // 2
    for name, heads, start in (("q", layer.query_heads, 0), ("k", layer.kv_heads, layer.query_heads * 2 * half)):
        for head in range(heads):
            theirs = tensors[f"blk.0.attn_{name}.weight"][head * 2 * half : (head + 1) * 2 * half]
            first = start + head * 2 * half
            assert np.array_equal(theirs[0::2], ours[first : first + half])
            assert np.array_equal(theirs[1::2], ours[first + half : first + 2 * half])


def test_layers_of_openelm_keep_their_widths(tmp_path: Path) -> None:
    spec = read_spec("openelm")
    facts = said(written(tmp_path, spec))
    assert facts["openelm.feed_forward_length"] == [layer.ffn_width for layer in spec.layers]
    assert facts["openelm.attention.head_count"] == [layer.query_heads for layer in spec.layers]
    assert len(set(facts["openelm.feed_forward_length"])) > 1


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        written(tmp_path / name, read_spec("mobillama"))
    assert (tmp_path / "a" / "model.gguf").read_bytes() == (tmp_path / "b" / "model.gguf").read_bytes()


def test_f16_halves_matrices_and_keeps_norms(tmp_path: Path) -> None:
    spec = read_spec("mobilellm")
    kinds = {tensor.name: tensor.data.dtype.name for tensor in written(tmp_path, spec, kind="f16").tensors}
    assert kinds["blk.0.attn_q.weight"] == "float16" and kinds["blk.0.attn_norm.weight"] == "float32"
    large = random_tensors(spec)
    large["embedding.weight"][0, 0] = 1e5
    with pytest.raises(EverystepError, match=r"embedding\.weight: .* float16; write f32"):
        write_gguf(tmp_path / "large.gguf", spec, large, tmp_path / "released.json", ABOUT, "f16")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda spec: replace(spec, tied_embedding=False), "has a head of its own"),
        (
            lambda spec: replace(spec, layers=tuple(replace(layer, qk_norm=None) for layer in spec.layers)),
            "has layers that differ and does not norm them",
        ),
        (
            lambda spec: replace(spec, layers=tuple(replace(layer, activation="gelu") for layer in spec.layers)),
            "no hub form is known",
        ),
    ],
)
def test_what_llama_cpp_cannot_hold_is_refused_and_nothing_is_left(change: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match=reason):
        written(tmp_path, change(read_spec("openelm")))
    assert [path.name for path in tmp_path.iterdir()] == ["released.json"]


@pytest.mark.parametrize(
    ("family", "change", "reason"),
    [
        ("qwen2", {"rotary_scaling": read_spec("llama3").rotary_scaling}, "reads it of Llama, but not of qwen2"),
        ("olmo2", {"tied_embedding": True}, "OLMo 2 has a head of its own"),
        (
            "smollm3",
            {"layers": read_spec("smollm3").layers[::-1]},
            r"3, 7, 11 and so on; of this model these are \[0\]",
        ),
    ],
)
def test_what_llama_cpp_takes_for_granted_is_required(
    family: str, change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(EverystepError, match=reason):
        written(tmp_path, replace(read_spec(family), **change))


@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
        {"normalizer": {"type": "NFC"}},
        {"post_processor": {"type": "TemplateProcessing"}},
    ],
)
def test_a_tokenizer_that_splits_in_another_way_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    spec = read_spec("mobilellm")
    path = tokenizer_file(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EverystepError, match="has no rule that splits text as this tokenizer does"):
        write_gguf(tmp_path / "model.gguf", spec, random_tensors(spec), path, ABOUT)


def test_a_tokenizer_with_more_ids_than_the_model_and_an_existing_file_are_refused(tmp_path: Path) -> None:
    spec = replace(read_spec("mobilellm"), vocabulary=300)
    with pytest.raises(EverystepError, match="id 300 is not in the vocabulary of 300"):
        written(tmp_path, spec)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(EverystepError, match="already exists"):
        written(tmp_path, read_spec("mobilellm"))
