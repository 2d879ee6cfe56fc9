"""Untrusted safetensors files, read tensor by tensor from one open file.

The library maps a file into memory; if the file is truncated meanwhile, SIGBUS kills the process. Here every byte is
read, a digest holds `PIECE` bytes at a time, and the header's claims are checked against the file before memory is
allocated for them. Accepted is what the format allows (https://github.com/huggingface/safetensors), in the dtypes that
have a digest; files of others may have any dtype whose numbers are whole bytes.
"""

import struct
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import Json, parse
from pipeline.formats.digests import DTYPES, combine_leaves, leaf_digest

MAX_HEADER_BYTES = 16 << 20
PIECE = 1 << 20
METADATA = "__metadata__"
NUMPY_NAMES = {theirs: ours for ours, theirs in DTYPES.items()}
OWN_SIZES = {name: np.dtype(ours).itemsize for name, ours in NUMPY_NAMES.items()}
"""Bytes of a number of each dtype that has a digest."""
OTHER_SIZES = {"BOOL": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "BF16": 2, "U32": 4, "U64": 8}
ALL_SIZES = OWN_SIZES | OTHER_SIZES
"""Bytes of a number of each dtype that may be in the files of others."""


class TensorInfo(NamedTuple):
    """Dtype, shape and place of one tensor; `begin` and `end` count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile:
    """Tensors of a file by name. Holds one open file; damage is an `EverystepError` that names it."""

    def __init__(self, path: Path, any_dtype: bool = False) -> None:
        self.path = path
        self._sizes = ALL_SIZES if any_dtype else OWN_SIZES
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise self._broken(error.strerror) from error
        try:
            self.entries = self._read_header()
        except (EverystepError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
            self._file.close()
            raise self._broken(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: entry.shape for name, entry in self.entries.items()}

    def holds(self, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        """Whether the file has exactly these tensors, in float32."""
        return self.shapes() == shapes and all(entry.dtype == "F32" for entry in self.entries.values())

    def read(self, name: str) -> NDArray[np.generic]:
        """Read one tensor."""
        return self._read(name, self.entries[name])

    def read_rows(self, name: str, start: int, stop: int) -> NDArray[np.generic]:
        """Read the rows [start, stop) of one tensor, and nothing else of it."""
        entry = self.entries[name]
        size = (entry.end - entry.begin) // max(1, entry.shape[0])
        begin, end = entry.begin + start * size, entry.begin + stop * size
        return self._read(name, TensorInfo(entry.dtype, (stop - start, *entry.shape[1:]), begin, end))

    def _read(self, name: str, entry: TensorInfo) -> NDArray[np.generic]:
        try:
            tensor = np.empty(entry.shape, np.dtype(NUMPY_NAMES[entry.dtype]).newbyteorder("<"))
        except ValueError as error:
            raise self._broken(f"{name}: {error}") from error
        content = tensor.reshape(-1).view(np.uint8)
        done = 0
        for piece in self._pieces(entry):
            content[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
            done += len(piece)
        return tensor

    def pieces(self, name: str, numbers: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the bytes of one tensor, `numbers` numbers at a time: row-major, little-endian, of any dtype."""
        entry = self.entries[name]
        for content in self._pieces(entry, numbers * self._sizes[entry.dtype]):
            yield np.frombuffer(content, np.uint8)

    def digest(self) -> str:
        """Digest all tensors (`pipeline.formats.digests`)."""
        return combine_leaves([self._leaf(name) for name in sorted(self.entries)])

    def _leaf(self, name: str) -> bytes:
        """Digest one tensor."""
        entry = self.entries[name]
        return leaf_digest(name, entry.dtype, entry.shape, self._pieces(entry))

    def _pieces(self, entry: TensorInfo, size: int = PIECE) -> Iterator[bytes]:
        self._file.seek(entry.begin)
        left = entry.end - entry.begin
        while left:
            piece = self._file.read(min(left, size))
            if len(piece) < min(left, size):
                raise self._broken("it was truncated while it was read")
            left -= len(piece)
            yield piece

    def _read_header(self) -> dict[str, TensorInfo]:
        size = self._file.seek(0, 2)
        self._file.seek(0)
        (length,) = struct.unpack("<Q", self._file.read(8).ljust(8, b"\xff"))
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"a header of {length} bytes in a file of {size}; at most {MAX_HEADER_BYTES} are read")
        header = self._file.read(length)
        if header[:1] != b"{":
            raise ValueError("its header is not a JSON object")
        tree = parse(header)
        if not all(type(text) is str for text in tree.pop(METADATA, {}).values()):
            raise ValueError(f"{METADATA} holds values that are not text")
        entries = {name: _entry(name, about, 8 + length, self._sizes) for name, about in tree.items()}
        _require_no_gaps(entries, 8 + length, size)
        return entries

    def _broken(self, what: object) -> EverystepError:
        return EverystepError(f"{self.path}: not a readable safetensors file: {what}")


def _entry(name: str, about: Json, start: int, sizes: Mapping[str, int]) -> TensorInfo:
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    numbers = [*shape, *offsets]
    if len(about) != 3 or dtype not in sizes or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"{name}: expected a dtype of {', '.join(sizes)}, a shape and two offsets")
    begin, end = offsets
    if end - begin != prod(shape) * sizes[dtype]:
        raise ValueError(f"{name}: {end - begin} bytes are not those of {dtype} of shape {shape}")
    return TensorInfo(dtype, tuple(shape), start + begin, start + end)


def _require_no_gaps(entries: dict[str, TensorInfo], start: int, size: int) -> None:
    """Require that every byte between the header and the end of the file belongs to one tensor."""
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != start:
            raise ValueError(f"its tensors overlap or leave a gap at byte {start}")
        start = entry.end
    if start != size:
        raise ValueError(f"its tensors end at byte {start} of {size}")
