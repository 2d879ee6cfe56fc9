"""Movements: between two states no weight and no moment moved farther than AdamW moves it."""

from collections.abc import Iterator

from pipeline.release.gate import too_far
from pipeline.release.release import Release


def movement_faults(release: Release) -> Iterator[str]:
    """Compare the weights and moments of each two consecutive states of every model."""
    for name in release.models():
        yield from too_far(release, name)
