"""Elements of tensors in the order of memory, whole and in part."""

import random
from itertools import product

import numpy as np
import pytest
import torch

from pipeline.formats.evidence import filled
from pipeline.formats.transcript import ITEM_BYTES, LEAF, Claim, digest_of, leaves_of
from trainer.dispute.memory import box_of_leaf, elements, leaves_of_boxes, rebuilt

GENERATOR = torch.Generator().manual_seed(1)


def some_tensors() -> list[torch.Tensor]:
    x = torch.randn(6, 50, 40, generator=GENERATOR)
    return [
        x,
        x.transpose(0, 2),
        x[1:, 3:40:2, ::3],
        x[:, :, :1].expand(6, 50, 7),
        x.permute(1, 2, 0)[:, 5:],
        torch.arange(1000).reshape(10, 100).t(),
        torch.randn(3000, generator=GENERATOR),
        torch.tensor(2.5),
        torch.empty(4, 0),
        torch.randn(5, 300, generator=GENERATOR).bfloat16(),
        torch.randn(5, 300, generator=GENERATOR) > 0,
    ]


def claim_of(tensor: torch.Tensor) -> Claim:
    tree = {
        "tensor": "",
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "strides": list(tensor.stride()),
        "digest": digest_of(leaves_of(elements(tensor))),
    }
    return Claim.from_json(tree, "a test")


@pytest.mark.parametrize("tensor", some_tensors(), ids=lambda t: f"{tuple(t.shape)}{t.stride()}")
def test_a_tensor_comes_back_with_its_layout(tensor: torch.Tensor) -> None:
    claim, content = claim_of(tensor), bytes(elements(tensor))
    back = rebuilt(claim, content)
    assert torch.equal(back, tensor)
    assert (back.stride(), back.dtype) == (tensor.stride(), tensor.dtype)
    assert claim.num_bytes == len(content)


def test_a_transposed_tensor_has_the_same_elements() -> None:
    x = torch.randn(30, 40, generator=GENERATOR)
    assert elements(x) == elements(x.t())


@pytest.mark.parametrize("tensor", some_tensors(), ids=lambda t: f"{tuple(t.shape)}{t.stride()}")
def test_the_box_of_a_leaf_holds_it_and_the_leaves_of_a_box_hold_that(tensor: torch.Tensor) -> None:
    claim, content = claim_of(tensor), bytes(elements(tensor))
    draw = random.Random(1)
    for number in range(claim.num_leaves) if tensor.dim() else []:
        part = content[number * LEAF : (number + 1) * LEAF]
        box = box_of_leaf(claim, number)
        alone = rebuilt(claim, filled(claim, {number: part}))
        outside = torch.ones(tensor.shape, dtype=torch.bool)
        outside[box] = False
        assert not alone[outside].to(torch.float64).abs().sum(), "an element of the leaf is outside of its box"
        assert number in leaves_of_boxes(claim, [box])
        if draw.random() < 0.2:
            known = {n: content[n * LEAF : (n + 1) * LEAF] for n in leaves_of_boxes(claim, [box])}
            assert torch.equal(rebuilt(claim, filled(claim, known))[box], tensor[box])


def test_leaves_of_a_box_are_those_that_its_elements_are_in() -> None:
    tensor = torch.zeros(7, 60, 33).permute(2, 0, 1)
    claim = claim_of(tensor)
    box = (slice(4, 9), slice(2, 3), slice(10, 50))
    places = np.array(
        [
            sum(i * s for i, s in zip(index, tensor.stride(), strict=True))
            for index in product(*(range(part.start, part.stop) for part in box))
        ]
    )
    assert leaves_of_boxes(claim, [box]) == sorted(set((places * ITEM_BYTES["float32"] // LEAF).tolist()))
    assert leaves_of_boxes(claim, None) == list(range(claim.num_leaves))
