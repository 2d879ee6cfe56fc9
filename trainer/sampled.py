"""Replay the stretches that a beacon chose, of one model after the other, and note where that was done."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.formats.checkpoints import Numerics
from pipeline.formats.receipts import MAX_TEXT, Finding
from pipeline.formats.sampling import Stretch
from pipeline.release.release import Release
from trainer import numerics
from trainer.recipe import load_recipe
from trainer.replay import Replayed, replay_all, state_at


class Sampled(NamedTuple):
    """What came out of the chosen stretches, in their order, and what decided the bits of it."""

    findings: list[Finding]
    numerics: dict[str, Numerics]
    """Settings and libraries, by model."""
    processor: str


def enter_class_of(release: Release, chosen: Sequence[Stretch]) -> None:
    """Enter the numerics class of these stretches. Call it before anything that should happen once, because it may
    restart this program. A process has one class, so stretches of two are refused."""
    classes = {stretch.model: release.model(stretch.model).numerics.name for stretch in chosen}
    if len(set(classes.values())) > 1:
        listed = ", ".join(f"{name} is {found}" for name, found in sorted(classes.items()))
        raise EverystepError(f"the models are of different numerics classes ({listed}); audit those of one: --model")
    numerics.prepare(classes[chosen[0].model])


def replay_chosen(release: Release, chosen: Sequence[Stretch]) -> Sampled:
    """Replay these stretches, which are sorted, each to its end or to its first difference."""
    findings: list[Finding] = []
    about: dict[str, Numerics] = {}
    for model, stretches in groupby(chosen, key=lambda stretch: stretch.model):
        ends = [(state_at(release, model, stretch.start), stretch.stop) for stretch in stretches]
        findings += map(_finding, replay_all(release, model, ends))
        recipe, _ = load_recipe(model, release.folder)
        numerics.enter(recipe.numerics)  # a replay did so already, if there was one
        described = numerics.describe(recipe.numerics, recipe.precision, recipe.compiled)
        about[model] = Numerics.from_json(described, "numerics")
    return Sampled(findings, about, numerics.processor())


def _finding(replayed: Replayed) -> Finding:
    differs = replayed.first_difference is not None
    return Finding(replayed.first_difference, replayed.detail[:MAX_TEXT] if differs else None)
