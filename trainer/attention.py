"""Causal attention in fp32 on a processor, for short contexts: softmax(q k^T / sqrt(D)) v and its derivative.

torch's fused kernel multiplies 512 keys at a time, seen or not, and computes the shares of the softmax again for the
derivative. Here a block of queries meets only the keys up to its last one (a longer block would multiply more that its
first queries do not see), and the shares are kept. They grow with the square of the context, so longer ones are left to
torch.

Shape suffixes as in `trainer.model`; X queries of a block, N blocks, Z = B * K products at a time, R = G * X rows each.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from trainer.memory import KEPT_SHARES_BLOCK as QUERIES
from trainer.memory import KEPT_SHARES_LONGEST as LONGEST

# Operators of our own, which the compiler leaves as they are: there is nothing to fuse.
torch.library.define(
    "everystep::attention", "(Tensor q, Tensor k, Tensor v) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
torch.library.define(
    "everystep::attention_backward",
    "(Tensor g, Tensor q, Tensor k, Tensor v, Tensor shares) -> (Tensor, Tensor, Tensor)",
)
_attention: Callable[..., tuple[Tensor, ...]] = torch.ops.everystep.attention.default
_attention_backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = torch.ops.everystep.attention_backward.default


def suits_blocks(q_BHTD: Tensor, k_BKSD: Tensor) -> bool:
    """Whether `attend_in_blocks` computes this: whole blocks of a short context, and no keys before them."""
    plain = q_BHTD.device.type == "cpu" and q_BHTD.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    T, S = q_BHTD.shape[2], k_BKSD.shape[2]
    return plain and T == S <= LONGEST and T % QUERIES == 0


def attend_in_blocks(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
    """Compute softmax(q k^T / sqrt(D)) v, each position seeing itself and what came before, y_BHTD."""
    return _Attention.apply(q_BHTD, k_BKTD, v_BKTD)  # type: ignore[no-untyped-call, no-any-return]


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> Tensor:
        y_BHTD, *kept = _attention(q_BHTD, k_BKTD, v_BKTD)
        ctx.save_for_backward(*kept)
        return y_BHTD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _attention_backward(gradients[0], *ctx.saved_tensors)


@torch.library.impl("everystep::attention", "CPU")
def _(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, H, T, D), K = q_BHTD.shape, k_BKTD.shape[1]
    q_NZRD = _by_blocks(q_BHTD, K)
    k_ZTD, v_ZTD = (x_BKTD.clone(memory_format=torch.contiguous_format).flatten(0, 1) for x_BKTD in (k_BKTD, v_BKTD))
    y_NZRD, shares = torch.empty_like(q_NZRD), q_BHTD.new_empty(kept_shares(B * H, T))
    future_XX = q_BHTD.new_full((QUERIES, QUERIES), -torch.inf).triu(1)
    for seen, shares_ZRS, q_ZRD, y_ZRD in _blocks(shares, q_NZRD, y_NZRD):
        shares_ZRS.baddbmm_(q_ZRD, k_ZTD[:, :seen].transpose(1, 2), beta=0, alpha=D**-0.5)
        shares_ZRS.unflatten(1, (-1, QUERIES))[..., -QUERIES:].add_(future_XX)
        torch.softmax(shares_ZRS, -1, out=shares_ZRS)
        torch.bmm(shares_ZRS, v_ZTD[:, :seen], out=y_ZRD)
    return _by_positions(y_NZRD, B, K), q_NZRD, k_ZTD, v_ZTD, shares


@torch.library.impl("everystep::attention_backward", "CPU")
def _(g_BHTD: Tensor, q_NZRD: Tensor, k_ZTD: Tensor, v_ZTD: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With S = q k^T / sqrt(D), P = softmax(S), y = P v: dv = P^T g, dP = g v^T, dS = P (dP - sum(P dP)),
    dq = dS k / sqrt(D), dk = dS^T q / sqrt(D)."""
    B, Z, scale = len(g_BHTD), len(k_ZTD), k_ZTD.shape[-1] ** -0.5
    K = Z // B
    g_NZRD, g_q_NZRD = _by_blocks(g_BHTD, K), torch.empty_like(q_NZRD)
    g_k_ZTD, g_v_ZTD = torch.zeros_like(k_ZTD), torch.zeros_like(v_ZTD)
    for seen, shares_ZRS, q_ZRD, g_ZRD, g_q_ZRD in _blocks(shares, q_NZRD, g_NZRD, g_q_NZRD):
        # Products that add into a part of a matrix would be made one by one.
        g_v_ZTD[:, :seen].add_(torch.bmm(shares_ZRS.transpose(1, 2), g_ZRD))
        g_shares_ZRS = torch.bmm(g_ZRD, v_ZTD[:, :seen].transpose(1, 2))
        g_scores_ZRS = torch._softmax_backward_data(g_shares_ZRS, shares_ZRS, -1, torch.float32)
        g_q_ZRD.baddbmm_(g_scores_ZRS, k_ZTD[:, :seen], beta=0, alpha=scale)
        g_k_ZTD[:, :seen].add_(torch.bmm(g_scores_ZRS.transpose(1, 2), q_ZRD), alpha=scale)
    return _by_positions(g_q_NZRD, B, K), g_k_ZTD.unflatten(0, (B, K)), g_v_ZTD.unflatten(0, (B, K))


def kept_shares(heads: int, length: int) -> int:
    """Number of shares of the softmax that are kept, of as many heads at this many positions each."""
    return heads * length * (length + QUERIES) // 2


def _by_blocks(x_BHTD: Tensor, K: int) -> Tensor:
    """Copy (B, H, T, D) as (N, Z, R, D): queries of the same keys side by side."""
    x_BKGNXD = x_BHTD.unflatten(2, (-1, QUERIES)).unflatten(1, (K, -1))
    return x_BKGNXD.permute(3, 0, 1, 2, 4, 5).clone(memory_format=torch.contiguous_format).flatten(3, 4).flatten(1, 2)


def _by_positions(x_NZRD: Tensor, B: int, K: int) -> Tensor:
    """Copy (N, Z, R, D) as (B, H, T, D), in memory as (B, T, H, D), which is how the next product reads it."""
    x_NBKGXD = x_NZRD.unflatten(2, (-1, QUERIES)).unflatten(1, (B, K))
    x_BNXKGD = x_NBKGXD.permute(1, 0, 4, 2, 3, 5).clone(memory_format=torch.contiguous_format)
    return x_BNXKGD.flatten(3, 4).flatten(1, 2).transpose(1, 2)


def _blocks(shares: Tensor, *x_NZRD: Tensor) -> Iterator[tuple[int, *tuple[Tensor, ...]]]:
    """Yield of each block the number of keys that it sees, its shares (Z, R, S), and its part of each tensor."""
    start = 0
    for number, parts in enumerate(zip(*x_NZRD, strict=True), 1):
        (Z, R, _), seen = parts[0].shape, number * QUERIES
        yield seen, shares[start : start + Z * R * seen].view(Z, R, seen), *parts
        start += Z * R * seen


@torch.library.register_fake("everystep::attention")  # type: ignore[untyped-decorator]
def _(q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (B, H, T, D), K = q_BHTD.shape, k_BKTD.shape[1]
    y_BHTD = q_BHTD.new_empty(B, T, H, D).transpose(1, 2)
    q_NZRD = q_BHTD.new_empty(T // QUERIES, B * K, H // K * QUERIES, D)
    k_ZTD, v_ZTD = (x_BKTD.new_empty(B * K, T, D) for x_BKTD in (k_BKTD, v_BKTD))
    return y_BHTD, q_NZRD, k_ZTD, v_ZTD, q_BHTD.new_empty(kept_shares(B * H, T))


@torch.library.register_fake("everystep::attention_backward")  # type: ignore[untyped-decorator]
def _(g_BHTD: Tensor, q_NZRD: Tensor, k_ZTD: Tensor, v_ZTD: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    B, H, T, D = g_BHTD.shape
    k_BKTD, v_BKTD = (x_ZTD.new_empty(x_ZTD.shape).unflatten(0, (B, -1)) for x_ZTD in (k_ZTD, v_ZTD))
    return g_BHTD.new_empty(B, T, H, D).transpose(1, 2), k_BKTD, v_BKTD
