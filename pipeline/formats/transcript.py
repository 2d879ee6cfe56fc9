"""The transcript of one training step: every operator in the order of the computation, with digests of what it read
and wrote.

A file of canonical JSON lines: the head, a line for each operation, and last the entry of the log that came out. The
root of the Merkle tree over its lines (`pipeline.formats.trees`) names it.

The digest of a tensor is the root of the tree over its elements in the order of its memory, little-endian, cut into
leaves of `LEAF` bytes. So a transposed view has the digest of what it is a view of, and a part of a tensor can be
shown without the rest.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from pipeline.base.errors import EverystepError
from pipeline.base.files import read_small, write_bytes
from pipeline.formats import trees
from pipeline.formats.bounds import MAX_STEPS
from pipeline.formats.canonical import Json, canonical
from pipeline.formats.checkpoints import Numerics
from pipeline.formats.log import Entry
from pipeline.formats.typed import Count, Sha256, TensorsDigest, Typed

FORMAT: Literal["everystep/transcript/1"] = "everystep/transcript/1"
LEAF = 1024
"""Bytes of a leaf."""
SHORT = 64
"""Bytes up to which a tensor is in the transcript itself."""
ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2, "int64": 8, "int32": 4, "bool": 1}
NUMPY_TYPES = {"float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "bool": "?"}
Hex = Annotated[str, Field(pattern=r"\A([0-9a-f]{2})*\z")]


class Head(Typed):
    """The first line: which step of which run."""

    format: Literal["everystep/transcript/1"]
    """Version of this form."""
    model: str
    """Name of the model."""
    step: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """The update that led to the state of this step."""
    recipe: dict[str, Json]
    """The recipe."""
    rows: dict[str, Sha256]
    """Files that say which rows there are, by path."""
    state_before: TensorsDigest
    """Digest of weights, moments and step before the update."""
    numerics: Numerics
    """What decides the bits on the machine of this transcript."""


class Claim(Typed):
    """What a tensor held when an operator read or wrote it."""

    tensor: str
    """Name of a weight, `gradient of`, `first moment of` or `second moment of` it; empty for any other tensor."""
    dtype: Literal["float64", "float32", "bfloat16", "float16", "int64", "int32", "bool"]
    """Number format."""
    shape: Annotated[list[Count], Field(max_length=8)]
    """Size of each dimension."""
    strides: Annotated[list[Count], Field(max_length=8)]
    """Elements in memory from one index to the next, for each dimension."""
    digest: Sha256 | None
    """Digest of its elements; null if they are overwritten without being read."""
    content: Hex | None = None
    """The elements themselves in hexadecimal, if they are few."""
    leaves: Hex | None = None
    """The digests of all leaves, if the transcript was opened at this operation."""
    written_by: Count | None = None
    """Number of the operation that wrote this memory last; absent for what the step began with."""

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if len(self.shape) != len(self.strides):
            raise ValueError("shape and strides differ in length")
        if self.content is not None and self.digest != digest_of(leaves_of(bytes.fromhex(self.content))):
            raise ValueError("content does not have the digest")
        if self.leaves is not None and self.digest != digest_of(self.leaf_digests):
            raise ValueError("leaves do not have the digest")
        return self

    @property
    def leaf_digests(self) -> list[bytes]:
        """The digests of all leaves."""
        given = bytes.fromhex(self.leaves or "")
        return [given[start : start + 32] for start in range(0, len(given), 32)]

    @property
    def num_bytes(self) -> int:
        """Bytes of its elements, those of a repeated dimension (stride 0) once."""
        repeated = prod(size for size, stride in zip(self.shape, self.strides, strict=True) if stride or not size)
        return repeated * ITEM_BYTES[self.dtype]

    @property
    def span(self) -> int:
        """Bytes of memory from its first to its last element."""
        if 0 in self.shape:
            return 0
        places = sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return (1 + places) * ITEM_BYTES[self.dtype]

    @property
    def numbers(self) -> list[int | float] | None:
        """The numbers of a tensor whose content is in the transcript; null for others."""
        if self.content is None or self.dtype not in NUMPY_TYPES:
            return None
        array = np.frombuffer(bytes.fromhex(self.content), NUMPY_TYPES[self.dtype])
        numbers: list[int | float] = array.tolist()
        return numbers

    @property
    def num_leaves(self) -> int:
        """Number of its leaves."""
        return -(-self.num_bytes // LEAF)

    def same(self, other: "Claim") -> bool:
        """Whether two claims are of the same elements in the same layout."""
        return self._essence() == other._essence()

    def _essence(self) -> tuple[object, ...]:
        return self.dtype, self.shape, self.strides, self.digest


class Operation(Typed):
    """One operator: where in the step it was applied, to what, and what it gave."""

    micro_batch: Count | None
    """Micro-batch; null for what is done once a step."""
    phase: Literal["rows", "forward", "backward", "sum", "clip", "update"]
    """Part of the step."""
    module: str
    """Module of the model; empty outside of them."""
    operator: Annotated[str, Field(pattern=r"\A(aten|everystep)\.[A-Za-z0-9_.]+\z", max_length=200)]
    """Name of the operator."""
    arguments: dict[str, Json]
    """Its arguments by name; `{"tensor": n}` is number n of `reads`."""
    reads: Annotated[list[Claim], Field(max_length=256)]
    """Tensors before it."""
    writes: Annotated[list[Claim], Field(max_length=256)]
    """Tensors after it: those that it made, and those that it changed."""

    def closed(self) -> "Operation":
        """The same without the leaves of its tensors."""
        tensors = [*self.reads, *self.writes]
        if all(claim.leaves is None for claim in tensors):
            return self
        tree = self.to_json()
        for claim in (*tree["reads"], *tree["writes"]):
            claim.pop("leaves", None)
        return Operation.from_json(tree, "an operation")

    def same_task(self, other: "Operation") -> bool:
        """Whether two operations are the same operator on the same tensors."""
        return (
            (self.operator, self.arguments) == (other.operator, other.arguments)
            and len(self.reads) == len(other.reads)
            and all(mine.same(its) for mine, its in zip(self.reads, other.reads, strict=True))
        )

    def same_result(self, other: "Operation") -> bool:
        """Whether two operations wrote the same."""
        return len(self.writes) == len(other.writes) and all(
            mine.same(its) for mine, its in zip(self.writes, other.writes, strict=True)
        )


@dataclass(frozen=True)
class Transcript:
    """A whole transcript."""

    head: Head
    operations: list[Operation]
    entry: Entry

    @property
    def lines(self) -> list[bytes]:
        """The lines of its file, without line ends."""
        return [canonical(line.to_json()) for line in (self.head, *self.operations, self.entry)]

    @property
    def leaves(self) -> list[bytes]:
        """The digests of its lines without the leaves of tensors, so that opening it does not change them."""
        lines = (self.head, *(operation.closed() for operation in self.operations), self.entry)
        return [trees.leaf(canonical(line.to_json())) for line in lines]

    @property
    def root(self) -> str:
        """The root of the tree over its lines: its name."""
        return trees.root(self.leaves).hex()


def write(path: Path, transcript: Transcript) -> None:
    """Write a transcript."""
    write_bytes(path, b"".join(line + b"\n" for line in transcript.lines))


def read(path: Path) -> Transcript:
    """Read a transcript; every line must be in its canonical form, so that the root is that of the file."""
    content = read_small(path)
    lines = content.split(b"\n")
    if len(lines) < 3 or lines.pop() != b"":
        raise EverystepError(f"{path}: not a whole transcript: it has a head, operations and an entry, a line each")
    if lines[-1].startswith(b'{"arguments":'):
        raise EverystepError(f"{path}: ends with an operation: it was cut off; make it again or fetch it again")
    transcript = Transcript(
        Head.parse(lines[0], f"{path}:1"),
        [Operation.parse(line, f"{path}:{number}") for number, line in enumerate(lines[1:-1], 2)],
        Entry.parse(lines[-1], f"{path}:{len(lines)}"),
    )
    if transcript.lines != lines:
        raise EverystepError(f"{path}: its lines are not canonical JSON; make it again with `everystep transcript`")
    return transcript


def leaves_of(content: bytes | memoryview) -> list[bytes]:
    """Digest the leaves of a tensor's elements."""
    view = memoryview(content).cast("B")
    return [hashlib.sha256(b"\0" + view[start : start + LEAF]).digest() for start in range(0, len(view), LEAF)]


def digest_of(leaves: Sequence[bytes]) -> str:
    """Combine leaves into the digest of a tensor."""
    return trees.root(leaves).hex()
