"""When a model read which row: the time axis of every place that the index finds.

A training reads samples, one after another; the order says which row each is. A model that goes on from another has
read what its ancestors had read by then, so its timeline is one stretch for each of them.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.formats.bounds import MAX_PASSES
from pipeline.formats.manifests import RecipeParameters, Tokens, path_of
from pipeline.formats.order import unpermute
from pipeline.release.ancestors import ancestors
from pipeline.release.release import Release

Numbers = NDArray[np.int64]
NEVER = 0
"""In the place of a step: none, for a step that reads anything is 1 or more."""


class Stretch(NamedTuple):
    """What one training read: the samples `start..stop` (stop excluded) of an order."""

    begun_at: int
    """Step of the state that it began with."""
    global_batch: int
    seed: int
    start: int
    stop: int


class Timeline(NamedTuple):
    """What one model had read at a step."""

    model: str
    until: int
    """The step."""
    num_rows: int
    stretches: tuple[Stretch, ...]
    """Of its ancestors, the oldest first, and its own."""

    def reads(self, rows: Numbers) -> Numbers:
        """How often each of these rows was read."""
        found = np.zeros(len(rows), dtype=np.int64)
        for stretch in self.stretches:
            first, last = stretch.start // self.num_rows, stretch.stop // self.num_rows
            found += last - first  # an epoch reads each row once
            if stretch.stop % self.num_rows:
                found += self._places(stretch, rows, last) < stretch.stop
            if stretch.start % self.num_rows:
                found -= self._places(stretch, rows, first) < stretch.start
        return found

    def first_steps(self, rows: Numbers) -> Numbers:
        """The first step that read each of these rows, or `NEVER`."""
        found = np.full(len(rows), NEVER, dtype=np.int64)
        for stretch in self.stretches:
            epoch = stretch.start // self.num_rows
            samples = self._places(stretch, rows, epoch)
            late = samples < stretch.start
            samples[late] = self._places(stretch, rows[late], epoch + 1)
            new = (found == NEVER) & (samples < stretch.stop)
            found[new] = self._steps(stretch, samples[new])
        return found

    def last_steps(self, rows: Numbers) -> Numbers:
        """The last step that read each of these rows, or `NEVER`."""
        found = np.full(len(rows), NEVER, dtype=np.int64)
        for stretch in self.stretches:
            if stretch.stop == stretch.start:
                continue
            epoch = (stretch.stop - 1) // self.num_rows
            samples = self._places(stretch, rows, epoch)
            early = samples >= stretch.stop
            samples[early] = self._places(stretch, rows[early], epoch - 1) if epoch else -1
            new = samples >= stretch.start
            found[new] = self._steps(stretch, samples[new])
        return found

    def _places(self, stretch: Stretch, rows: Numbers, epoch: int) -> Numbers:
        """The samples that read these rows in an epoch."""
        places = unpermute(rows.astype(np.uint64), self.num_rows, stretch.seed, epoch)
        return places.astype(np.int64) + epoch * self.num_rows

    def _steps(self, stretch: Stretch, samples: Numbers) -> Numbers:
        return stretch.begun_at + (samples - stretch.start) // stretch.global_batch + 1


def timeline_of(release: Release, model: str, until: int | None = None, option: str = "--until") -> Timeline:
    """What a model had read at the step `until`; by default at its last. `option` is what an error calls it."""
    recipe = release.model(model).parameters
    tokens = release.manifest(Tokens)
    rows = tokens.splits.train.rows
    if not rows:
        raise EverystepError(
            f"{release.folder / path_of(Tokens)}: splits.train.rows: 0; a training needs at least one row"
        )
    first, last = recipe.begun_at, recipe.schedule.steps
    if until is None:
        until = last
    if not first <= until <= last:
        trained = f"for {last} steps" if first == 0 else f"from step {first} to step {last}"
        raise EverystepError(f"{option} {until}: {model} was trained {trained}; give {first} to {last}")
    stretches = [_stretch(recipe, until), *_of_ancestors(release, model)][::-1]
    for stretch in stretches:
        if stretch.global_batch > rows * MAX_PASSES:
            raise EverystepError(
                f"{release.folder}: a step of {stretch.global_batch:,} samples passes over the {rows:,} rows more than "
                f"{MAX_PASSES:,} times; no training does"
            )
    return Timeline(model, until, rows, tuple(stretches))


def _of_ancestors(release: Release, model: str) -> Iterator[Stretch]:
    """What each ancestor had read when the next went on, the youngest first."""
    if release.model(model).parameters.parent is not None:
        for state in ancestors(release, model):
            yield _stretch(state.release.model(state.model).parameters, state.step)


def _stretch(recipe: RecipeParameters, until: int) -> Stretch:
    start, stop = recipe.sample(recipe.begun_at), recipe.sample(until)
    return Stretch(recipe.begun_at, recipe.data.global_batch, recipe.data.seed, start, stop)
