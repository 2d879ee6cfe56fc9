"""Matrix products of two kinds: torch's fastest, and portable ones whose bits do not depend on the processor model.

`torch.mm` calls MKL. On a CPU the class `native` computes large products by what is faster: with AVX-512 oneDNN, which
torch ships too (a tenth, on an AMD Zen 4); without, OpenBLAS, which every numpy wheel ships (up to a quarter at the
logits, on a Zen 3). All three choose kernels and blocking by the processor they find; MKL's one portable setting takes
its oldest path, at 2.8 times the cost. OpenBLAS can be set to one core type: then instruction set, blocking and order
of additions are fixed at compile time (docs/decisions.md has the trials on other processor models). So in the
`portable` class a product is numpy's, on the tensors' own memory.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

LARGE = 1 << 26
"""Number of multiplications from which another library than MKL is used: a call takes some microseconds longer."""

_portable = False
# Operators of our own. The compiler leaves them as they are: it would fuse oneDNN's, and only with constant weights.
# The first is a large product of the class `native`, by whichever library that is.
# What watches torch's operators (`trainer.dispute`) sees numpy's.
torch.library.define("everystep::large_product", "(Tensor a_XK, Tensor b_KY) -> Tensor")
torch.library.define("everystep::portable_product", "(Tensor a, Tensor b) -> Tensor")
_large_product: Callable[[Tensor, Tensor], Tensor] = torch.ops.everystep.large_product.default
_portable_product: Callable[[Tensor, Tensor], Tensor] = torch.ops.everystep.portable_product.default


def use_portable(portable: bool) -> None:
    """Choose the kind for this process; `trainer.numerics` calls it once, before the first product."""
    global _portable
    _portable = portable


def is_portable() -> bool:
    return _portable


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply a (..., X, K) by b (..., K, Y) with equal leading dimensions: (..., X, Y)."""
    return _Portable.apply(a, b) if _portable else a @ b  # type: ignore[no-untyped-call]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply x (..., inputs) by the transpose of weight (outputs, inputs) and add bias: (..., outputs)."""
    if not (_portable or _is_large(x, len(weight))):
        return functional.linear(x, weight, bias)
    y: Tensor = _Linear.apply(x.flatten(0, -2), weight).unflatten(0, x.shape[:-1])  # type: ignore[no-untyped-call]
    return y if bias is None else y + bias


def product(a_XK: Tensor, b_KY: Tensor) -> Tensor:
    """Multiply a by b, without a derivative."""
    if _portable:
        return _portable_product(a_XK, b_KY)
    return _large_product(a_XK, b_KY) if _is_large(a_XK, b_KY.shape[1]) else a_XK @ b_KY


def accumulate(total_XY: Tensor, a_XK: Tensor, b_KY: Tensor) -> None:
    """Add a b to total, in place, without a derivative."""
    if _portable:
        total_XY.add_(_portable_product(a_XK, b_KY))
    elif total_XY.is_cuda and torch.is_autocast_enabled("cuda"):  # which leaves out what is done in place
        total_XY.add_(a_XK @ b_KY)
    else:
        total_XY.addmm_(a_XK, b_KY)


class _Portable(Function):
    """A portable product, in fp32 on the CPU. Its derivative is two more: dA = G B^T, dB = A^T G."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _portable_product(a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        a, b = ctx.saved_tensors
        return (
            _portable_product(gradient, b.transpose(-1, -2)) if ctx.needs_input_grad[0] else None,
            _portable_product(a.transpose(-1, -2), gradient) if ctx.needs_input_grad[1] else None,
        )


class _Linear(Function):
    """A product x W^T by `product`; the derivative of W comes out in the layout of W."""

    @staticmethod
    def forward(ctx: Any, x_NC: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x_NC, weight)
        return product(x_NC, weight.t())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (gradient,) = gradients
        x_NC, weight = ctx.saved_tensors
        return (
            product(gradient, weight) if ctx.needs_input_grad[0] else None,
            product(gradient.t(), x_NC) if ctx.needs_input_grad[1] else None,
        )


def _is_large(x: Tensor, columns: int) -> bool:
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and x.numel() * columns >= LARGE


def _by_numpy(a: Tensor, b: Tensor) -> Tensor:
    result = torch.empty((*a.shape[:-1], b.shape[-1]))
    np.matmul(a.detach().numpy(), b.detach().numpy(), out=result.numpy())
    return result


@torch.library.impl("everystep::large_product", "CPU")
def _(a_XK: Tensor, b_KY: Tensor) -> Tensor:
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return _by_numpy(a_XK, b_KY)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(a_XK, b_KY.t(), None, "none", [], "")
    return result


@torch.library.register_fake("everystep::large_product")  # type: ignore[untyped-decorator]
def _(a_XK: Tensor, b_KY: Tensor) -> Tensor:
    return a_XK.new_empty(len(a_XK), b_KY.shape[1])


@torch.library.impl("everystep::portable_product", "CPU")
def _(a: Tensor, b: Tensor) -> Tensor:
    return _by_numpy(a, b)


@torch.library.register_fake("everystep::portable_product")  # type: ignore[untyped-decorator]
def _(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty((*a.shape[:-1], b.shape[-1]))
