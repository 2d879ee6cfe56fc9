"""Arrow arrays over existing memory. `pyarrow.array` imports pandas where that is installed, only to ask whether it was
given a pandas object: 0.2 s of processor time and 40 MB for each process."""

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def arrow_numbers(values: NDArray[Any]) -> pa.Array:
    """Wrap integers or floats in an array without nulls."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def arrow_strings(values: Iterable[bytes]) -> pa.LargeStringArray:
    """Build an array of strings from their UTF-8 bytes."""
    content, ends = bytearray(), array("q", [0])
    for value in values:
        content += value
        ends.append(len(content))
    return pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(content))


def arrow_string(value: bytes) -> pa.Scalar:
    """Wrap one string, to be joined with arrays of strings."""
    return arrow_strings([value]).cast(pa.string())[0]
