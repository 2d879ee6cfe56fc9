"""AdamW on a slice of one flat vector, with scalars that do not depend on a mathematics library.

All parameters of a model lie in one fp32 vector: the decayed tensors first, then the rest, each group in the
order of the model, each tensor starting at a multiple of 64 elements, the whole padded to `BLOCKS` equal blocks.
A process owns whole blocks (ZeRO-1, Rajbhandari et al. 2020), so vector kernels never see a tail whose place
depends on the number of processes, and the gradient norm is a sum over the same blocks for every world size.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from trainer.exact import cosine_and_sine
from trainer.matmul import is_portable
from trainer.recipe import OptimizerSection, ScheduleSection

ALIGNMENT = 64  # elements; a multiple of every vector width
BLOCKS = 64  # the largest number of processes that can share an optimizer
CACHED = 1 << 16  # elements of each vector that are updated at a time, so that the nine passes stay in the cache


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the flat vector."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


class FlatParameters:
    """The parameters of a model as one flat vector that the modules' tensors are views of, and their gradients."""

    def __init__(
        self,
        model: nn.Module,
        decay: Literal["matrices", "all"] = "matrices",
        zeros: Callable[[int], Tensor] = torch.zeros,
    ) -> None:
        self._parameters = dict(model.named_parameters())
        decayed = [name for name, p in self._parameters.items() if p.dim() > 1 or decay == "all"]
        others = [name for name in self._parameters if name not in set(decayed)]
        self.places: list[Place] = []
        end = self.num_decayed = 0
        for name in decayed + others:
            parameter = self._parameters[name]
            self.places.append(Place(name, end, end + parameter.numel(), tuple(parameter.shape)))
            end += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
            self.num_decayed = end if name in decayed else self.num_decayed
        self.size = -(-end // (ALIGNMENT * BLOCKS)) * ALIGNMENT * BLOCKS
        self.values = zeros(self.size)
        for place in self.places:
            view = self.values[place.start : place.stop].view(place.shape)
            view.copy_(self._parameters[place.name].detach())
            self._parameters[place.name].data = view

    def collect(self, gradients: Tensor) -> None:
        """Have backward add into `gradients`, a vector of this layout, from now on."""
        for place in self.places:
            self._parameters[place.name].grad = gradients[place.start : place.stop].view(place.shape)

    def named(self, flat: Tensor) -> dict[str, np.ndarray]:
        """View a flat vector of this layout as named arrays (on the CPU they share its memory)."""
        array = flat.cpu().numpy()
        return {place.name: array[place.start : place.stop].reshape(place.shape) for place in self.places}


class AdamW:
    """Moments of one slice of the flat vector, and their update."""

    def __init__(
        self,
        flat: FlatParameters,
        start: int,
        stop: int,
        section: OptimizerSection,
        zeros: Callable[[int], Tensor] = torch.zeros,
    ) -> None:
        self.section = section
        self.values = flat.values[start:stop]
        self.num_decayed = min(max(flat.num_decayed - start, 0), stop - start)
        self.first, self.second = zeros(stop - start), zeros(stop - start)

    @torch.no_grad()
    def update(self, gradient: Tensor, factor: float, learning_rate: float, step: int) -> None:
        """Update number `step` (1-based) with `factor` times this slice's gradient, which is overwritten."""
        if not is_portable():
            self.update_fused(gradient.mul_(factor), learning_rate, step)
            return
        rates = bias_corrections(learning_rate, self.section, step)
        for start, stop in _pieces(self.num_decayed, len(self.values)):
            decay = 1 - learning_rate * self.section.weight_decay if stop <= self.num_decayed else 1.0
            self._update_piece(slice(start, stop), gradient[start:stop].mul_(factor), decay, *rates)

    def _update_piece(self, part: slice, gradient: Tensor, decay: float, step_size: float, root: float) -> None:
        section = self.section
        first = self.first[part].mul_(section.beta1).add_(gradient, alpha=1 - section.beta1)
        second = self.second[part].mul_(section.beta2).addcmul_(gradient, gradient, value=1 - section.beta2)
        # numpy's square root is IEEE's on every processor; torch's is MKL's, whose last bit depends on the model.
        denominator = torch.from_numpy(np.sqrt(second.numpy())).div_(root).add_(section.epsilon)
        self.values[part].mul_(decay).addcdiv_(first, denominator, value=-step_size)

    @torch.no_grad()
    def update_fused(self, gradient: Tensor, learning_rate: float, step: int) -> None:
        """Apply the same rule with torch's fused kernel (class `native`): one pass through memory instead of nine."""
        section, cut = self.section, self.num_decayed
        for part, decay in ((slice(0, cut), section.weight_decay), (slice(cut, None), 0.0)):
            if self.values[part].numel():
                vectors = self.values[part], gradient[part], self.first[part], self.second[part]
                fused_update([vectors], section, learning_rate, decay, step)


def fused_update(
    vectors: Sequence[tuple[Tensor, ...]],
    section: OptimizerSection,
    learning_rate: float,
    decay: float,
    step: int,
) -> None:
    """Update tensors with torch's fused kernel; of each its values, gradient, first and second moment."""
    values, gradients, first, second = (list(column) for column in zip(*vectors, strict=True))
    torch._fused_adamw_(
        values,
        gradients,
        first,
        second,
        [],
        [torch.tensor(float(step), device=values[0].device)] * len(values),
        lr=learning_rate,
        beta1=section.beta1,
        beta2=section.beta2,
        weight_decay=decay,
        eps=section.epsilon,
        amsgrad=False,
        maximize=False,
    )


def _pieces(cut: int, stop: int) -> list[tuple[int, int]]:
    """Cut 0..stop into runs of at most `CACHED`, none across `cut`."""
    starts = sorted({*range(0, cut, CACHED), *range(cut, stop, CACHED)})
    return list(zip(starts, [*starts[1:], stop], strict=True))


def bias_corrections(learning_rate: float, section: OptimizerSection, step: int) -> tuple[float, float]:
    """Return learning rate / (1 - beta1^t), sqrt(1 - beta2^t), correctly rounded (Kingma and Ba 2015, algorithm 1)."""
    with localcontext(prec=50):
        first = 1 - Decimal(section.beta1) ** step
        second = 1 - Decimal(section.beta2) ** step
        return float(Decimal(learning_rate) / first), float(second.sqrt())


def learning_rate(schedule: ScheduleSection, step: int, global_batch: int) -> float:
    """Return the rate of update number `step` (1-based), a float32 value.

    Warm-up reaches the peak at update `warmup_steps`; the decay reaches the floor `decay_steps` later, or in `wsd`
    at the last update, and stays there.
    """
    peak = schedule.peak if schedule.peak_batch is None else schedule.peak * global_batch / schedule.peak_batch
    floor = schedule.floor
    if step <= schedule.warmup_steps:
        rate = schedule.start + (peak - schedule.start) * (step / schedule.warmup_steps)
    elif schedule.shape == "wsd":
        remaining = min(1.0, (schedule.steps - step) / schedule.decay_steps)
        rate = peak * (floor + (1 - floor) * remaining)
    else:
        share = min(1.0, (step - schedule.warmup_steps) / schedule.decay_steps)
        cosine = float(cosine_and_sine(np.array([share * math.pi], dtype=np.float32))[0][0])
        fall = 0.5 * (1 + cosine)
        rate = peak * (max(floor, fall) if schedule.shape == "cosine-clipped" else floor + (1 - floor) * fall)
    return float(np.float32(rate))


def block_norms(slice_of_gradient: Tensor, block: int) -> list[float]:
    """Return the squared norm of each block of a slice, summed in float64."""
    parts = torch.split(slice_of_gradient, block)
    norms: list[float] = torch.stack([torch.linalg.vector_norm(part, dtype=torch.float64) for part in parts]).tolist()
    return [norm**2 for norm in norms]


def clip_factor(squared_norms: list[float], scale: float, clip_norm: float) -> tuple[float, float]:
    """Return (norm, factor) of `scale` times a gradient, from the squared norms of its blocks.

    The factor scales and clips: factor x gradient is no longer than `clip_norm`. The sum is exact, so the order of
    the blocks does not matter.
    """
    norm = math.sqrt(math.fsum(squared_norms)) * scale
    return norm, scale * min(1.0, clip_norm / norm) if norm > 0 else scale
