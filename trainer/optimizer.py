"""AdamW on a slice of one flat vector, with scalars that no mathematics library decides.

All parameters of a model lie in one fp32 vector: the decayed tensors first, then the rest, each group in the
order of the names, each tensor begun at a multiple of 64 elements, the whole padded to `BLOCKS` equal blocks.
A process owns whole blocks (ZeRO-1, Rajbhandari et al. 2020), so vector kernels never see a tail whose place
depends on the number of processes, and the gradient norm is a sum over the same blocks for every world size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
import torch
from torch import Tensor, nn

from trainer.exact import cosine_and_sine
from trainer.recipe import OptimizerSection, ScheduleSection

ALIGNMENT = 64  # elements; a multiple of every vector width
BLOCKS = 64  # the largest number of processes that can share an optimizer


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the flat vector."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


class FlatParameters:
    """The parameters and gradients of a model as two flat vectors that the modules' tensors are views of."""

    def __init__(self, model: nn.Module) -> None:
        named = sorted(model.named_parameters())
        groups = [[p for p in named if p[1].dim() > 1], [p for p in named if p[1].dim() <= 1]]
        self.places: list[Place] = []
        end = 0
        for group in groups:
            for name, parameter in group:
                self.places.append(Place(name, end, end + parameter.numel(), tuple(parameter.shape)))
                end += -(-parameter.numel() // ALIGNMENT) * ALIGNMENT
            if group is groups[0]:
                self.num_decayed = end
        self.size = -(-end // (ALIGNMENT * BLOCKS)) * ALIGNMENT * BLOCKS
        self.values = torch.zeros(self.size)
        self.gradients = torch.zeros(self.size)
        parameters = dict(named)
        for place in self.places:
            view = self.values[place.start : place.stop].view(place.shape)
            view.copy_(parameters[place.name].detach())
            parameters[place.name].data = view
            parameters[place.name].grad = self.gradients[place.start : place.stop].view(place.shape)

    def named(self, flat: Tensor) -> dict[str, np.ndarray]:
        """A flat vector of this layout as named arrays that share its memory."""
        array = flat.numpy()
        return {place.name: array[place.start : place.stop].reshape(place.shape) for place in self.places}

    def fill(self, flat: Tensor, tensors: Mapping[str, np.ndarray]) -> None:
        """Copy named arrays into a flat vector of this layout; every tensor must be there with its shape."""
        views = self.named(flat)
        if views.keys() != tensors.keys():
            raise ValueError(f"tensors differ: {sorted(views.keys() ^ tensors.keys())}")
        for name, view in views.items():
            view[...] = tensors[name].reshape(view.shape)


class AdamW:
    """The moments of one slice of the flat vector, and their update."""

    def __init__(self, flat: FlatParameters, start: int, stop: int, section: OptimizerSection) -> None:
        self.section = section
        self.values = flat.values[start:stop]
        self.num_decayed = min(max(flat.num_decayed - start, 0), stop - start)
        self.first = torch.zeros(stop - start)
        self.second = torch.zeros(stop - start)

    @torch.no_grad()
    def update(self, gradient: Tensor, learning_rate: float, step: int) -> None:
        """Update number `step` (1-based) with this slice's gradient."""
        section = self.section
        step_size, root = bias_corrections(learning_rate, section, step)
        self.first.mul_(section.beta1).add_(gradient, alpha=1 - section.beta1)
        self.second.mul_(section.beta2).addcmul_(gradient, gradient, value=1 - section.beta2)
        self.values[: self.num_decayed].mul_(1 - learning_rate * section.weight_decay)
        # numpy's square root is IEEE's on every processor; torch's is MKL's, whose last bit depends on the model.
        denominator = torch.from_numpy(np.sqrt(self.second.numpy())).div_(root).add_(section.epsilon)
        self.values.addcdiv_(self.first, denominator, value=-step_size)


def bias_corrections(learning_rate: float, section: OptimizerSection, step: int) -> tuple[float, float]:
    """(learning rate / (1 - beta1^t), sqrt(1 - beta2^t)), correctly rounded (Kingma and Ba 2015, algorithm 1)."""
    with localcontext(prec=50):
        first = 1 - Decimal(section.beta1) ** step
        second = 1 - Decimal(section.beta2) ** step
        return float(Decimal(learning_rate) / first), float(second.sqrt())


def learning_rate(schedule: ScheduleSection, step: int) -> float:
    """The rate of update number `step` (1-based), a float32 value.

    Warm-up reaches the peak at update `warmup_steps`; the cosine reaches `floor` x peak at the last update.
    """
    if step <= schedule.warmup_steps:
        rate = schedule.peak * (step / schedule.warmup_steps)
    else:
        share = (step - schedule.warmup_steps) / (schedule.steps - schedule.warmup_steps)
        cosine = float(cosine_and_sine(np.array([share * math.pi], dtype=np.float32))[0][0])
        rate = schedule.peak * (schedule.floor + (1 - schedule.floor) * 0.5 * (1 + cosine))
    return float(np.float32(rate))


def block_norms(slice_of_gradient: Tensor, block: int) -> list[float]:
    """The squared norm of each block of a slice, summed in float64."""
    return [float(part.double().square().sum()) for part in torch.split(slice_of_gradient, block)]


def clip_factor(squared_norms: list[float], clip_norm: float) -> tuple[float, float]:
    """(gradient norm, factor <= 1) from the squared norms of all blocks; the sum is exact, so order is nothing."""
    norm = math.sqrt(math.fsum(squared_norms))
    return norm, min(1.0, clip_norm / norm) if norm > 0 else 1.0
