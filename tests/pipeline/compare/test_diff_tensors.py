"""Tensors number by number, beside torch and numpy: every dtype of the format, bits that print alike, pieces."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from safetensors.torch import save_file

from pipeline.compare import tensors
from pipeline.compare.tensors import TensorDifference, as_float64, compare_tensors
from pipeline.formats.checkpoints import write_tensors
from pipeline.formats.tensors import TensorFile

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
BITS = arrays.arrays(np.uint32, st.integers(1, 9), elements=st.integers(0, 2**32 - 1))


def compared(one: Path, other: Path) -> list[TensorDifference]:
    with TensorFile(one, any_dtype=True) as a, TensorFile(other, any_dtype=True) as b:
        return list(compare_tensors(a, b, lambda _: None))


def difference(tmp_path: Path, a: NDArray[Any], b: NDArray[Any]) -> TensorDifference | None:
    """The difference of two tensors that are written and read again."""
    for name, array in (("a", a), ("b", b)):
        write_tensors(tmp_path / name, {"x": array})
    return next(iter(compared(tmp_path / "a", tmp_path / "b")), None)


@pytest.mark.parametrize("name", DTYPES)
def test_numbers_of_every_dtype_are_those_that_torch_reads(tmp_path: Path, name: str) -> None:
    size = torch.empty(0, dtype=DTYPES[name]).element_size()
    raw = torch.from_numpy(np.random.default_rng(1).integers(0, 256, 512 * size, dtype=np.uint8))
    content = raw[:512] % 2 == 1 if name == "BOOL" else raw.view(DTYPES[name])
    save_file({"x": content}, tmp_path / "x")
    with TensorFile(tmp_path / "x", any_dtype=True) as file:
        assert file.entries["x"].dtype == name
        found = np.concatenate([as_float64(name, piece) for piece in file.pieces("x", 100)])
    np.testing.assert_array_equal(found, content.to(torch.float64).numpy())


def test_all_256_numbers_of_a_byte_are_those_that_torch_reads() -> None:
    raw = torch.arange(256, dtype=torch.uint8)
    for name in ("F8_E4M3", "F8_E5M2"):
        expected = raw.view(DTYPES[name]).to(torch.float64).numpy()
        np.testing.assert_array_equal(as_float64(name, raw.numpy()), expected)


@given(BITS, st.data())
def test_a_number_differs_where_its_bits_do(tmp_path_factory: pytest.TempPathFactory, bits: Any, data: Any) -> None:
    other = data.draw(arrays.arrays(np.uint32, bits.shape, elements=st.integers(0, 2**32 - 1)))
    chosen = data.draw(arrays.arrays(np.bool_, bits.shape))
    mixed = np.where(chosen, other, bits).astype(np.uint32)
    a, b = bits.view(np.float32), mixed.view(np.float32)
    found = difference(tmp_path_factory.mktemp("tensors"), a, b)
    places = np.flatnonzero(bits != mixed)
    assert (found is None) == (len(places) == 0)
    if found is None:
        return
    assert found.differ == len(places) and found.first_at == [places[0]]
    assert found.first_bits == (f"{bits[places[0]]:08x}", f"{mixed[places[0]]:08x}")
    with np.errstate(over="ignore", invalid="ignore"):
        distances = np.abs(b.astype(np.float64) - a.astype(np.float64))[places]
    expected = np.nan if np.isnan(distances).any() else distances.max()
    assert str(found.largest) == str(float(expected))


def test_minus_zero_is_not_zero_and_one_nan_is_not_another(tmp_path: Path) -> None:
    a = np.array([1, 0.0, 2], np.float32)
    found = difference(tmp_path, a, np.array([1, -0.0, 2], np.float32))
    assert found and (found.differ, found.largest, found.first, found.first_at) == (1, 0.0, (0.0, -0.0), [1])
    nans = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert difference(tmp_path, nans, nans) is None
    found = difference(tmp_path, nans, nans[::-1].copy())
    assert found and (found.differ, found.largest, found.first) == (2, "nan", ("nan", "nan"))
    assert found.first_bits == ("7fc00000", "7fc00001")


def test_a_number_that_became_nan_is_the_largest_difference(tmp_path: Path) -> None:
    a = np.zeros((3, 4), np.float32)
    b = a.copy()
    b[0, 1], b[2, 3] = 1e30, np.nan
    found = difference(tmp_path, a, b)
    assert found and (found.largest, found.largest_at, found.first_at, found.moved) == ("nan", [2, 3], [0, 1], None)


def test_pieces_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(2)
    a = draw.normal(size=(37, 11)).astype(np.float32)
    b = a + (draw.random((37, 11)) < 0.1) * draw.normal(size=(37, 11)).astype(np.float32)
    whole = difference(tmp_path, a, b.astype(np.float32))
    monkeypatch.setattr(tensors, "AT_ONCE", 7)
    in_pieces = difference(tmp_path, a, b.astype(np.float32))
    assert whole and in_pieces and whole.moved and in_pieces.moved
    assert math.isclose(whole.moved, in_pieces.moved, rel_tol=1e-12)
    assert {**vars(whole), "moved": 0} == {**vars(in_pieces), "moved": 0}
    expected = np.linalg.norm((b - a).astype(np.float64)) / np.linalg.norm(a.astype(np.float64))
    assert math.isclose(whole.moved, expected, rel_tol=1e-6)
    distances = np.abs(b.astype(np.float32).astype(np.float64) - a)
    assert whole.largest == distances.max() and distances[tuple(whole.largest_at or [])] == whole.largest


def test_the_same_numbers_in_another_dtype_are_said_to_be_that(tmp_path: Path) -> None:
    weights = torch.randn(4, 5, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    save_file({"x": weights}, tmp_path / "a")
    save_file({"x": weights.to(torch.float32)}, tmp_path / "b")
    (found,) = compared(tmp_path / "a", tmp_path / "b")
    assert (found.a, found.b, found.differ) == ("BF16 [4, 5]", "F32 [4, 5]", 0)


def test_names_shapes_scalars_and_empty_tensors(tmp_path: Path) -> None:
    one = {"gone": np.ones(2, np.float32), "shape": np.ones((2, 3), np.float32), "scalar": np.array(1, np.float32)}
    other = {"came": np.ones(2, np.float32), "shape": np.ones((3, 2), np.float32), "scalar": np.array(2, np.float32)}
    empty = {"empty": np.ones((0, 3), np.float32)}
    write_tensors(tmp_path / "a", one | empty)
    write_tensors(tmp_path / "b", other | empty)
    found = {each.name: each for each in compared(tmp_path / "a", tmp_path / "b")}
    assert list(found) == ["came", "gone", "scalar", "shape"]
    assert (found["came"].a, found["gone"].b) == (None, None)
    assert (found["shape"].a, found["shape"].b, found["shape"].numbers) == ("F32 [2, 3]", "F32 [3, 2]", None)
    assert (found["scalar"].first_at, found["scalar"].first) == ([], (1.0, 2.0))
