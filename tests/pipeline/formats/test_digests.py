import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.base.errors import EverystepError
from pipeline.formats.digests import DTYPES, Tensor, combine_leaves, differing_tensors, tensor_leaf, tensors_digest
from tests.pipeline.formats.second_reader import tensors_digest as digest_by_hand
from tests.pipeline.formats.values import TEXTS

SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ARRAYS: st.SearchStrategy[Tensor] = st.sampled_from(sorted(DTYPES)).flatmap(lambda d: npst.arrays(np.dtype(d), SHAPES))
SETS = st.dictionaries(TEXTS, ARRAYS, max_size=9)


def described(name: str, tensor: Tensor) -> dict[str, Any]:
    return {
        "name": name,
        "dtype": DTYPES[tensor.dtype.name],
        "shape": list(tensor.shape),
        "data": tensor.tobytes().hex(),
    }


@given(SETS)
def test_digest_is_the_one_of_the_document(tensors: dict[str, Tensor]) -> None:
    assert tensors_digest(tensors) == digest_by_hand([described(name, tensor) for name, tensor in tensors.items()])


@given(SETS, st.randoms())
def test_order_of_the_mapping_changes_nothing(tensors: dict[str, Tensor], shuffler: random.Random) -> None:
    names = list(tensors)
    shuffler.shuffle(names)
    assert tensors_digest({name: tensors[name] for name in names}) == tensors_digest(tensors)


@given(npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=4)))
def test_layout_in_memory_changes_nothing(tensor: Tensor) -> None:
    leaf = tensor_leaf("t", tensor)
    assert tensor_leaf("t", np.asfortranarray(tensor)) == leaf
    assert tensor_leaf("t", tensor.astype(">f4")) == leaf
    assert tensor_leaf("t", np.repeat(tensor, 2, axis=0)[::2]) == leaf


@given(SETS.filter(bool), st.data())
def test_a_change_of_one_tensor_is_seen_and_named(tensors: dict[str, Tensor], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    changed: list[dict[str, Tensor]] = [tensors | {name: tensor.reshape((1, *tensor.shape))}]
    if tensor.size:
        raw = bytearray(tensor.tobytes())
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        changed.append(tensors | {name: np.frombuffer(bytes(raw), tensor.dtype).reshape(tensor.shape)})
    if tensor.dtype.itemsize == 4:
        changed.append(tensors | {name: tensor.view(np.int32 if tensor.dtype.kind == "f" else np.float32)})
    changed.append({key: value for key, value in tensors.items() if key != name})
    for other in changed:
        assert tensors_digest(other) != tensors_digest(tensors)
        assert differing_tensors(tensors, other) == [name] == differing_tensors(other, tensors)


@given(SETS.filter(bool), TEXTS)
def test_a_new_name_is_seen(tensors: dict[str, Tensor], name: str) -> None:
    old = next(iter(tensors))
    renamed = {name if key == old else key: value for key, value in tensors.items() if key == old or key != name}
    if name not in tensors:
        assert tensors_digest(renamed) != tensors_digest(tensors)
        assert differing_tensors(tensors, renamed) == sorted({old, name})


def test_a_leaf_cannot_pass_for_an_inner_node() -> None:
    left, right = tensor_leaf("a", np.zeros(1)), tensor_leaf("b", np.zeros(1))
    inner = bytes.fromhex(combine_leaves([left, right]).removeprefix("tensors-v1:"))
    assert combine_leaves([inner]) == combine_leaves([left, right])  # a node is a digest like any other ...
    assert inner not in (tensor_leaf("a", np.zeros(1)), tensor_leaf("ab", np.frombuffer(left + right, np.uint8)))


def test_zero_and_minus_zero_differ_and_equal_nans_do_not() -> None:
    assert differing_tensors({"t": np.array([0.0])}, {"t": np.array([-0.0])}) == ["t"]
    assert differing_tensors({"t": np.array([np.nan])}, {"t": np.array([np.nan])}) == []


@pytest.mark.parametrize("dtype", ["bool", "int16", "complex64", "<U3", "object"])
def test_a_dtype_that_the_format_does_not_know_is_refused_by_name(dtype: str) -> None:
    with pytest.raises(EverystepError, match=r"^tensor w: dtype"):
        tensors_digest({"w": np.zeros(2, dtype=dtype)})
