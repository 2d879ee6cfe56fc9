"""Metrics of a task from log-likelihoods, with standard errors, as lm-evaluation-harness 0.4.13 computes both.

    acc            share of items whose likeliest choice is the right one; of one choice, whether it is the greedy one
    acc_norm       the same with log-likelihoods per character of the choice, without the delimiter before it
    perplexity     exp of the mean negative log-likelihood, in nats per item
    bits_per_byte  negative log-likelihood of the right choices, in bits per byte of their continuations

The harness has the last one for whole documents only; here it is a metric of every task. All of it is + - * / and
square roots in float64, so that every machine gets the same bits.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.scores import Score
from pipeline.formats.tasks import Task

BITS_PER_BYTE = "bits_per_byte"
PAPERS_ORDER = ("arc_easy", "arc_challenge", "boolq", "piqa", "siqa", "hellaswag", "openbookqa", "winogrande")
"""The columns of the tables of MobileLLM, in their order."""
NOISE = 2
"""Standard errors within which a difference from chance is called noise."""
RESAMPLES, SEEDS = 1000, 100
"""The harness draws 1,000 samples of the items with each of the seeds 0 to 99 (`bootstrap_iters`)."""
LN_2, LN_2_HIGH, LN_2_LOW = 0.6931471805599453, 0.6931471803691238, 1.9082149292705877e-10
"""The logarithm of 2, and two numbers that sum to it, of which the first has 32 bits."""

Row = Mapping[str, Any]


class Answers(NamedTuple):
    """What a model says of the choices of one item."""

    log_likelihoods: list[float]
    greedy: list[bool]
    bytes: list[int]
    characters: list[int]
    gold: int


class Estimate(NamedTuple):
    """A number and its standard error, which fewer than two items do not have."""

    value: float
    standard_error: float | None


def scores_of(rows: Iterable[Row], tasks: Mapping[str, Task], steps: Mapping[str, int]) -> Iterator[Score]:
    """The lines of `scores.jsonl` from the rows of `items.parquet`, which are in its order."""
    for (revision, name), of_task in groupby(rows, key=lambda row: (row["revision"], row["task"])):
        items = [list(choices) for _, choices in groupby(of_task, key=lambda row: row["item"])]
        answers = [_answers(choices) for choices in items if choices[0]["log_likelihood"] is not None]
        for metric in [*tasks[name].metrics, BITS_PER_BYTE]:
            found = METRICS[metric](answers) if answers else None
            chance = tasks[name].chance if metric in ("acc", "acc_norm") else None
            yield Score(
                revision=revision,
                step=steps[revision],
                task=name,
                metric=metric,
                value=found and found.value,
                standard_error=found and found.standard_error,
                items=len(answers),
                too_long=len(items) - len(answers),
                chance=chance,
                within_noise=None if found is None or chance is None else _is_noise(found, chance),
            )


def told_last(scores: Sequence[Score]) -> dict[str, Any]:
    """Too long items by task, and the metrics of the last checkpoint, from all lines."""
    last = [line for line in scores if line.revision == scores[-1].revision]
    told: dict[str, dict[str, Any]] = {line.task: {} for line in last}
    for line in last:
        told[line.task][line.metric] = line.value
    return {"too_long": {line.task: line.too_long for line in last}, "last": told}


def _answers(choices: Sequence[Row]) -> Answers:
    return Answers(
        log_likelihoods=[choice["log_likelihood"] for choice in choices],
        greedy=[choice["greedy"] for choice in choices],
        bytes=[choice["bytes"] for choice in choices],
        characters=[choice["characters"] for choice in choices],
        gold=[choice["gold"] for choice in choices].index(True),
    )


def _is_noise(found: Estimate, chance: float) -> bool | None:
    error = found.standard_error
    return None if error is None else abs(found.value - chance) <= NOISE * error


def accuracy(items: Sequence[Answers]) -> Estimate:
    """Share of items whose likeliest choice is right; the first of equally likely ones counts."""
    if all(len(item.log_likelihoods) == 1 for item in items):
        return mean([float(item.greedy[0]) for item in items])
    return mean([float(_largest(item.log_likelihoods) == item.gold) for item in items])


def accuracy_per_character(items: Sequence[Answers]) -> Estimate:
    """The same by log-likelihood per character."""
    return mean(
        [
            float(_largest([x / n for x, n in zip(item.log_likelihoods, item.characters, strict=True)]) == item.gold)
            for item in items
        ]
    )


def perplexity(items: Sequence[Answers]) -> Estimate:
    """exp(-mean of log-likelihoods), whose standard error is the standard deviation over resampled items."""
    x_N = np.array([item.log_likelihoods[item.gold] for item in items])
    N = len(x_N)
    value = float(exponential(np.array([-math.fsum(x_N) / N]))[0])
    if N < 2:
        return Estimate(value, None)
    resampled = []
    for seed in range(SEEDS):  # what `random.Random(seed).choices` draws: numpy has the same Mersenne twister
        drawn = (np.random.RandomState([seed]).random_sample((RESAMPLES, N)) * N).astype(np.int64)
        total = np.zeros(RESAMPLES)
        for column in drawn.T:
            total += x_N[column]
        resampled.append(exponential(-(total / N)))
    return Estimate(value, _deviation(np.concatenate(resampled).tolist()))


def bits_per_byte(items: Sequence[Answers]) -> Estimate:
    """Bits of the right choices over their bytes, with the standard error of a ratio of two means."""
    bits = [-item.log_likelihoods[item.gold] / LN_2 for item in items]
    sizes = [item.bytes[item.gold] for item in items]
    value = math.fsum(bits) / sum(sizes)
    if len(items) < 2:
        return Estimate(value, None)
    residuals = [(b - value * size) ** 2 for b, size in zip(bits, sizes, strict=True)]
    return Estimate(value, math.sqrt(math.fsum(residuals) * len(items) / (len(items) - 1)) / sum(sizes))


METRICS: dict[str, Callable[[Sequence[Answers]], Estimate]] = {
    "acc": accuracy,
    "acc_norm": accuracy_per_character,
    "perplexity": perplexity,
    BITS_PER_BYTE: bits_per_byte,
}


def mean(values: Sequence[float]) -> Estimate:
    """The mean, with the standard error of a mean."""
    value = math.fsum(values) / len(values)
    return Estimate(value, None if len(values) < 2 else _deviation(values) / math.sqrt(len(values)))


def _deviation(values: Sequence[float]) -> float:
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1))


def _largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda place: values[place])


def exponential(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(x) = 2^k exp(r) with |r| <= ln 2 / 2, by Taylor's series. Unlike that of C libraries it has the same bits
    everywhere; the relative error is below 1e-15."""
    k = np.rint(x / LN_2)
    r = x - k * LN_2_HIGH - k * LN_2_LOW
    series = np.ones_like(r)
    for n in range(18, 0, -1):
        series = 1 + r * series / n
    scaled: NDArray[np.float64] = np.ldexp(series, k.astype(np.int64))
    return scaled
