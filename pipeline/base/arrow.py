"""Arrow arrays around memory that is there. `pyarrow.array` imports pandas where that is installed, only to ask whether
it was given some: 0.2 s of the processor and 40 MB for each process."""

from array import array
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def arrow_numbers(values: NDArray[Any]) -> pa.Array:
    """An array of integers or floats, without nulls."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, buffer])


def arrow_strings(values: Iterable[bytes]) -> pa.LargeStringArray:
    """An array of strings, from their UTF-8."""
    content, ends = bytearray(), array("q", [0])
    for value in values:
        content += value
        ends.append(len(content))
    return pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(content))
