"""Tensors of two checkpoints, number by number: which differ, how much, and where first.

Numbers of one dtype are compared bit by bit, so -0.0 is not 0.0 and one NaN is not another; those of two dtypes by
their values as float32. Distances are computed in float64. Files are read in pieces, so memory does not grow with them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.tensors import TensorInfo

AT_ONCE = 1 << 18
"""Numbers of a piece."""
Raw = NDArray[np.uint8]
Number = float | str
"""A number of a tensor; NaN and infinities as text."""


class Tensors(Protocol):
    """Named tensors of which single ones can be read."""

    @property
    def entries(self) -> Mapping[str, TensorInfo]:
        """What the headers say of each tensor."""

    def pieces(self, name: str, numbers: int) -> Iterator[Raw]:
        """The bytes of a tensor, row-major and little-endian, `numbers` numbers at a time."""


Opened = AbstractContextManager[Tensors]


@dataclass(frozen=True, kw_only=True)
class TensorDifference:
    """A tensor that is not the same in A and B."""

    name: str
    a: str | None
    """Dtype and shape in A, such as `F32 [320, 64]`; null if A lacks it."""
    b: str | None
    """The same in B."""
    numbers: int | None = None
    """How many numbers it has; null if the shapes differ."""
    differ: int | None = None
    """How many of them differ."""
    largest: Number | None = None
    """Largest distance between two numbers; `nan` if one of the two is NaN and the other is not."""
    largest_at: list[int] | None = None
    """Its place."""
    moved: float | None = None
    """Norm of the difference over the norm of A; null if that is zero, or if there is a NaN or an infinity."""
    first_at: list[int] | None = None
    """The place of the first number that differs."""
    first: tuple[Number, Number] | None = None
    """That number in A and B."""
    first_bits: tuple[str, str] | None = None
    """Its bits in A and B, in hex."""


class Place(NamedTuple):
    """A number of a tensor by its position, with something about it."""

    position: int
    value: float


def compare_tensors(a: Tensors, b: Tensors, advance: Callable[[int], object]) -> Iterator[TensorDifference]:
    """Every tensor that differs, in the order of the names; `advance` is called with the bytes of A that were read."""
    for name in sorted(a.entries.keys() | b.entries.keys()):
        one, other = a.entries.get(name), b.entries.get(name)
        if one is None or other is None or one.shape != other.shape:
            yield TensorDifference(name=name, a=_about(one), b=_about(other))
            continue
        found = _Compared(name, one, other)
        for left, right in zip(a.pieces(name, AT_ONCE), b.pieces(name, AT_ONCE), strict=True):
            found.add(left, right)
            advance(left.nbytes)
        if found.differ or one.dtype != other.dtype:
            yield found.difference()


class _Compared:
    """One tensor while its pieces come."""

    def __init__(self, name: str, one: TensorInfo, other: TensorInfo) -> None:
        self._name, self._one, self._other = name, one, other
        self.done = self.differ = 0
        self._first: tuple[int, Raw, Raw] | None = None
        self._largest: Place | None = None
        self._squares = self._norm = 0.0

    def add(self, left: Raw, right: Raw) -> None:
        a, b = as_float64(self._one.dtype, left), as_float64(self._other.dtype, right)
        if self._one.dtype == self._other.dtype:
            bits = [_numbers(side, len(a)) for side in (left, right)]
            other = (bits[0] != bits[1]).any(axis=1)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                other = a.astype(np.float32).view(np.uint32) != b.astype(np.float32).view(np.uint32)
        with np.errstate(over="ignore", invalid="ignore"):
            self._norm += float(np.square(a).sum())
            if other.any():
                places = np.flatnonzero(other)
                if self._first is None:
                    at = int(places[0])
                    pair = (_numbers(side, len(a))[at] for side in (left, right))
                    self._first = (self.done + at, *pair)
                self._measure(places, np.abs(b[places] - a[places]))
        self.differ += int(other.sum())
        self.done += len(a)

    def _measure(self, places: NDArray[np.intp], distances: NDArray[np.float64]) -> None:
        self._squares += float(np.square(distances).sum())
        at = int(np.argmax(np.where(np.isnan(distances), np.inf, distances)))
        if np.isnan(distances).any():
            at = int(np.flatnonzero(np.isnan(distances))[0])
        largest = float(distances[at])
        before = self._largest.value if self._largest else -1.0
        if not math.isnan(before) and (math.isnan(largest) or largest > before):
            self._largest = Place(self.done + int(places[at]), largest)

    def difference(self) -> TensorDifference:
        """What was found; `differ` is 0 if only the dtypes are other ones."""
        a, b = _about(self._one), _about(self._other)
        if self._first is None or self._largest is None:
            return TensorDifference(name=self._name, a=a, b=b, numbers=self.done, differ=self.differ)
        position, left, right = self._first
        values = [as_float64(dtype, raw)[0] for dtype, raw in ((self._one.dtype, left), (self._other.dtype, right))]
        moved = math.sqrt(self._squares / self._norm) if self._norm > 0 else math.nan
        return TensorDifference(
            name=self._name,
            a=a,
            b=b,
            numbers=self.done,
            differ=self.differ,
            largest=number(self._largest.value),
            largest_at=_index(self._largest.position, self._one.shape),
            moved=moved if math.isfinite(moved) else None,
            first_at=_index(position, self._one.shape),
            first=(number(float(values[0])), number(float(values[1]))),
            first_bits=(left[::-1].tobytes().hex(), right[::-1].tobytes().hex()),
        )


@np.errstate(invalid="ignore")  # a signalling NaN, which is compared by its bits
def as_float64(dtype: str, raw: Raw) -> NDArray[np.float64]:
    """The numbers in `raw`, little-endian, by their values; integers past 2^53 are rounded."""
    if dtype == "BF16":
        return (raw.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype == "F8_E5M2":
        return (raw.astype(np.uint16) << 8).view(np.float16).astype(np.float64)
    if dtype == "F8_E4M3":
        return E4M3[raw]
    return raw.view(NUMPY[dtype]).astype(np.float64)


def number(value: float) -> Number:
    """A number for JSON, which has neither NaN nor infinities."""
    return value if math.isfinite(value) else str(value)


NUMPY = {
    "BOOL": "u1",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}


def _e4m3() -> NDArray[np.float64]:
    """The values of the 256 numbers of `F8_E4M3`, which has no infinities (Micikevicius et al. 2022, table 1)."""
    bits = np.arange(256)
    exponent, fraction = bits >> 3 & 15, bits & 7
    sizes = np.where(exponent == 0, fraction / 8 * 2.0**-6, (1 + fraction / 8) * 2.0 ** (exponent - 7.0))
    values = np.where(bits >> 7 == 1, -sizes, sizes)
    values[[0x7F, 0xFF]] = np.nan
    return values


E4M3 = _e4m3()


def _numbers(raw: Raw, count: int) -> Raw:
    """The bytes of each number, shape (count, bytes)."""
    return raw.reshape(count, -1) if count else raw.reshape(0, 1)


def _about(entry: TensorInfo | None) -> str | None:
    return None if entry is None else f"{entry.dtype} {list(entry.shape)}"


def _index(position: int, shape: Sequence[int]) -> list[int]:
    return [int(i) for i in np.unravel_index(position, tuple(shape))] if shape else []
