"""Tensors as a transcript sees them: their elements in the order of memory, whole or in part."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.base.errors import EverystepError
from pipeline.formats.transcript import ITEM_BYTES, LEAF, Claim
from trainer.dispute.operators import MAX_ELEMENTS, Box


def elements(tensor: Tensor) -> memoryview:
    """Return the elements in the order of memory, a repeated dimension once."""
    dense = _in_memory_order(tensor.detach()).contiguous().cpu().reshape(-1)
    return dense.view(torch.uint8).numpy().data


def rebuilt(claim: Claim, content: bytes | bytearray) -> Tensor:
    """Make a tensor with the layout of a claim from its elements. Law: `elements(rebuilt(claim, x)) == x`."""
    dtype = getattr(torch, claim.dtype)
    extent = extent_of(claim.shape, claim.strides)
    if extent > MAX_ELEMENTS:
        raise EverystepError(f"a tensor over {extent} elements of memory; at most {MAX_ELEMENTS} are read")
    memory = torch.zeros(extent, dtype=dtype)
    tensor = memory.as_strided(claim.shape, claim.strides)
    if content:
        dense = _in_memory_order(tensor)
        dense.copy_(torch.frombuffer(bytearray(content), dtype=dtype).view(dense.shape))
    return tensor


def extent_of(shape: Collection[int], strides: Collection[int]) -> int:
    """Return how many elements of memory a tensor spans."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def box_of_leaf(claim: Claim, number: int) -> Box:
    """Return the smallest box, in the tensor's own indices, that holds the elements of a leaf."""
    item, sizes = ITEM_BYTES[claim.dtype], _dense_shape(claim)
    ends = number * LEAF // item, min((number + 1) * LEAF, claim.num_bytes) // item - 1
    box = [slice(0, size) for size in claim.shape]
    whole = False
    for dim, (first, last) in zip(_order(claim.shape, claim.strides), np.unravel_index(ends, sizes), strict=True):
        if not whole and claim.strides[dim]:
            box[dim] = slice(int(first), int(last) + 1)
        whole = whole or first != last  # from here on it wraps around
    return tuple(box)


def leaves_of_boxes(claim: Claim, boxes: Sequence[Box] | None) -> list[int]:
    """Number the leaves that hold the elements of some boxes; None: all."""
    if boxes is None:
        return list(range(claim.num_leaves))
    return sorted({leaf for box in boxes for leaf in _leaves_of_box(claim, box)})


def _leaves_of_box(claim: Claim, box: Box) -> list[int]:
    order = _order(claim.shape, claim.strides)
    sizes = _dense_shape(claim)
    parts = [box[dim] if claim.strides[dim] else slice(0, 1) for dim in order]
    steps = np.cumprod([1, *sizes[:0:-1]])[::-1] if sizes else np.array([1])
    numbers: NDArray[np.int64] = np.zeros(1, np.int64)
    for part, step in zip(parts, steps, strict=False):
        numbers = (numbers[:, None] + np.arange(part.start, part.stop) * step).reshape(-1)
    leaves: list[int] = np.unique(numbers * ITEM_BYTES[claim.dtype] // LEAF).tolist()
    return leaves


def _order(shape: Any, strides: Any) -> list[int]:
    return sorted(range(len(shape)), key=lambda dim: -strides[dim])


def _dense_shape(claim: Claim) -> tuple[int, ...]:
    order = _order(claim.shape, claim.strides)
    return tuple(claim.shape[dim] if claim.strides[dim] else min(claim.shape[dim], 1) for dim in order)


def _in_memory_order(tensor: Tensor) -> Tensor:
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor.permute(_order(tensor.shape, tensor.stride()))
