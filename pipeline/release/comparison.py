"""Comparison: the models of a release beside each other, column by column, and which differences mean something.

Two values of a column are *within the noise* of each other if they differ by no more than the larger of two numbers:
the largest difference in that column between two models that differ only in a seed (`siblings`), and twice the
standard error of their difference. The first says what another seed would have done, the second what other items would
have done. A value is *near chance* if it is within twice its standard error of what guessing scores.

Standard errors of two models on the same items are added as if the items were different ones. That is never too small
a number for models that get the same items right, so "differs" is said too rarely, not too often.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from pipeline.formats.canonical import canonical
from pipeline.formats.manifests import RecipeParameters
from pipeline.formats.typed import Count, Typed

PAPERS_ORDER = {
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "boolq": "BoolQ",
    "piqa": "PIQA",
    "siqa": "SIQA",
    "hellaswag": "HellaSwag",
    "openbookqa": "OBQA",
    "winogrande": "WinoGrande",
}
"""Task → heading, in the order of columns of MobileLLM's tables as corrected (docs/reference/published-results.md)."""
OTHERS = {
    "lambada": "LAMBADA",
    "sciq": "SciQ",
    "swapped_speaker": "speaker",
    "swapped_type": "type",
    "permuted_words": "words",
}
"""The tasks of Pythia's tables that are not among these, then the minimal pairs."""
METRICS = ("acc_norm", "acc")
"""What a column shows of a task: the first of these that its definition has."""
NOT_COMPARED = ("name", "checkpoints", "digest_every")
"""Keys of a recipe that decide no weight."""
ERRORS = 2
"""Standard errors within which a difference is not one."""


class Score(Typed):
    """What the last checkpoint of a model scores in a task."""

    model: str
    """Name of the model."""
    task: str
    """Name of the task."""
    metric: str
    """Name of the metric, as lm-evaluation-harness has it."""
    value: float
    """The score."""
    standard_error: float
    """Its standard error over the items."""
    items: Count
    """Items that were scored."""
    chance: float | None
    """What guessing scores; null where there is nothing to guess from."""


class Siblings(Typed):
    """Groups of two or more models that were trained alike but for a seed."""

    seeds: list[list[str]]
    """Of the first weights, of the order of the rows, or of both."""
    weights: list[list[str]]
    """Of the first weights alone."""
    orders: list[list[str]]
    """Of the order alone."""


class Spread(NamedTuple):
    """The largest difference in a column between two siblings; null where there are none."""

    seeds: float | None
    """That differ in any seed."""
    weights: float | None
    """That differ in their first weights alone."""
    orders: float | None
    """That differ in the order alone."""


class Cell(NamedTuple):
    """A value in a column."""

    value: float
    """The value."""
    standard_error: float
    """Its standard error over items or rows."""
    leads: bool
    """Whether it is the best of its column, or within the noise of it."""
    near_chance: bool
    """Whether guessing would do as well."""


class Column(NamedTuple):
    """One measurement of all models."""

    heading: str
    """What it measures."""
    metric: str
    """Its metric."""
    chance: float | None
    """What guessing scores; null where there is nothing to guess from."""
    items: int
    """Items or rows."""
    spread: Spread
    """What seeds make of it."""
    cells: dict[str, Cell]
    """Model → its value, in the order of the models."""

    @property
    def differs(self) -> bool:
        """Whether it tells models apart: not all of them are within the noise of the best."""
        return not all(cell.leads for cell in self.cells.values())


def siblings(recipes: Mapping[str, RecipeParameters]) -> Siblings:
    """Which models were trained alike but for a seed."""
    return Siblings(
        seeds=_alike(recipes, lambda recipe: ()),
        weights=_alike(recipes, lambda recipe: (recipe.data.seed,)),
        orders=_alike(recipes, lambda recipe: (recipe.seed,)),
    )


def columns(scores: Sequence[Score], models: Sequence[str], groups: Siblings) -> list[Column]:
    """A column for each task of the papers that was scored, in their order."""
    return [*_columns(PAPERS_ORDER, scores, models, groups)]


def other_columns(scores: Sequence[Score], models: Sequence[str], groups: Siblings) -> list[Column]:
    """A column for each other task: Pythia's, the minimal pairs, and what a project adds."""
    added = {score.task: score.task for score in scores if score.task not in PAPERS_ORDER}
    return [*_columns(OTHERS | {name: name for name in added if name not in OTHERS}, scores, models, groups)]


def average(of: Sequence[Column], groups: Siblings) -> Column:
    """The plain mean of columns, as the papers have it."""
    number = len(of)
    values = {
        model: (
            math.fsum(column.cells[model].value for column in of) / number,
            math.sqrt(math.fsum(column.cells[model].standard_error ** 2 for column in of)) / number,
        )
        for model in of[0].cells
    }
    known = [column.chance for column in of if column.chance is not None]
    chance = math.fsum(known) / number if len(known) == number else None
    return column("average", "mean", values, groups, chance=chance, items=sum(each.items for each in of))


def column(
    heading: str,
    metric: str,
    values: Mapping[str, tuple[float, float]],
    groups: Siblings,
    *,
    items: int,
    chance: float | None = None,
    smaller_is_better: bool = False,
) -> Column:
    """A column from each model's value and standard error."""
    plain = {name: value for name, (value, _) in values.items()}
    spread = Spread(*(_largest(plain, each) for each in (groups.seeds, groups.weights, groups.orders)))
    best = (min if smaller_is_better else max)(values.values(), key=lambda pair: pair[0])
    cells = {
        name: Cell(
            value=value,
            standard_error=error,
            leads=is_within_noise((value, error), best, spread.seeds),
            near_chance=chance is not None and abs(value - chance) <= ERRORS * error,
        )
        for name, (value, error) in values.items()
    }
    return Column(heading, metric, chance, items, spread, cells)


def is_within_noise(one: tuple[float, float], other: tuple[float, float], spread: float | None) -> bool:
    """Whether two values, each with its standard error, differ by no more than seeds or items explain."""
    return abs(one[0] - other[0]) <= max(spread or 0.0, ERRORS * math.hypot(one[1], other[1]))


def _columns(
    headings: Mapping[str, str], scores: Sequence[Score], models: Sequence[str], groups: Siblings
) -> Iterator[Column]:
    """The columns of the tasks that every model has a score for, in the order of `headings`."""
    for task, heading in headings.items():
        for metric in METRICS:
            found = {score.model: score for score in scores if score.task == task and score.metric == metric}
            if found.keys() >= {*models}:
                first = found[models[0]]
                values = {name: (found[name].value, found[name].standard_error) for name in models}
                yield column(heading, metric, values, groups, chance=first.chance, items=first.items)
                break


def _largest(values: Mapping[str, float], groups: Iterable[Sequence[str]]) -> float | None:
    """The largest difference between two models of a group."""
    pairs = [pair for group in groups for pair in combinations([name for name in group if name in values], 2)]
    return max((abs(values[one] - values[other]) for one, other in pairs), default=None)


def _alike(
    recipes: Mapping[str, RecipeParameters], seeds: Callable[[RecipeParameters], tuple[int, ...]]
) -> list[list[str]]:
    """Groups of models with the same recipe, seeds apart, that also agree in these seeds."""
    groups: defaultdict[bytes, list[str]] = defaultdict(list)
    for name, recipe in recipes.items():
        tree = {key: value for key, value in recipe.to_json().items() if key not in (*NOT_COMPARED, "seed")}
        tree["data"] = {key: value for key, value in recipe.data.to_json().items() if key != "seed"}
        groups[canonical([tree, *seeds(recipe)])].append(name)
    return [group for group in groups.values() if len(group) > 1]
