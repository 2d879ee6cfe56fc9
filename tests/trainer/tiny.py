"""The smallest models of each family, for tests."""

from typing import Any

from pipeline.formats.model import ModelSpec
from trainer.families import build_spec

GROUPED = {"query_heads": 2, "kv_heads": 1, "ffn_width": 64}
KEYS: dict[str, dict[str, Any]] = {
    "llama": GROUPED | {"tied_embedding": False},
    "mobilellm": GROUPED | {"tied_embedding": True},
    "mobilellm-ls": GROUPED | {"tied_embedding": True},
    "mobillama": {"query_heads": 2, "ffn_width": 64, "tied_embedding": False, "shared_ffn": True},
    "openelm": {"head_width": 16, "query_heads_per_kv_head": 2, "ffn_divisor": 32, "tied_embedding": True},
    "pythia": {"heads": 2, "initial_std": None, "initial_output_std": None},
}


def tiny_spec(family: str = "mobilellm", **more: Any) -> ModelSpec:
    """64 wide, 2 layers, 320 tokens."""
    section: dict[str, Any] = {"family": family, "vocabulary": 320, "context": 32, "width": 64, "layers": 2}
    return build_spec(section | KEYS[family] | more, "a test")
