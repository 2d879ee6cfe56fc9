"""The learning rates that a recipe asks for, so that those in a log need not be believed.

The trainer's own are rounded to float32 and its cosine is exact on every processor (`trainer.optimizer`), which needs
torch. Here they are recomputed with any cosine, and compared to 2^-20 of the peak.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.manifests import RecipeParameters

CLOSE = 2.0**-20
"""Difference between two rates that are the same, as a share of the peak; rounding to float32 makes 2^-24."""


def wrong_rate(recipe: RecipeParameters, rates: NDArray[np.float64]) -> tuple[int, float] | None:
    """The first update of the training (from 1) whose rate is not that of the recipe, with the rate that is; None: all
    are right."""
    expected, peak = learning_rates(recipe, len(rates)), peak_of(recipe)
    wrong = ~(np.abs(rates - expected) <= CLOSE * peak)
    return (int(wrong.argmax()) + 1, float(expected[wrong.argmax()])) if wrong.any() else None


def learning_rates(recipe: RecipeParameters, num_steps: int) -> NDArray[np.float64]:
    """The rates of the first updates; the shapes are described in `docs/reference/params.md`."""
    schedule, peak, step = recipe.schedule, peak_of(recipe), recipe.begun_at + np.arange(1.0, num_steps + 1)
    floor, since = schedule.floor, (step - schedule.warmup_steps) / schedule.decay_steps
    if schedule.shape == "wsd":
        share = floor + (1 - floor) * np.minimum(1, (schedule.steps - step) / schedule.decay_steps)
    else:
        fall = 0.5 * (1 + np.cos(np.pi * np.minimum(1, since)))
        share = np.maximum(floor, fall) if schedule.shape == "cosine-clipped" else floor + (1 - floor) * fall
    warm_up = schedule.start + (peak - schedule.start) * step / max(schedule.warmup_steps, 1)
    rates: NDArray[np.float64] = np.where(step <= schedule.warmup_steps, warm_up, peak * share)
    return rates


def peak_of(recipe: RecipeParameters) -> float:
    """The highest rate, for the batch of this recipe."""
    schedule = recipe.schedule
    return schedule.peak * recipe.data.global_batch / schedule.peak_batch if schedule.peak_batch else schedule.peak
