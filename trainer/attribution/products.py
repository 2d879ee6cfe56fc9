"""Predictions of what a group of documents does to a loss, each a product of two gradients, or of many.

The gradient of a batch without a group, minus that with it, both at the published state before a step, is what the
group's absence changes there: its *pull*. What becomes of the pulls of all steps at the end is told in three ways:

    sgd        each is followed by a step of its rate, and nothing else (TracIn; Pruthi et al. 2020, equation 1)
    adamw      each goes through the moments, the preconditioning and the weight decay of AdamW, as they are; later
               batches have the gradients that they had as published
    unrolled   later batches answer, too: the whole training is differentiated, curvature and optimizer (reverse mode
               through every step, as MAGIC does; Ilyas and Engstrom 2025), once for each loss that is asked about

The first two give a shift of the weights for each group, and its product with the gradient of any loss at the end is
the predicted change of that loss. The third gives, for a loss, the vector that each pull of a step is multiplied with.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainer.attribution.trajectory import Doubles, Step, Vector, curvature_along, gradient_at
from trainer.data import TrainingData

if TYPE_CHECKING:
    from trainer.loop import Trainer


def pulls_of(trainer: "Trainer", steps: Sequence[Step], without: TrainingData) -> dict[int, Doubles]:
    """What the absence of a group changes in the gradient of each step that reads it; `without` is the data then."""
    found = {}
    for step in steps:
        numbers = range(trainer.recipe.data.num_micro_batches)
        if any(without.forgotten_ids(step.number, number) is not None for number in numbers):
            found[step.number] = gradient_at(trainer, step, step.weights, without).astype(np.float64) - step.gradient
    return found


def shift_by_sgd(steps: Sequence[Step], pulls: dict[int, Doubles]) -> Doubles:
    """Where the weights end up instead, if each step were its rate times its gradient."""
    shift = np.zeros(steps[0].weights.shape)
    for step in steps:
        if step.number in pulls:
            shift -= step.rate * pulls[step.number]
    return shift


def shift_by_adamw(trainer: "Trainer", steps: Sequence[Step], pulls: dict[int, Doubles]) -> Doubles:
    """Where the weights end up instead, if AdamW were given the published gradients and the pulls."""
    about = trainer.recipe.optimizer
    first, second = steps[0].first.astype(np.float64), steps[0].second.astype(np.float64)
    shift = np.zeros_like(first)
    for step in steps:
        gradient = step.gradient + pulls.get(step.number, 0.0)
        first = about.beta1 * first + (1 - about.beta1) * gradient
        second = about.beta2 * second + (1 - about.beta2) * gradient * gradient
        moved = first / (np.sqrt(second) / step.root + about.epsilon)
        shift = _decay(trainer, step) * shift - step.step_size * (moved - _moved(trainer, step))
    return shift


def unrolled(trainer: "Trainer", steps: Sequence[Step], gradient: Vector) -> list[Vector]:
    """The derivative of a loss at the end by the gradient of each step, given that by the weights there: reverse mode
    through AdamW and through what every later gradient makes of other weights."""
    about = trainer.recipe.optimizer
    by_weights = gradient.astype(np.float64)
    by_first, by_second = np.zeros_like(by_weights), np.zeros_like(by_weights)
    found = []
    for step in reversed(steps):
        first, second = _moments(trainer, step)
        root = np.sqrt(second)
        denominator = root / step.root + about.epsilon
        by_denominator = step.step_size * first / denominator**2 * by_weights
        by_first = by_first - step.step_size / denominator * by_weights
        by_second = by_second + by_denominator / (2 * step.root * np.maximum(root, np.finfo(np.float32).tiny))
        by_gradient = (1 - about.beta1) * by_first + 2 * (1 - about.beta2) * step.gradient * by_second
        found.append(by_gradient.astype(np.float32))
        by_first, by_second = about.beta1 * by_first, about.beta2 * by_second
        by_weights = _decay(trainer, step) * by_weights
        if step is not steps[0]:
            by_weights += curvature_along(trainer, step, by_gradient)
    return found[::-1]


def _moments(trainer: "Trainer", step: Step) -> tuple[Doubles, Doubles]:
    """The moments after a step, as published."""
    about, gradient = trainer.recipe.optimizer, step.gradient.astype(np.float64)
    return (
        about.beta1 * step.first + (1 - about.beta1) * gradient,
        about.beta2 * step.second + (1 - about.beta2) * gradient * gradient,
    )


def _moved(trainer: "Trainer", step: Step) -> Doubles:
    """What a step multiplied with its step size, as published."""
    first, second = _moments(trainer, step)
    return first / (np.sqrt(second) / step.root + trainer.recipe.optimizer.epsilon)


def _decay(trainer: "Trainer", step: Step) -> Doubles:
    """What a step left of each weight."""
    kept = np.ones(step.weights.shape)
    kept[: trainer.flat.num_decayed] -= step.rate * trainer.recipe.optimizer.weight_decay
    return kept
