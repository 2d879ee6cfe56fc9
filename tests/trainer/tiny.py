"""The smallest models of each family, for tests."""

from typing import Any

from pipeline.formats.families import build_spec
from pipeline.formats.model import ModelSpec

LLAMA: dict[str, Any] = {"rotary_base": 10000.0, "norm_epsilon": 1e-5, "initial_std": 0.02}
"""The published values that tests do not vary; those of the other families below."""
PYTHIA = LLAMA | {"initial_std": None, "initial_output_std": None}
OPENELM: dict[str, Any] = {
    "rotary_base": 10000.0,
    "norm_epsilon": 1e-6,
    "attention_multipliers": [0.5, 1.0],
    "ffn_multipliers": [0.5, 4.0],
}
GROUPED = LLAMA | {"query_heads": 2, "kv_heads": 1, "ffn_width": 64}
SCALING: dict[str, Any] = {"factor": 8.0, "low_frequency_factor": 1.0, "high_frequency_factor": 4.0}
KEYS: dict[str, dict[str, Any]] = {
    "llama": GROUPED | {"tied_embedding": False},
    "llama3": GROUPED | {"tied_embedding": True, "rotary_scaling": SCALING | {"original_context": 8}},
    "mobilellm": GROUPED | {"tied_embedding": True},
    "mobilellm-ls": GROUPED | {"tied_embedding": True},
    "mobillama": LLAMA | {"query_heads": 2, "ffn_width": 64, "tied_embedding": False, "shared_ffn": True},
    "olmo2": GROUPED | {"tied_embedding": False},
    "openelm": OPENELM | {"head_width": 16, "query_heads_per_kv_head": 2, "ffn_divisor": 32, "tied_embedding": True},
    "pythia": PYTHIA | {"heads": 2},
    "qwen2": GROUPED | {"tied_embedding": True},
    "qwen3": GROUPED | {"head_width": 16, "tied_embedding": True},
    "smollm3": GROUPED | {"tied_embedding": True, "unrotated_every": 2},
}


def tiny_spec(family: str = "mobilellm", **more: Any) -> ModelSpec:
    """64 wide, 2 layers, 320 tokens."""
    section: dict[str, Any] = {"family": family, "vocabulary": 320, "context": 32, "width": 64, "layers": 2}
    return build_spec(section | KEYS[family] | more, "a test")
