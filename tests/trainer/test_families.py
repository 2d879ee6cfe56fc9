"""Every published size of MobileLLM, MobiLlama and OpenELM has the published widths and number of parameters."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.formats.errors import EverystepError
from pipeline.formats.yaml import load_yaml
from trainer.description import ModelSpec, num_parameters, num_parameters_if_repeated
from trainer.families import build_spec, make_divisible

RECIPES = Path(__file__).parents[2] / "recipes"

# layers, width, query heads, kv heads, FFN width, parameters (facebookresearch/MobileLLM, configs/*/config.json; tied)
MOBILELLM = {
    "125M": (30, 576, 9, 3, 1536, 124_635_456),
    "350M": (32, 960, 15, 5, 2560, 345_355_200),
    "600M": (40, 1152, 18, 6, 3072, 603_188_352),
    "1B": (54, 1280, 20, 5, 3584, 1_005_461_760),
    "1.5B": (54, 1600, 25, 5, 4352, 1_511_188_800),
}

# layers, width, heads, FFN width, context, shared FFN, parameters, stored if the FFN is repeated
MOBILLAMA = {
    "05B": (22, 2048, 32, 5632, 2048, True, 534_865_920, 1_261_529_088),
    "08B": (22, 2560, 32, 10240, 2560, True, 819_315_200, 2_470_822_400),
    "1B": (22, 2048, 32, 5632, 2048, False, 1_261_529_088, 1_261_529_088),
}

# layers, width, head width, (query heads, layers) in order, FFN widths, parameters at vocabulary 32128 and at 32000
OPENELM: dict[str, tuple[int, int, int, list[tuple[int, int]], str, int, int]] = {
    "270M": (
        *(16, 1280, 64, [(12, 5), (16, 7), (20, 4)]),
        "768 1024 1280 1536 1792 2048 2560 2816 3072 3328 3584 3840 4352 4608 4864 5120",
        *(271_691_008, 271_527_168),
    ),
    "450M": (
        *(20, 1536, 64, [(12, 3), (16, 7), (20, 6), (24, 4)]),
        "768 1024 1280 1536 1792 2304 2560 2816 3072 3328 3584 3840 4096 4352 4608 5120 5376 5632 5888 6144",
        *(457_375_744, 457_179_136),
    ),
    "1.1B": (
        *(28, 2048, 64, [(16, 3), (20, 7), (24, 8), (28, 6), (32, 4)]),
        "1024 1280 1536 1792 2048 2304 2560 2816 3072 3328 3584 3840 4096 4608 4608 5120 5376 5632 5888 6144 6400 6656 "
        "6912 7168 7424 7680 7936 8192",
        *(1_080_153_600, 1_079_891_456),
    ),
    "3B": (
        *(36, 3072, 128, [(12, 4), (16, 14), (20, 12), (24, 6)]),
        "1536 1792 2048 2560 2816 3072 3328 3584 4096 4352 4608 4864 5120 5632 5888 6144 6400 6656 7168 7424 7680 7936 "
        "8192 8704 8960 9216 9472 9728 10240 10496 10752 11008 11264 11776 12032 12288",
        *(3_037_040_640, 3_036_647_424),
    ),
}


def mobilellm(size: str, family: str = "mobilellm") -> dict[str, Any]:
    layers, width, query_heads, kv_heads, ffn_width, _ = MOBILELLM[size]
    heads = {"query_heads": query_heads, "kv_heads": kv_heads}
    return {"family": family, "vocabulary": 32000, "context": 2048, "width": width, "layers": layers, **heads} | {
        "ffn_width": ffn_width
    }


@pytest.mark.parametrize("size", MOBILELLM)
def test_mobilellm_has_the_published_number_of_parameters(size: str) -> None:
    spec = build_spec(mobilellm(size), "x.yaml")
    assert num_parameters(spec) == MOBILELLM[size][-1]
    assert spec.layers[0].head_width == 64


def test_mobilellm_read_from_its_config_file_alone_would_be_untied() -> None:
    assert num_parameters(build_spec(mobilellm("125M") | {"tied_embedding": False}, "x.yaml")) == 143_067_456


@pytest.mark.parametrize("size", ["125M", "350M"])
def test_mobilellm_ls_applies_each_block_twice_in_a_row_and_stores_it_once(size: str) -> None:
    spec = build_spec(mobilellm(size, "mobilellm-ls"), "x.yaml")
    layers = MOBILELLM[size][0]
    assert spec.applications == tuple(layer for layer in range(layers) for _ in range(2))
    assert num_parameters(spec) == MOBILELLM[size][-1]


@pytest.mark.parametrize("size", MOBILLAMA)
def test_mobillama_has_the_published_number_of_parameters(size: str) -> None:
    layers, width, heads, ffn_width, context, shared, unique, repeated = MOBILLAMA[size]
    section = {"family": "mobillama", "vocabulary": 32000, "context": context, "width": width, "layers": layers}
    spec = build_spec(section | {"query_heads": heads, "ffn_width": ffn_width, "shared_ffn": shared}, "x.yaml")
    assert (num_parameters(spec), num_parameters_if_repeated(spec)) == (unique, repeated)
    assert all(layer.kv_heads == layer.query_heads for layer in spec.layers)


def openelm(size: str, vocabulary: int) -> ModelSpec:
    layers, width, head_width, *_ = OPENELM[size]
    section = {"family": "openelm", "vocabulary": vocabulary, "context": 2048, "width": width, "layers": layers}
    return build_spec(section | {"head_width": head_width}, "x.yaml")


@pytest.mark.parametrize("size", OPENELM)
def test_openelm_has_the_published_widths_and_number_of_parameters(size: str) -> None:
    spec = openelm(size, 32128)
    _, _, _, heads, ffn_widths, in_training, on_the_hub = OPENELM[size]
    assert [layer.query_heads for layer in spec.layers] == [count for count, layers in heads for _ in range(layers)]
    assert all(layer.kv_heads == layer.query_heads // 4 and layer.qk_norm for layer in spec.layers)
    assert [layer.ffn_width for layer in spec.layers] == [int(width) for width in ffn_widths.split()]
    assert num_parameters(spec) == in_training
    assert num_parameters(openelm(size, 32000)) == on_the_hub


def test_a_width_never_falls_below_nine_tenths() -> None:
    assert make_divisible(76.8, 64) == 128
    assert make_divisible(70.0, 64) == 64
    assert make_divisible(1.0, 64) == 64


@pytest.mark.parametrize("name", ["mobilellm", "mobilellm-ls", "mobillama", "openelm"])
def test_the_demo_siblings_share_one_budget(name: str) -> None:
    spec = build_spec(load_yaml(RECIPES / f"{name}.yaml")["model"], f"recipes/{name}.yaml")
    assert num_parameters(spec) == pytest.approx(1_443_968, rel=0.01)
    assert (spec.vocabulary, spec.context, spec.width) == (2048, 256, 128)
    assert all(layer.ffn_width % 64 == 0 and layer.head_width % 16 == 0 for layer in spec.layers)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"query_heads": 5},
            "recipes/x.yaml: model.query_heads: 5 does not divide width 576; choose a divisor such as 4",
        ),
        (
            {"kv_heads": 2},
            "recipes/x.yaml: model.kv_heads: 2 does not divide query_heads 9; choose a divisor such as 1",
        ),
        ({"query_heads": 64}, "recipes/x.yaml: model.query_heads: 64 heads of a width of 576 are 9 wide"),
        ({"layers": 0}, "recipes/x.yaml: model.layers: input should be greater than 0, got 0"),
        ({"width": "576"}, "recipes/x.yaml: model.width: input should be a valid integer, got '576'"),
        ({"biases": True}, "recipes/x.yaml: model.biases: unknown key; remove it or correct its spelling"),
        ({"family": "gpt"}, "recipes/x.yaml: model.family: must be one of mobilellm, mobilellm-ls, mobillama, openelm"),
    ],
)
def test_a_wrong_recipe_names_file_key_and_fix(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EverystepError) as error:
        build_spec(mobilellm("125M") | change, "recipes/x.yaml")
    assert str(error.value).startswith(message)


def test_a_missing_key_is_named() -> None:
    section = mobilellm("125M")
    del section["context"]
    with pytest.raises(EverystepError, match=r"recipes/x\.yaml: model\.context: missing; add it"):
        build_spec(section, "recipes/x.yaml")
