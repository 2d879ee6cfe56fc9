"""Series as others published them, in the shapes of what was wrong with them, with small weights."""

import json
import struct
from collections.abc import Mapping
from functools import cache

import numpy as np

Branches = dict[str, dict[str, bytes]]

PYTHIA = [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 143_001, 1000)]
LAYERS = 32
CONFIG = json.dumps({"architectures": ["GPTNeoXForCausalLM"], "num_hidden_layers": LAYERS, "torch_dtype": "float16"})
SMALL = {
    ".gitattributes": b"*.safetensors filter=lfs\n",
    "README.md": b"# a card\n",
    "config.json": CONFIG.encode(),
    "special_tokens_map.json": b'{"eos_token": "<|endoftext|>"}',
    "tokenizer.json": b'{"model": {"type": "BPE"}}',
    "tokenizer_config.json": b'{"tokenizer_class": "GPTNeoXTokenizer"}',
}
ISSUE_205_MAIN = [
    *PYTHIA[:11],
    *range(1000, 53_001, 1000),
    *(55_000, 60_000, 65_000, 70_000, 80_000, 90_000, 100_000, 103_000, 110_000, 120_000, 130_000, 140_000),
]
"""Steps of pythia-2.8b that served the weights of `main` (EleutherAI/pythia#205)."""
ISSUE_205_SECOND = [54_000, 56_000, 57_000, 58_000, 59_000, 61_000, 62_000, 63_000, 64_000, 143_000]
"""Those that served a second file."""


def safetensors(tensors: Mapping[str, np.ndarray], dtype: str | None = None) -> bytes:
    """A safetensors file; `dtype` is what it calls float16."""
    names = {"float32": "F32", "float16": dtype or "F16"}
    header, content = {}, b""
    for name, tensor in tensors.items():
        raw = tensor.tobytes()
        about = {"dtype": names[tensor.dtype.name], "shape": list(tensor.shape)}
        header[name] = about | {"data_offsets": [len(content), len(content) + len(raw)]}
        content += raw
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded + content


@cache
def weights(seed: int, layers: int = LAYERS, dtype: str | None = None) -> bytes:
    """Weights with the tensors of Pythia, each of four numbers."""
    blocks = [
        *("input_layernorm", "post_attention_layernorm", "attention.query_key_value", "attention.dense"),
        *("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    ]
    parts = [f"{block}.{part}" for block in blocks for part in ("weight", "bias")]
    names = [
        *("gpt_neox.embed_in.weight", "embed_out.weight", "gpt_neox.final_layer_norm.weight"),
        *(f"gpt_neox.layers.{n}.{part}" for n in range(layers) for part in parts),
    ]
    numbers = np.random.default_rng(seed).standard_normal((len(names), 2, 2)).astype(np.float16)
    return safetensors(dict(zip(names, numbers, strict=True)), dtype)


def clean(steps: list[int] | None = None) -> Branches:
    """A series with nothing wrong: each step has weights of its own, `main` is the last."""
    steps = PYTHIA if steps is None else steps
    branches = {f"step{step}": {**SMALL, "model.safetensors": weights(step)} for step in steps}
    return {"main": dict(branches[f"step{steps[-1]}"]), **branches}


def issue_205() -> Branches:
    """154 branches, of which 76 serve the weights of `main` and 10 a second file."""
    branches = clean()
    branches["main"]["model.safetensors"] = weights(10**6)
    for steps, seed in ((ISSUE_205_MAIN, 10**6), (ISSUE_205_SECOND, 10**6 + 1)):
        for step in steps:
            branches[f"step{step}"]["model.safetensors"] = weights(seed)
    return branches


def sharded(steps: list[int]) -> Branches:
    """A clean series of pickles in three shards, with their list."""
    names = [f"pytorch_model-0000{number}-of-00003.bin" for number in (1, 2, 3)]
    index = json.dumps({"metadata": {}, "weight_map": {f"layer.{n}": name for n, name in enumerate(names)}}).encode()
    branches = {
        f"step{step}": {
            **SMALL,
            "pytorch_model.bin.index.json": index,
            **{name: f"pickle of step {step}, {name}".encode().ljust(300) for name in names},
        }
        for step in steps
    }
    return {"main": dict(branches[f"step{steps[-1]}"]), **branches}


def issue_206() -> Branches:
    """Two branches with the first shard of the last step (EleutherAI/pythia#206)."""
    branches = sharded(PYTHIA)
    first = "pytorch_model-00001-of-00003.bin"
    for step in (50_000, 58_000):
        branches[f"step{step}"][first] = branches["main"][first]
    return branches
