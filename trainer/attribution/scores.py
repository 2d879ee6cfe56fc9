"""How well predictions agree with exact runs: the linear datamodeling score (Park et al. 2023, section 2).

For one target, it is Spearman's rank correlation, over the groups that were left out, of what was predicted with what
came out; the score is its mean over targets. The interval holds 95 % by the jackknife over groups, so it says how much
the score depends on which groups there were.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.order import permute

Doubles = NDArray[np.float64]
NORMAL_95 = 1.959964
"""Standard deviations within which 95 % of a normal distribution are."""


class Score(NamedTuple):
    """A score and its interval."""

    score: float
    low: float
    high: float


def agreement(predicted: Doubles, found: Doubles) -> Score:
    """Score predictions, shape (groups, targets), against what came out."""
    everything = mean_correlation(predicted, found)
    groups = np.arange(len(found))
    without = np.array([mean_correlation(predicted[groups != group], found[groups != group]) for group in groups])
    spread = (len(groups) - 1) / len(groups) * np.square(without - without.mean()).sum()
    half = NORMAL_95 * float(np.sqrt(spread))
    return Score(everything, max(everything - half, -1.0), min(everything + half, 1.0))


def mean_correlation(predicted: Doubles, found: Doubles) -> float:
    """The mean over targets of Spearman's correlation; a prediction that is the same for all groups has none."""
    ours, theirs = (np.apply_along_axis(ranks, 0, values) for values in (predicted, found))
    ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    length = np.sqrt(np.square(ours).sum(axis=0) * np.square(theirs).sum(axis=0))
    together = (ours * theirs).sum(axis=0)
    return float(np.divide(together, length, out=np.zeros_like(length), where=length > 0).mean())


def ranks(values: Doubles) -> Doubles:
    """Rank numbers from 1; equal ones share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: Doubles = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return shared


def at_random(groups: int, targets: int) -> Doubles:
    """Predictions that know nothing: for each target a permutation of the groups, by Everystep's own order."""
    every = np.arange(groups, dtype=np.uint64)
    return np.stack([permute(every, groups, 0, target).astype(np.float64) for target in range(targets)], axis=1)
