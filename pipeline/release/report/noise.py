"""Noise: how much the result of a training depends on its seeds, from models that differ in nothing else."""

from math import fsum, sqrt
from typing import NamedTuple

from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.report.trainings import TrainingFacts


class Noise(NamedTuple):
    """What siblings say of chance."""

    siblings: list[TrainingFacts]
    """Models that have a sibling."""
    deviation: float
    """Standard deviation of bits per byte from one seed to another."""
    least: float
    """Least difference of two models that is more than noise: twice the standard deviation of a difference."""


def noise_of(evidence: Evidence) -> Noise | None:
    """The noise of a release; none if no two models differ in seeds alone."""
    groups: dict[str, list[TrainingFacts]] = {}
    for training in evidence.trainings:
        groups.setdefault(training.alike, []).append(training)
    alike = [group for group in groups.values() if len(group) > 1]
    if not alike:
        return None
    squares, freedom = 0.0, 0
    for group in alike:
        results = [training.checkpoints[-1].bits_per_byte for training in group]
        mean = fsum(results) / len(results)
        squares += fsum((result - mean) * (result - mean) for result in results)
        freedom += len(results) - 1
    deviation = sqrt(squares / freedom)
    return Noise([training for group in alike for training in group], deviation, 2 * sqrt(2.0) * deviation)
