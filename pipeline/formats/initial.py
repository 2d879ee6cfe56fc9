"""The first weights of a model: a function of its description and a seed, on any machine and without torch.

So whoever has a recipe can compute the state at step 0, and no other one passes for it.
"""

import hashlib
from collections.abc import Iterator
from math import prod

import numpy as np
import numpy.typing as npt

from pipeline.formats.model import ModelSpec, initial_value, tensor_shapes

Floats = npt.NDArray[np.float32]

_VALUES_A_BLOCK = 1 << 14
"""So that a block's words stay in the cache; it decides no bit."""


def initial_tensors(spec: ModelSpec, seed: int) -> Iterator[tuple[str, Floats]]:
    """Yield every tensor at step 0 by its name. Each is a function of (seed, its name) and its description."""
    for name, shape in tensor_shapes(spec).items():
        yield name, initial_rows(spec, seed, name, shape)


def initial_rows(spec: ModelSpec, seed: int, name: str, shape: tuple[int, ...], first: int = 0) -> Floats:
    """Draw as many rows of a tensor as `shape` says, from row `first` on, without the others."""
    mean, std = initial_value(spec, name)
    return normal(seed, name, shape, std, first) if std else np.full(shape, mean, np.float32)


def normal(seed: int, name: str, shape: tuple[int, ...], std: float, first: int = 0) -> Floats:
    """Draw one tensor, or its rows from `first` on: a function of (seed, name, shape, std), whatever was drawn before.

    Each value is std * (sum of twelve uniforms - 6), the Irwin-Hall approximation of a normal variable: mean 0,
    standard deviation std, kurtosis 2.9 (normal: 3), never past 6 std. The uniforms are the halves of six words of
    Philox4x64, whose raw stream numpy keeps fixed; their sum is an exact integer. (numpy's own normal draws call
    `exp` and `log1p` in the tails, and its method may change between versions.)
    """
    key = hashlib.sha256(f"everystep/initialization/{seed}/{name}".encode()).digest()[:16]
    stream = np.random.Philox(key=int.from_bytes(key, "little"))
    skipped = 6 * first * prod(shape[1:])
    stream.advance(skipped // 4)  # a step of its counter gives four words
    stream.random_raw(skipped % 4)
    flat = np.empty(prod(shape), np.float32)
    for start in range(0, flat.size, _VALUES_A_BLOCK):
        part = flat[start : start + _VALUES_A_BLOCK]
        halves = stream.random_raw(6 * part.size).view(np.uint32).reshape(-1, 12)
        # `halves.sum(axis=1)` is 1.4 times slower: a run of 12 is short for it
        centred = np.einsum("vh->v", halves, dtype=np.int64, casting="unsafe") - 6 * (2**32 - 1)
        part[:] = centred * (std / 2**32)
    return flat.reshape(shape)
