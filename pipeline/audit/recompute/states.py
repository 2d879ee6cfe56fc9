"""States: step 0 is what recipe and seed give, and no weight moved farther than AdamW moves it after that."""

from collections.abc import Iterator

from pipeline.release import first_state, gate
from pipeline.release.release import Release


def first_state_faults(release: Release) -> Iterator[str]:
    """Compute the weights at step 0 of every model that begins with new ones."""
    for name in release.models():
        yield from first_state.first_state_faults(release, name)


def movement_faults(release: Release) -> Iterator[str]:
    """Compare the weights and moments of each two consecutive states of every model."""
    for name in release.models():
        yield from gate.too_far(release, name)
