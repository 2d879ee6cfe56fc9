"""Attention by blocks of queries: values and derivatives are those of the definition in double precision."""

import pytest
import torch

from trainer.attention import LONGEST, QUERIES, attend_in_blocks, suits_blocks


def random(*shape: int) -> torch.Tensor:
    """Heads as the model hands them in: in memory after their positions."""
    B, H, T, D = shape
    return torch.randn(B, T, H, D, generator=torch.Generator().manual_seed(H)).transpose(1, 2)


def definition(q_BHTD: torch.Tensor, k_BKTD: torch.Tensor, v_BKTD: torch.Tensor) -> torch.Tensor:
    G, T = q_BHTD.shape[1] // k_BKTD.shape[1], q_BHTD.shape[2]
    k_BHTD, v_BHTD = (x.repeat_interleave(G, dim=1) for x in (k_BKTD, v_BKTD))
    scores_BHTT = q_BHTD @ k_BHTD.transpose(-1, -2) * q_BHTD.shape[-1] ** -0.5
    future_TT = torch.ones(T, T, dtype=torch.bool).triu(1)
    return scores_BHTT.masked_fill(future_TT, -torch.inf).softmax(-1) @ v_BHTD


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (4, 1)], ids=["grouped", "plain", "one"])
def test_values_and_derivatives_are_those_of_double_precision(heads: int, kv_heads: int) -> None:
    ours = [random(2, count, 3 * QUERIES, 8).requires_grad_() for count in (heads, kv_heads, kv_heads)]
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    assert suits_blocks(ours[0], ours[1])
    y, expected = attend_in_blocks(*ours), definition(*exact)
    weight = random(*y.shape)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()
    for mine, other in [(y, expected), *((mine.grad, other.grad) for mine, other in zip(ours, exact, strict=True))]:
        assert mine is not None and other is not None
        torch.testing.assert_close(mine.double(), other, rtol=0, atol=3e-6 * float(other.detach().abs().max()))


def test_equal_inputs_give_equal_bits_and_the_operators_keep_their_promises_to_the_compiler() -> None:
    q, k, v = random(1, 4, 2 * QUERIES, 8), random(1, 2, 2 * QUERIES, 8), random(1, 2, 2 * QUERIES, 8)
    assert torch.equal(attend_in_blocks(q, k, v), attend_in_blocks(q, k, v))
    torch.library.opcheck(torch.ops.everystep.attention.default, (q, k, v), test_utils="test_faketensor")
    y, *kept = torch.ops.everystep.attention(q, k, v)
    torch.library.opcheck(torch.ops.everystep.attention_backward.default, (y, *kept), test_utils="test_faketensor")


@pytest.mark.parametrize(
    ("queries", "keys"), [(QUERIES, 2 * QUERIES), (QUERIES + 1, QUERIES + 1), (LONGEST + QUERIES, LONGEST + QUERIES)]
)
def test_what_has_a_past_or_broken_blocks_or_is_long_is_left_to_torch(queries: int, keys: int) -> None:
    assert not suits_blocks(random(1, 2, queries, 4), random(1, 2, keys, 4))
