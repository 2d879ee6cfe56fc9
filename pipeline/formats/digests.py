"""Digests of things that are not plain files: tensors, and tables in parquet.

*Tensors, version 1.* A leaf is SHA-256 over `0x00`, the RFC 8785 header `{"dtype","name","shape"}`, LF,
and the raw little-endian bytes. Leaves in the order of their names (code points) are combined as in
RFC 6962 section 2.1: SHA-256 over `0x01`, left, right, where the left part holds the largest power of
two of leaves that is smaller than their number. The digest is written `tensors-v1:<hex>`. The header of a
container file never enters it, and comparing leaves names the tensor that differs.

*Tables.* The SHA-256 of the rows as canonical JSONL, in the order of the file.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import canonical

Tensor = NDArray[np.generic]
DTYPES = {"float32": "F32", "float64": "F64", "int64": "I64", "int32": "I32", "uint8": "U8", "float16": "F16"}


def tensor_leaf(name: str, tensor: Tensor) -> bytes:
    """Digest one tensor: a leaf of 32 bytes."""
    return leaf_digest(name, dtype_name(name, tensor), tensor.shape, [little_endian(tensor)])


def leaf_digest(name: str, dtype: str, shape: Sequence[int], content: Iterable[bytes | memoryview]) -> bytes:
    """Digest a tensor whose bytes come in pieces, as `tensor_leaf` does; `dtype` as safetensors writes it."""
    header = canonical({"dtype": dtype, "name": name, "shape": list(shape)})
    digest = hashlib.sha256(b"\0" + header + b"\n")
    for piece in content:
        digest.update(piece)
    return digest.digest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Digest a set of named tensors, whatever the order of the mapping."""
    return combine_leaves([tensor_leaf(name, tensors[name]) for name in sorted(tensors)])


def combine_leaves(leaves: list[bytes]) -> str:
    """Combine leaf digests, in the order of their names, into the digest of a set."""
    return "tensors-v1:" + (_root(leaves) if leaves else hashlib.sha256(b"").digest()).hex()


def differing_tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """List names that are on one side only or whose leaves differ, sorted."""
    common = ours.keys() & theirs.keys()
    differing = {name for name in common if tensor_leaf(name, ours[name]) != tensor_leaf(name, theirs[name])}
    return sorted(differing | (ours.keys() ^ theirs.keys()))


def dtype_name(name: str, tensor: Tensor) -> str:
    """Return the name that safetensors gives to a dtype."""
    if tensor.dtype.name not in DTYPES:
        raise EverystepError(f"tensor {name}: dtype {tensor.dtype} is not one of {', '.join(sorted(DTYPES))}")
    return DTYPES[tensor.dtype.name]


def little_endian(tensor: Tensor) -> memoryview:
    """Return the raw bytes of a tensor, row-major."""
    contiguous = np.ascontiguousarray(tensor, dtype=tensor.dtype.newbyteorder("<"))
    return contiguous.reshape(-1).view(np.uint8).data


def _root(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + _root(leaves[:split]) + _root(leaves[split:])).digest()
