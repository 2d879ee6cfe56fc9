"""The smallest models of each family, for tests."""

from typing import Any

from trainer.description import ModelSpec
from trainer.families import build_spec


def tiny_spec(family: str = "mobilellm", **more: Any) -> ModelSpec:
    """64 wide, 2 layers, 320 tokens."""
    section: dict[str, Any] = {"family": family, "vocabulary": 320, "context": 32, "width": 64, "layers": 2}
    heads = {"query_heads": 2, "kv_heads": 1, "ffn_width": 64}
    if family == "openelm":
        heads = {"head_width": 16, "query_heads_per_kv_head": 2, "ffn_divisor": 32}
    if family == "mobillama":
        del heads["kv_heads"]
    return build_spec(section | heads | more, "a test")
