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

from pipeline.audit.export_model import export, hub_config, write_export
from pipeline.base.errors import EverystepError
from pipeline.formats.families import make_divisible
from pipeline.formats.model import LayerSpec
from tests.project import ROOT
from tests.trainer.exports import FAMILIES, random_tensors, read_spec

torch.set_num_threads(1)


CLASSES = {"olmo2": "Olmo2", "openelm": "OpenELM", "pythia": "GPTNeoX"}
CLASSES |= {"qwen2": "Qwen2", "qwen3": "Qwen3", "smollm3": "SmolLM3"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_comes_out_as_the_model_that_others_know(family: str) -> None:
    spec = read_spec(family)
    exported = export(spec, random_tensors(spec), eos_token_id=0)
    assert exported.config["architectures"] == [f"{CLASSES.get(family, 'Llama')}ForCausalLM"]


@pytest.mark.parametrize(
    ("family", "change"),
    [
        ("mobilellm", {"activation": "gelu"}),
        ("mobilellm", {"norm_position": "after"}),
        ("openelm", {"qk_norm": "all_heads"}),
        ("openelm", {"rotary_share": 0.0}),
        ("qwen2", {"head_width": 16}),
        ("olmo2", {"residual": "parallel"}),
    ],
)
def test_a_mixture_that_nobody_knows_is_refused(family: str, change: dict[str, Any]) -> None:
    spec = read_spec(family)
    odd = replace(spec, layers=tuple(replace(layer, **change) for layer in spec.layers))
    with pytest.raises(EverystepError, match="no hub form is known"):
        export(odd, random_tensors(odd), eos_token_id=0)


@pytest.mark.parametrize(("key", "values"), [("head_width", (16, 32)), ("qk_norm", ("head", None))])
def test_what_openelm_has_once_for_all_layers_may_not_differ(key: str, values: tuple[Any, Any]) -> None:
    spec = read_spec("openelm")
    layers = tuple(replace(layer, **{key: values[depth % 2]}) for depth, layer in enumerate(spec.layers))
    odd = replace(spec, layers=layers)
    with pytest.raises(EverystepError, match=f"{key}: .*in different layers; of all hub forms only OpenELM's"):
        export(odd, random_tensors(odd), eos_token_id=0)


@given(st.integers(1, 5000), st.lists(st.integers(1, 30000), min_size=2, max_size=5))
def test_readers_of_openelm_compute_any_ffn_widths_from_its_config(width: int, ffn_widths: list[int]) -> None:
    layers = [LayerSpec(query_heads=1, kv_heads=1, head_width=2, ffn_width=ffn, qk_norm="head") for ffn in ffn_widths]
    layers[-1] = replace(layers[-1], query_heads=2)  # equal layers are Qwen3's
    depths = tuple(range(len(layers)))
    model = replace(read_spec("openelm"), width=width, layers=tuple(layers), applications=depths, ffn_owner=depths)
    config = hub_config(model, "float32", 0)
    computed = [make_divisible(m * width, config["ffn_dim_divisor"]) for m in config["ffn_multipliers"]]
    assert computed == ffn_widths


def test_openelm_with_equal_layers_is_qwen3() -> None:
    spec = read_spec("openelm")
    equal = replace(spec, layers=spec.layers[:1] * len(spec.layers))
    exported = export(equal, random_tensors(equal), eos_token_id=0)
    assert exported.config["architectures"] == ["Qwen3ForCausalLM"] and len(exported.extra_files) == 1


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
