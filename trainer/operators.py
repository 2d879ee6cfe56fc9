"""Three operators with hand-written backward passes, where autograd wastes memory.

The derivative of an embedding is a matrix as large as the vocabulary, almost all of it zero; the logits of a batch are
the largest tensor of a training step, and autograd holds four of that size. Here the first is added in place where it
is not zero, and the second exists for one block of rows at a time (as in Liger, Hsu et al., 2024). A norm with its
derivative takes 0.28 ms on 512 x 256 instead of 0.48, because it passes through memory less often.

Shape suffixes as in `trainer.model`; N rows, V vocabulary, M model width.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from trainer.exact import logarithm
from trainer.matmul import accumulate, product
from trainer.memory import LOSS_ROWS

LossBlock = Callable[[Tensor, Tensor, float, float | None], tuple[Tensor, Tensor]]
# An operator of our own, so that what watches torch's operators (`trainer.dispute`) sees it.
torch.library.define("everystep::logarithm", "(Tensor x) -> Tensor")
_logarithm = torch.ops.everystep.logarithm.default


def embed(tokens_BT: Tensor, weight_VM: Tensor) -> Tensor:
    """Look up the rows `tokens` of the embedding, x_BTM."""
    return _Embed.apply(tokens_BT, weight_VM)  # type: ignore[no-untyped-call, no-any-return]


def next_token_loss(
    x_NM: Tensor,
    weight_VM: Tensor,
    targets_N: Tensor,
    z_loss: float = 0.0,
    forgotten_N: Tensor | None = None,
    block: LossBlock | None = None,
) -> Tensor:
    """Compute the mean cross entropy in nats under the logits x @ weight^T, plus z_loss * mean(log Z ^ 2).

    Z is the sum of the exponentials of the logits (PaLM, Chowdhery et al., 2022, section 5). The summands of
    `forgotten` targets are zero, and N is still the number of all. Where none is forgotten, the bits are those without
    a mask. `block` computes the losses of some rows from their logits: `loss_block`, or a compiled form.
    """
    arguments = (x_NM, weight_VM, targets_N, z_loss, forgotten_N, block or loss_block)
    return _NextTokenLoss.apply(*arguments)  # type: ignore[no-untyped-call, no-any-return]


def next_token_losses(x_NM: Tensor, weight_VM: Tensor, targets_N: Tensor) -> Tensor:
    """Compute the cross entropy in nats of each target, losses_N, without a derivative: `next_token_loss` is their
    mean, to the bit."""
    losses_N = x_NM.new_empty(len(targets_N), dtype=torch.float32)
    at_a_time = LOSS_ROWS[x_NM.device.type]
    for start in range(0, len(targets_N), at_a_time):
        rows = slice(start, start + at_a_time)
        losses_N[rows], _ = loss_block(product(x_NM[rows], weight_VM.t()), targets_N[rows, None], 0.0, None)
    return losses_N


def rms_norm(x_BTM: Tensor, weight_M: Tensor, epsilon: float) -> Tensor:
    """Compute x / sqrt(mean(x^2) + epsilon) * weight over the last dimension in fp32; the result has x's dtype."""
    return _RMSNorm.apply(x_BTM, weight_M, epsilon)  # type: ignore[no-untyped-call, no-any-return]


def loss_block(logits_NV: Tensor, targets_N1: Tensor, z_loss: float, scale: float | None) -> tuple[Tensor, Tensor]:
    """Compute the loss of each row, and `scale` times the derivative of their sum by the logits (None: not wanted)."""
    logits = logits_NV.float()
    shares = torch.softmax(logits, -1)
    largest = shares.amax(-1, keepdim=True)  # exp(largest logit) / Z, so at least 1 / V
    log_z = logits.amax(-1, keepdim=True) - _logarithm(largest)
    losses = log_z.square().mul_(z_loss).add_(log_z).sub_(logits.gather(1, targets_N1))[:, 0]
    if scale is not None:
        if z_loss:
            shares.mul_(log_z.mul_(2 * z_loss).add_(1))
        shares.scatter_add_(1, targets_N1, torch.full_like(log_z, -1.0)).mul_(scale)
    return losses, shares


@cache
def compiled_loss_block() -> LossBlock:
    """Have a GPU compute `loss_block` in two passes through the logits instead of ten."""
    return torch.compile(fusible_loss_block, fullgraph=True, dynamic=False)


def fusible_loss_block(
    logits_NV: Tensor, targets_N1: Tensor, z_loss: float, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Compute `loss_block` without operators that a compiler leaves alone, up to rounding."""
    logits = logits_NV.float()
    log_z = torch.logsumexp(logits, -1, keepdim=True)
    losses = (z_loss * log_z.square() + log_z - logits.gather(1, targets_N1))[:, 0]
    if scale is None:
        return losses, logits_NV
    shares = (logits - log_z).exp() * (1 + 2 * z_loss * log_z)
    is_target = torch.arange(logits.shape[1], device=logits.device) == targets_N1
    return losses, ((shares - is_target.float()) * scale).to(logits_NV.dtype)


class _Embed(Function):
    @staticmethod
    def forward(ctx: Any, tokens_BT: Tensor, weight_VM: Tensor) -> Tensor:
        ctx.tokens, ctx.weight = tokens_BT, weight_VM
        return functional.embedding(tokens_BT, weight_VM)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor | None]:
        rows = ctx.tokens.flatten(), gradients[0].flatten(0, -2)
        if ctx.weight.grad is None:
            return None, torch.zeros_like(ctx.weight).index_add_(0, *rows)
        ctx.weight.grad.index_add_(0, *rows)
        return None, None


class _NextTokenLoss(Function):
    """Cross entropy whose derivative is computed in the forward pass, in place of the logits of each block."""

    @staticmethod
    def forward(
        ctx: Any,
        x_NM: Tensor,
        weight_VM: Tensor,
        targets_N: Tensor,
        z_loss: float,
        forgotten_N: Tensor | None,
        block: LossBlock,
    ) -> Tensor:
        N, wanted = len(targets_N), ctx.needs_input_grad[0]
        losses_N = x_NM.new_empty(N, dtype=torch.float32)
        g_x_NM = torch.empty_like(x_NM) if wanted else x_NM
        g_weight_VM = torch.zeros_like(weight_VM) if wanted else weight_VM
        at_a_time = LOSS_ROWS[x_NM.device.type]
        for start in range(0, N, at_a_time):
            rows = slice(start, start + at_a_time)
            logits = product(x_NM[rows], weight_VM.t())
            losses_N[rows], g_logits = block(logits, targets_N[rows, None], z_loss, 1 / N if wanted else None)
            if wanted:
                if forgotten_N is not None:
                    g_logits.masked_fill_(forgotten_N[rows, None], 0)
                g_x_NM[rows] = product(g_logits, weight_VM)
                accumulate(g_weight_VM, g_logits.t(), x_NM[rows])
        if forgotten_N is not None:
            losses_N.masked_fill_(forgotten_N, 0)
        ctx.weight = weight_VM
        ctx.save_for_backward(g_x_NM, g_weight_VM)
        return losses_N.mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        g_x_NM, g_weight_VM = ctx.saved_tensors
        if gradients[0] != 1:
            g_x_NM, g_weight_VM = g_x_NM * gradients[0], g_weight_VM * gradients[0]
        if ctx.weight.grad is None:
            return g_x_NM, g_weight_VM, None, None, None, None
        ctx.weight.grad.add_(g_weight_VM)
        return g_x_NM, None, None, None, None, None


class _RMSNorm(Function):
    """RMSNorm. With n = x / rms: dx = (w dy - n mean(n w dy)) / rms, dw = sum(n dy)."""

    @staticmethod
    def forward(ctx: Any, x_BTM: Tensor, weight_M: Tensor, epsilon: float) -> Tensor:
        x = _in_float32(x_BTM)
        scale = torch.rsqrt((x * x).mean(-1, keepdim=True) + epsilon)
        ctx.save_for_backward(x_BTM, weight_M, scale)
        # Neither in place nor by a conversion that converts nothing: compiled by torch 2.11, such a result has no
        # derivative, and nothing says so.
        y = x * scale * weight_M
        return y if y.dtype == x_BTM.dtype else y.to(x_BTM.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x_BTM, weight_M, scale = ctx.saved_tensors
        n, g = x_BTM * scale, _in_float32(gradients[0])
        g_n = g * n
        g_weight_M = g_n.flatten(0, -2).sum(0)
        share = g_n.mul_(weight_M).mean(-1, keepdim=True)
        g_x = (g * weight_M).addcmul_(n, share, value=-1).mul_(scale)
        return (g_x if g_x.dtype == x_BTM.dtype else g_x.to(x_BTM.dtype)), g_weight_M, None


def _in_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float32 else x.float()


@torch.library.impl("everystep::logarithm", "CPU")
def _(x: Tensor) -> Tensor:
    return torch.from_numpy(logarithm(x.detach().numpy()))


@torch.library.impl("everystep::logarithm", "CUDA")
def _(x: Tensor) -> Tensor:
    return x.log()  # the class `native` promises nothing across kinds of GPU


@torch.library.register_fake("everystep::logarithm")  # type: ignore[untyped-decorator]
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)
