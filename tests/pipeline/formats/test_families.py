"""The families: what each makes of its section, and what a wrong section is told. Published sizes: test_recipes.py."""

from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.yaml import load_yaml
from pipeline.formats.families import FAMILIES, build_spec, make_divisible
from pipeline.formats.model import (
    ModelSpec,
    RotaryScaling,
    initial_value,
    num_parameters,
    num_parameters_if_repeated,
    tensor_shapes,
)
from tests.trainer.tiny import KEYS, SCALING, tiny_spec

RECIPES = Path(__file__).parents[3] / "recipes"


def published(name: str, **changes: Any) -> dict[str, Any]:
    section: dict[str, Any] = load_yaml(RECIPES / f"{name}.yaml")["model"]
    return section | changes


def test_every_family_has_a_tiny_model() -> None:
    assert KEYS.keys() == FAMILIES.keys()
    assert all(len(tiny_spec(family).layers) == 2 for family in FAMILIES)


def test_mobilellm_read_from_its_config_file_alone_would_be_untied() -> None:
    section = published("mobilellm-125m", tied_embedding=False)
    assert num_parameters(build_spec(section, "x.yaml")) == 143_067_456


@pytest.mark.parametrize("name", ["mobilellm-ls-125m", "mobilellm-ls-350m"])
def test_mobilellm_ls_applies_each_block_twice_in_a_row_and_stores_it_once(name: str) -> None:
    spec, plain = (build_spec(published(size), "x.yaml") for size in (name, name.replace("-ls", "")))
    assert spec.applications == tuple(layer for layer in range(len(plain.layers)) for _ in range(2))
    assert tensor_shapes(spec) == tensor_shapes(plain)


@pytest.mark.parametrize("name", ["mobillama-05b", "mobillama-08b"])
def test_mobillama_has_one_ffn_and_full_multi_head_attention(name: str) -> None:
    spec = build_spec(published(name), "x.yaml")
    assert [tensor for tensor in tensor_shapes(spec) if "ffn.down" in tensor] == ["layers.0.ffn.down.weight"]
    assert all(layer.kv_heads == layer.query_heads == 32 for layer in spec.layers)
    apart = build_spec(published(name, shared_ffn=False), "x.yaml")
    assert num_parameters(apart) == num_parameters_if_repeated(apart) == num_parameters_if_repeated(spec)


def test_mobillama_of_the_repositorys_eight_layers_would_be_another_model() -> None:
    assert num_parameters(build_spec(published("mobillama-05b", layers=8), "x.yaml")) == 299_927_552


def test_pythia_is_neox_with_a_quarter_of_each_head_rotated() -> None:
    (layer,) = set(build_spec(published("pythia-410m"), "x.yaml").layers)
    assert (layer.norm, layer.activation, layer.bias, layer.residual) == ("layer", "gelu", "all", "parallel")
    assert (layer.kv_heads, layer.head_width, layer.rotary_width, layer.ffn_width) == (16, 64, 16, 4096)


def test_llamas_kin_say_one_thing_more() -> None:
    """Its layers, or its rotation, but for one key or two."""
    llama = tiny_spec("llama", tied_embedding=True)
    (layer,) = set(llama.layers)
    assert tiny_spec("qwen2").layers == (replace(layer, bias="query_key_value"),) * 2
    assert tiny_spec("qwen3").layers == (replace(layer, qk_norm="head", head_width=16),) * 2
    after = replace(layer, qk_norm="all_heads", norm_position="after")
    assert tiny_spec("olmo2", tied_embedding=True) == replace(llama, layers=(after, after))
    assert tiny_spec("smollm3").layers == (layer, replace(layer, rotary_share=0.0))
    scaled = tiny_spec("llama3")
    assert scaled.rotary_scaling == RotaryScaling(**SCALING, original_context=8)
    assert replace(scaled, rotary_scaling=None) == llama


def test_qwen3s_heads_need_not_divide_the_width() -> None:
    spec = tiny_spec("qwen3", query_heads=3, kv_heads=3, head_width=10)
    assert tensor_shapes(spec)["layers.0.attention.output.weight"] == (64, 30)
    with pytest.raises(EverystepError, match=r"model: rotary positions need an even number .* head_width 9 times"):
        tiny_spec("qwen3", head_width=9)
    with pytest.raises(EverystepError, match="model: kv_heads: 2 does not divide query_heads 3"):
        tiny_spec("qwen3", query_heads=3, kv_heads=2)


def deviations(spec: ModelSpec) -> tuple[float, float, float]:
    """Of the embedding, of what reads the residual stream and of what writes to it."""
    names = ("embedding.weight", "layers.1.attention.query_key_value.weight", "layers.1.ffn.down.weight")
    one, two, three = (initial_value(spec, name)[1] for name in names)
    return one, two, three


def test_pythias_first_weights_are_small_and_wangs_where_no_number_is_given() -> None:
    small, wang = sqrt(2 / (5 * 1024)), 2 / (24 * sqrt(1024))
    assert deviations(build_spec(published("pythia-410m"), "x.yaml")) == (small, small, wang)


@pytest.mark.parametrize(("name", "layers"), [("pythia-6.9b", 32), ("pythia-12b", 36)])
def test_the_largest_pythias_have_neoxs_default_first_weights(name: str, layers: int) -> None:
    assert deviations(build_spec(published(name), "x.yaml")) == pytest.approx((0.02, 0.02, 0.02 / sqrt(2 * layers)))


def test_a_width_never_falls_below_nine_tenths() -> None:
    assert make_divisible(76.8, 64) == 128
    assert make_divisible(70.0, 64) == 64
    assert make_divisible(1.0, 64) == 64


@pytest.mark.parametrize("name", ["mobilellm", "mobilellm-ls", "mobillama", "openelm"])
def test_the_demo_siblings_share_one_budget(name: str) -> None:
    spec = build_spec(published(name), f"recipes/{name}.yaml")
    assert num_parameters(spec) == pytest.approx(830_000, rel=0.1)
    assert (spec.vocabulary, spec.context, spec.width) == (2048, 256, 128)
    assert all(layer.ffn_width % 64 == 0 and layer.head_width % 16 == 0 for layer in spec.layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_heads": 5}, "query_heads: 5 does not divide width 576; choose a divisor such as 4"),
        ({"kv_heads": 2}, "kv_heads: 2 does not divide query_heads 9; choose a divisor such as 1"),
        ({"query_heads": 64}, "query_heads: 64 heads of a width of 576 are 9 wide"),
        ({"layers": 0}, "layers: input should be greater than 0, got 0"),
        ({"width": "576"}, "width: input should be a valid integer, got '576'"),
        ({"biases": True}, "biases: unknown key; remove it or correct its spelling"),
        ({"family": "gpt"}, f"family: must be one of {', '.join(FAMILIES)}, got 'gpt'"),
    ],
)
def test_a_wrong_recipe_names_file_key_and_fix(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EverystepError) as error:
        build_spec(published("mobilellm-125m", **change), "recipes/x.yaml")
    assert str(error.value).startswith(f"recipes/x.yaml: model.{message}")


def test_heads_that_leave_no_even_quarter_to_rotate_are_refused() -> None:
    with pytest.raises(EverystepError, match=r"x\.yaml: model\.heads: 32 heads of a width of 128: each must be a mult"):
        build_spec(published("pythia-14m", heads=32), "x.yaml")


@pytest.mark.parametrize(
    ("family", "key"),
    [
        (family, key)
        for family, (section, _) in FAMILIES.items()
        for key, field in section.model_fields.items()
        if field.is_required()
    ],
)
def test_no_key_of_a_family_may_be_left_out(family: str, key: str) -> None:
    section = {"family": family, "vocabulary": 320, "context": 32, "width": 64, "layers": 2} | KEYS[family]
    del section[key]
    message = "must be one of" if key == "family" else "missing; add it"
    with pytest.raises(EverystepError, match=rf"recipes/x\.yaml: model\.{key}: {message}"):
        build_spec(section, "recipes/x.yaml")
