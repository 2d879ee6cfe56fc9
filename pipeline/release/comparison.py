"""Comparison: the models of a release beside each other, column by column, and which differences mean something.

Two values of a column are *within the noise* of each other if they differ by no more than twice the standard deviation
of their difference: from seed to seed, as models that differ only in a seed show it (`siblings`), or from item to item,
whichever is larger. A value is *near chance* if it is within twice its standard error of what guessing scores.

Standard errors of two models on the same items are added as if the items were different ones. That is never too small
a number for models that get the same items right, so "differs" is said too rarely, not too often.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.formats.manifests import RecipeParameters
from pipeline.formats.scores import Score
from pipeline.formats.suite import groups_by_seed
from pipeline.formats.typed import Typed

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
WIDE = 2
"""Standard deviations within which a difference is not one."""


Scores = Mapping[str, Sequence[Score]]
"""Name of a model, in the order of the models → what its last scored checkpoint scores."""


class Siblings(Typed):
    """Groups of two or more models that were trained alike but for a seed."""

    seeds: list[list[str]]
    """Of the first weights, of the order of the rows, or of both."""
    weights: list[list[str]]
    """Of the first weights alone."""
    orders: list[list[str]]
    """Of the order alone."""


class Deviation(NamedTuple):
    """Standard deviation of a column from one sibling to another; null where there are none."""

    seeds: float | None
    """Of siblings that differ in any seed."""
    weights: float | None
    """Of those that differ in their first weights alone."""
    orders: float | None
    """Of those that differ in the order alone."""


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

    name: str
    """Name of the task or source."""
    heading: str
    """The same for people."""
    metric: str
    """Its metric."""
    chance: float | None
    """What guessing scores; null where there is nothing to guess from."""
    items: int
    """Items or rows."""
    deviation: Deviation
    """What seeds make of it."""
    cells: dict[str, Cell]
    """Model → its value, in the order of the models."""

    @property
    def differs(self) -> bool:
        """Whether it tells models apart: not all of them are within the noise of the best."""
        return not all(cell.leads for cell in self.cells.values())


def siblings(recipes: Mapping[str, RecipeParameters]) -> Siblings:
    """Which models were trained alike but for a seed."""
    trees = {name: recipe.to_json() for name, recipe in recipes.items()}
    return Siblings(
        seeds=groups_by_seed(trees),
        weights=groups_by_seed(trees, agree=("data.seed",)),
        orders=groups_by_seed(trees, agree=("seed",)),
    )


def columns(scores: Scores, groups: Siblings) -> list[Column]:
    """A column for each task of the papers that was scored, in their order."""
    return [*_columns(PAPERS_ORDER, METRICS, scores, groups)]


def other_columns(scores: Scores, groups: Siblings) -> list[Column]:
    """A column for each other task: Pythia's, the minimal pairs, and what a project adds."""
    return [
        *_columns(
            {task: name for task, name in _all(scores).items() if task not in PAPERS_ORDER}, METRICS, scores, groups
        )
    ]


def answer_columns(scores: Scores, groups: Siblings) -> list[Column]:
    """A column for each task with the bits per byte of its right answers."""
    return [*_columns(_all(scores), ("bits_per_byte",), scores, groups)]


def average(of: Sequence[Column], groups: Siblings) -> Column:
    """The plain mean of columns, as the papers have it."""
    number = len(of)
    values = {
        model: (
            math.fsum(column.cells[model].value for column in of) / number,
            math.sqrt(
                math.fsum(column.cells[model].standard_error * column.cells[model].standard_error for column in of)
            )
            / number,
        )
        for model in of[0].cells
    }
    known = [column.chance for column in of if column.chance is not None]
    chance = math.fsum(known) / number if len(known) == number else None
    return column("average", "average", "mean", values, groups, chance=chance, items=sum(each.items for each in of))


def column(
    name: str,
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
    plain = {model: value for model, (value, _) in values.items()}
    deviation = Deviation(*(_deviation(plain, each) for each in (groups.seeds, groups.weights, groups.orders)))
    best = (min if smaller_is_better else max)(values.values(), key=lambda pair: pair[0])
    cells = {
        model: Cell(
            value=value,
            standard_error=error,
            leads=is_within_noise((value, error), best, deviation.seeds),
            near_chance=chance is not None and abs(value - chance) <= WIDE * error,
        )
        for model, (value, error) in values.items()
    }
    return Column(name, heading, metric, chance, items, deviation, cells)


def is_within_noise(one: tuple[float, float], other: tuple[float, float], deviation: float | None) -> bool:
    """Whether two values, each with its standard error, differ by no more than seeds or items explain; `deviation` is
    that of one value from seed to seed."""
    of_seeds = math.sqrt(2.0) * (deviation or 0.0)
    return abs(one[0] - other[0]) <= WIDE * max(of_seeds, math.sqrt(one[1] * one[1] + other[1] * other[1]))


def _all(scores: Scores) -> dict[str, str]:
    """Task → heading, of all tasks that were scored."""
    named = PAPERS_ORDER | OTHERS
    added = {score.task: score.task for lines in scores.values() for score in lines if score.task not in named}
    return named | added


def _columns(headings: Mapping[str, str], metrics: Sequence[str], scores: Scores, groups: Siblings) -> Iterator[Column]:
    """The columns of the tasks that every model has a score for, in the order of `headings`; of each, the first metric
    that its definition has."""
    for task, heading in headings.items():
        for metric in metrics:
            found = {
                name: score
                for name, lines in scores.items()
                for score in lines
                if (score.task, score.metric) == (task, metric)
            }
            values = {
                name: (score.value, score.standard_error or 0.0)
                for name, score in found.items()
                if score.value is not None
            }
            if values and len(values) == len(scores):
                first, smaller = next(iter(found.values())), metric == "bits_per_byte"
                yield column(
                    task,
                    heading,
                    metric,
                    values,
                    groups,
                    chance=first.chance,
                    items=first.items,
                    smaller_is_better=smaller,
                )
                break


def _deviation(values: Mapping[str, float], groups: Iterable[Sequence[str]]) -> float | None:
    """The standard deviation inside the groups, pooled."""
    squares, freedom = 0.0, 0
    for group in groups:
        results = [values[name] for name in group]
        mean = math.fsum(results) / len(results)
        squares += math.fsum((result - mean) * (result - mean) for result in results)
        freedom += len(results) - 1
    return math.sqrt(squares / freedom) if freedom else None
