"""Recompute: what follows from the rest of a release, computed again without training and without the sources.

A forger makes every digest fit again. What he cannot do is to make a seed give other numbers, or a text another digest;
so each module here computes one thing that a release also states, and compares.
"""

from collections.abc import Callable, Iterator

from pipeline.audit.recompute.evaluations import evaluation_faults
from pipeline.audit.recompute.states import first_state_faults, movement_faults
from pipeline.base.console import progress
from pipeline.release.release import Release

CHECKS: dict[str, Callable[[Release], Iterator[str]]] = {
    "first states": first_state_faults,
    "movements of the weights": movement_faults,
    "evaluations": evaluation_faults,
}
"""What is computed again, in this order."""


def recomputed_faults(release: Release) -> Iterator[str]:
    """Each thing that does not come out again, one line each, with the file."""
    with progress("recompute", len(CHECKS), "checks") as advance:
        for name, check in CHECKS.items():
            yield from check(release)
            advance(1, name)
