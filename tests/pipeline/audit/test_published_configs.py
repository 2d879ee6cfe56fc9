"""The `config.json` of every recipe's hub form, key by key, beside the files that the authors published.

Where ours says something else, it is in `OTHERWISE`, with the reason: there the published file does not describe the
published model.
"""

from typing import Any

import pytest

from pipeline.audit.export_model import hub_config
from pipeline.formats.families import make_divisible
from tests.project import ROOT
from tests.trainer.test_recipes import PUBLISHED
from trainer.recipe import load_recipe

LLAMA_KEYS = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "rms_norm_eps",
    "tie_word_embeddings",
    "max_position_embeddings",
)
LLAMA = {
    "mobilellm-125m": (30, 576, 9, 3, 1536, 1e-5, False, 2048),
    "mobilellm-350m": (32, 960, 15, 5, 2560, 1e-5, False, 2048),
    "mobilellm-600m": (40, 1152, 18, 6, 3072, 1e-5, False, 2048),
    "mobilellm-1b": (54, 1280, 20, 5, 3584, 1e-5, False, 2048),
    "mobilellm-1.5b": (54, 1600, 25, 5, 4352, 1e-5, False, 2048),
    "mobilellm-ls-125m": (30, 576, 9, 3, 1536, 1e-5, False, 2048),
    "mobilellm-ls-350m": (32, 960, 15, 5, 2560, 1e-5, False, 2048),
    "mobillama-05b": (22, 2048, 32, 4, 5632, 1e-5, False, 2048),
    "mobillama-08b": (22, 2560, 32, 4, 10240, 1e-5, False, 2560),
    "mobillama-large-base": (22, 2048, 32, 4, 5632, 1e-5, False, 2048),
    "amber-7b": (32, 4096, 32, 32, 11008, 1e-6, False, 2048),
}
PYTHIA_KEYS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
PYTHIA = {
    "pythia-14m": (6, 128, 4, 512, 50304),
    "pythia-31m": (6, 256, 8, 1024, 50304),
    "pythia-70m": (6, 512, 8, 2048, 50304),
    "pythia-160m": (12, 768, 12, 3072, 50304),
    "pythia-410m": (24, 1024, 16, 4096, 50304),
    "pythia-1b": (16, 2048, 8, 8192, 50304),
    "pythia-1.4b": (24, 2048, 16, 8192, 50304),
    "pythia-2.8b": (32, 2560, 32, 10240, 50304),
    "pythia-6.9b": (32, 4096, 32, 16384, 50432),
    "pythia-12b": (36, 5120, 40, 20480, 50688),
}
OPENELM_KEYS = ("num_transformer_layers", "model_dim", "head_dim")
OPENELM = {
    "openelm-270m": (16, 1280, 64),
    "openelm-450m": (20, 1536, 64),
    "openelm-1.1b": (28, 2048, 64),
    "openelm-3b": (36, 3072, 128),
}
FFN_MULTIPLIERS = {  # published with two digits, from which readers find widths
    "openelm-270m": "0.5 0.73 0.97 1.2 1.43 1.67 1.9 2.13 2.37 2.6 2.83 3.07 3.3 3.53 3.77 4",
    "openelm-450m": "0.5 0.68 0.87 1.05 1.24 1.42 1.61 1.79 1.97 2.16 2.34 2.53 2.71 2.89 3.08 3.26 3.45 3.63 3.82 4",
    "openelm-1.1b": "0.5 0.63 0.76 0.89 1.02 1.15 1.28 1.41 1.54 1.67 1.8 1.93 2.06 2.19 2.31 2.44 2.57 2.7 2.83 2.96 "
    "3.09 3.22 3.35 3.48 3.61 3.74 3.87 4",
    "openelm-3b": " ".join(f"{tenth / 10}" for tenth in range(5, 41)),
}

OTHERWISE: dict[str, dict[str, Any]] = {
    # The models are trained tied, by a flag of the trainer; their published counts are those of tied models.
    **{name: {"tie_word_embeddings": True} for name in LLAMA if name.startswith("mobilellm")},
    # The published code ignores the four heads and builds 32.
    **{name: {"num_key_value_heads": 32} for name in LLAMA if name.startswith("mobillama")},
}
# Llama applies a layer once, so one that is applied twice is written twice.
OTHERWISE["mobilellm-ls-125m"] |= {"num_hidden_layers": 60}
OTHERWISE["mobilellm-ls-350m"] |= {"num_hidden_layers": 64}
# No row of its training was longer than 2048 inputs.
OTHERWISE["mobillama-08b"] |= {"max_position_embeddings": 2048}


def published(name: str) -> dict[str, Any]:
    """The keys of the published file that decide what the model computes."""
    if name in LLAMA:
        sizes = dict(zip(LLAMA_KEYS, LLAMA[name], strict=True))
        common = {"model_type": "llama", "hidden_act": "silu", "rope_theta": 10000.0, "vocab_size": 32000}
        return sizes | common | {"head_dim": sizes["hidden_size"] // sizes["num_attention_heads"]}
    if name in PYTHIA:
        return dict(zip(PYTHIA_KEYS, PYTHIA[name], strict=True)) | {
            "model_type": "gpt_neox",
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
            "rotary_emb_base": 10000,
            "rotary_pct": 0.25,
            "tie_word_embeddings": False,
            "use_parallel_residual": True,
        }
    size = name.removesuffix("-hub")
    return dict(zip(OPENELM_KEYS, OPENELM[size], strict=True)) | {
        "activation_fn_name": "swish",
        "ffn_dim_divisor": 256,
        "ffn_with_glu": True,
        "max_context_length": 2048,
        "model_type": "openelm",
        "normalization_layer_name": "rms_norm",
        "normalize_qk_projections": True,
        "num_gqa_groups": 4,
        "rope_freq_constant": 10000,
        "rope_max_length": 4096,
        "share_input_output_layers": True,
        "vocab_size": 32000 if name.endswith("-hub") else 32128,  # as trained; the hub's are cut
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_hub_config_says_what_the_authors_published(name: str) -> None:
    found = hub_config(load_recipe(name, ROOT)[1], "float32", eos_token_id=0)
    expected = published(name) | OTHERWISE.get(name, {})
    assert {key: found[key] for key in expected} == expected


@pytest.mark.parametrize("name", OPENELM)
def test_readers_of_openelms_config_find_the_published_widths(name: str) -> None:
    for variant in (name, f"{name}-hub"):
        spec = load_recipe(variant, ROOT)[1]
        found = hub_config(spec, "float32", eos_token_id=0)
        widths = [make_divisible(m * spec.width, found["ffn_dim_divisor"]) for m in found["ffn_multipliers"]]
        theirs = [make_divisible(float(m) * spec.width, 256) for m in FFN_MULTIPLIERS[name].split()]
        assert widths == theirs == [layer.ffn_width for layer in spec.layers]
        assert found["num_query_heads"] == [4 * heads for heads in found["num_kv_heads"]]
