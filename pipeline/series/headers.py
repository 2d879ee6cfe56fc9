"""What is inside a few files of a series, read by ranges: headers of safetensors, configs, lists of shards.

One file is read for each version that differs: by its digest for small files, by its size for weights, since tensors of
other dtypes or shapes make another size or another header. So a clean series costs a handful of requests.
"""

import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import NamedTuple

from pipeline.base.errors import EverystepError, well_shaped
from pipeline.formats.canonical import Json, parse
from pipeline.formats.tensors import MAX_HEADER_BYTES, METADATA
from pipeline.series.series import Checkpoint, Place, Unseen
from pipeline.stores.store import Missing

MAX_SMALL_BYTES = 1 << 20
MAX_VERSIONS = 200
"""Versions of one small file that are read at most."""
MAX_HEADERS_BYTES = 256 << 10
"""Bytes of headers that are read of one series; one header is read, whatever it has."""
AT_ONCE = 8
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "F8_E4M3": 1,
    "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


class Tensor(NamedTuple):
    """A tensor in a header; `begin` and `end` count from the start of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of each tensor of a file."""


class Layouts(NamedTuple):
    """Headers that were read, by the size of the file, and what could not be."""

    by_size: dict[int | None, Layout]
    unseen: list[Unseen]
    skipped: int
    """Sizes of which no header was read, to stay small."""


class Contents(NamedTuple):
    """JSON objects by the name of the revision that has them, and what could not be read."""

    by_name: dict[str, dict[str, Json]]
    unseen: list[Unseen]
    skipped: int
    """Versions that were not read, to stay small."""


def read_header(read: Callable[[int, int], bytes], where: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; `read(start, stop)` gives its bytes."""
    begin = read(0, 8)
    if len(begin) < 8:
        raise EverystepError(f"{where}: not a readable safetensors file: it ends after {len(begin)} bytes")
    (length,) = struct.unpack("<Q", begin)
    if length > MAX_HEADER_BYTES:
        raise EverystepError(f"{where}: not a readable safetensors file: a header of {length} bytes")
    tree = parse(read(8, 8 + length), where)
    with well_shaped(where):
        return {name: _tensor(name, about, 8 + length) for name, about in tree.items() if name != METADATA}


def _tensor(name: str, about: Json, start: int) -> Tensor:
    dtype, shape, (begin, end) = about["dtype"], about["shape"], about["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name}: a shape or an offset is not a number")
    if dtype in ITEM_BYTES and end - begin != prod(shape) * ITEM_BYTES[dtype]:
        raise ValueError(f"{name}: {end - begin} bytes are not those of {dtype} of shape {shape}")
    return Tensor(str(dtype), tuple(shape), start + begin, start + end)


def layouts(place: Place, members: Sequence[Checkpoint], path: str) -> Layouts:
    """The layout of a file of weights, once for each of its sizes."""
    versions = {one.files[path].bytes: one for one in reversed(members) if path in one.files}
    left, found, unseen, skipped = MAX_HEADERS_BYTES, {}, [], 0
    for size, one in versions.items():
        if left <= 0:
            skipped += 1
            continue
        reader = _Reader(place, one.name, path)
        try:
            tensors = read_header(reader, f"{one.name}/{path}")
            found[size] = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
        except EverystepError as error:
            unseen.append(Unseen(f"{one.name}/{path}", str(error), isinstance(error, Missing)))
        left -= reader.bytes
    return Layouts(found, unseen, skipped)


class _Reader:
    """Ranges of one file, and how many bytes they were together."""

    def __init__(self, place: Place, name: str, path: str) -> None:
        self._place, self._name, self._path = place, name, path
        self.bytes = 0

    def __call__(self, start: int, stop: int) -> bytes:
        content = self._place.read(self._name, self._path, start, stop)
        self.bytes += len(content)
        return content


def contents(place: Place, members: Sequence[Checkpoint], path: str) -> Contents:
    """The JSON objects in a small file, each of its versions read once."""
    versions: dict[object, list[Checkpoint]] = defaultdict(list)
    for one in members:
        file = one.files.get(path)
        if file and (file.bytes is None or file.bytes <= MAX_SMALL_BYTES):
            versions[file if file.digest else one.name].append(one)
    few = list(versions.values())[:MAX_VERSIONS]

    def read(holders: list[Checkpoint]) -> Json:
        where = f"{holders[0].name}/{path}"
        try:
            return parse(place.read(holders[0].name, path, 0, MAX_SMALL_BYTES), where)
        except EverystepError as error:
            return Unseen(where, str(error), isinstance(error, Missing))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(read, few))
    found = zip(few, answers, strict=True)
    by_name = {one.name: answer for holders, answer in found if isinstance(answer, dict) for one in holders}
    return Contents(by_name, [answer for answer in answers if isinstance(answer, Unseen)], len(versions) - len(few))
