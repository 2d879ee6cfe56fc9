"""The published trajectory of a stretch, step by step, and gradients at its states: what attributions are made of.

A gradient is that of the trainer: the mean over the batch of a step, clipped. The factor of the clipping is taken as it
was, also where weights or batch are others.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import Differs
from trainer.data import TrainingData
from trainer.optimizer import bias_corrections
from trainer.replay import Stretch

if TYPE_CHECKING:
    from trainer.loop import Trainer

Vector = NDArray[np.float32]
"""All weights, or one number for each, in the trainer's flat layout."""
Doubles = NDArray[np.float64]
RADIUS = 0.05
"""L2 distance, to either side, of the weights between which a difference of gradients is taken."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """A step of the published training from state `number` to the next."""

    number: int
    weights: Vector
    """Before the step."""
    first: Vector
    second: Vector
    """Moments before the step."""
    gradient: Vector
    factor: float
    """What the sum of the batch's gradients was multiplied with: the mean, and the clipping."""
    rate: float
    step_size: float
    root: float
    """The two corrections of AdamW (`trainer.optimizer.bias_corrections`)."""


def trajectory(trainer: "Trainer", stretch: Stretch) -> list[Step]:
    """Train a stretch as it was published, and keep what each step began with and its gradient."""
    trainer.load(stretch.checkpoint)
    steps = []
    while (number := trainer.step) < stretch.stop:
        weights, first, second = (
            tensor.numpy().copy() for tensor in (trainer.flat.values, trainer.optimizer.first, trainer.optimizer.second)
        )
        _, total = trainer._gradients(number)
        _, factor = trainer._clip(trainer._norms(total))
        rate = trainer._rate()
        trainer._update(total, factor, rate)  # which overwrites the sum with the gradient
        trainer.step += 1
        step_size, root = bias_corrections(rate, trainer.recipe.optimizer, trainer.step)
        steps.append(
            Step(
                number=number,
                weights=weights,
                first=first,
                second=second,
                gradient=total.numpy().copy(),
                factor=factor,
                rate=rate,
                step_size=step_size,
                root=root,
            )
        )
    if trainer.weights_digest() != stretch.entries[stretch.stop].weights_digest:
        raise Differs(f"{trainer.recipe.name}: step {stretch.stop} does not come out as published")
    return steps


def gradient_at(trainer: "Trainer", step: Step, weights: Vector, data: TrainingData | None = None) -> Vector:
    """The gradient of a step's batch at some weights, as the rows of `data` have it (default: as published)."""
    import torch

    published, trainer.data = trainer.data, data or trainer.data
    try:
        trainer.flat.values.copy_(torch.from_numpy(weights))
        _, total = trainer._gradients(step.number)
    finally:
        trainer.data = published
    gradient: Vector = total.numpy() * np.float32(step.factor)
    return gradient


def curvature_along(trainer: "Trainer", step: Step, direction: Doubles) -> Doubles:
    """The Hessian of a step's loss times a vector: half the difference of the gradients on either side, over the
    distance."""
    length = float(np.linalg.norm(direction))
    if length == 0:
        return np.zeros_like(direction)
    away = direction * (RADIUS / length)
    ahead, back = (gradient_at(trainer, step, (step.weights + sign * away).astype(np.float32)) for sign in (1, -1))
    return (ahead.astype(np.float64) - back) * (length / (2 * RADIUS))


def gradient_of_loss(trainer: "Trainer", rows: NDArray[np.int64], counted: NDArray[np.bool_], at_once: int) -> Vector:
    """The gradient, at the trainer's weights, of the mean loss of the targets that are counted, shape (rows, context);
    `at_once` rows at a time."""
    import torch

    gradient = torch.zeros_like(trainer.flat.values)
    trainer.flat.collect(gradient)
    asked = counted.any(axis=1)
    rows, counted = rows[asked], counted[asked]
    for start in range(0, len(rows), at_once):
        marks: Any = np.zeros_like(rows[start : start + at_once], dtype=np.bool_)
        marks[:, 1:] = ~counted[start : start + at_once]
        loss = trainer.model.loss(torch.from_numpy(rows[start : start + at_once]), 0.0, torch.from_numpy(marks))
        (loss * (marks[:, 1:].size / int(counted.sum()))).backward()
    return gradient.numpy()
