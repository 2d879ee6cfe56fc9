"""The one thing that is changed in a counterfactual training, and what recipe and data are with it.

    documents    spans that are not seen, as in a training that forgets them (`pipeline.formats.forgotten`)
    order        another seed of the order of rows
    rate         the learning rate of every step, times a factor

Recipe and data stay what the trainer reads everywhere else, so it knows nothing of counterfactuals.
"""

import math
from dataclasses import dataclass, replace

from pipeline.base.errors import EverystepError
from pipeline.formats.forgotten import Forgotten
from pipeline.formats.manifests import RecipeParameters
from trainer.data import EverystepData, TrainingData
from trainer.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is other than published; at most one of these, and without any the training is the published one."""

    forgotten: Forgotten | None = None
    """All spans that the training does not see, those that the release has lost before among them."""
    order: int | None = None
    """Seed of the order."""
    rate: float | None = None
    """Factor of the learning rate: of `start` and `peak` of the schedule, of which every rate is a multiple."""

    def recipe(self, published: Recipe) -> Recipe:
        """The recipe with the change."""
        if self.order is not None:
            return published.model_copy(update={"data": published.data.model_copy(update={"seed": self.order})})
        if self.rate is not None:
            schedule = published.schedule
            rates = {"start": schedule.start * self.rate, "peak": schedule.peak * self.rate}
            return published.model_copy(update={"schedule": schedule.model_copy(update=rates)})
        return published

    def data(self, published: TrainingData) -> TrainingData:
        """The data with the change."""
        if self.order is not None:
            return replace(published, section=published.section.model_copy(update={"seed": self.order}))
        if self.forgotten is not None:
            if not isinstance(published, EverystepData):
                raise EverystepError("rows that others made have no index of documents, so none can be left out")
            return replace(published, forgotten=self.forgotten)
        return published


def require_possible(published: RecipeParameters, order: int | None, rate: float | None) -> None:
    """Refuse a change that the training of a model cannot have."""
    if order is not None and published.data.layout == "mobilellm":
        raise EverystepError("--seed-order: rows in the layout mobilellm are read as they are; no seed orders them")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise EverystepError(f"--rate {rate}: give a number above 0, by which the learning rate is multiplied")
