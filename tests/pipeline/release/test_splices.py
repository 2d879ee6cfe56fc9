"""Seeded splices: states that were put into a training from elsewhere, and the tensors in which that shows.

Trainings are real: gradients of a tiny model of each family, the trainer's optimizer, recipes' sections. What no bound
can show, and from which distance on, is measured in `docs/audit.md`.
"""

from collections.abc import Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.release.displacement import Moments, Optimizer, Violation, Window
from tests.project import ROOT
from tests.trainer.tiny import tiny_spec
from trainer.model import Decoder, initialize
from trainer.optimizer import BLOCKS, AdamW, FlatParameters, block_norms, clip_factor, learning_rate
from trainer.recipe import OptimizerSection, ScheduleSection, load_recipe

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
STORED = (0, 1, 2, 4, 8, 16)
Tensors = dict[str, NDArray[np.float32]]
State = tuple[Tensors, Tensors]
"""Weights, and moments as a checkpoint names them."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are small, and threads wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(family: str, section: OptimizerSection, rates: list[float], seed: int) -> list[State]:
    """The states of a training on made-up rows, from step 0."""
    model = Decoder(tiny_spec(family))
    initialize(model, seed)
    flat = FlatParameters(model, section.decay)
    adamw = AdamW(flat, 0, flat.size, section)
    rows = torch.from_numpy(np.random.default_rng(seed).integers(0, 64, (len(rates), 4, 33)))
    states = []
    for step in range(len(rates) + 1):
        if step:
            gradients = torch.zeros(flat.size)
            flat.collect(gradients)
            model.loss(rows[step - 1], 0.0).backward()  # type: ignore[no-untyped-call]
            _, factor = clip_factor(block_norms(gradients, flat.size // BLOCKS), 1.0, section.clip_norm)
            adamw.update(gradients, factor, rates[step - 1], step)
        pairs = (("first", adamw.first), ("second", adamw.second))
        moments = {f"{moment}.{name}": t.copy() for moment, all_ in pairs for name, t in flat.named(all_).items()}
        states.append(({name: t.copy() for name, t in flat.named(flat.values).items()}, moments))
    return states


def found_between(optimizer: Optimizer, rates: list[float], start: int, states: tuple[State, State]) -> list[Violation]:
    window = Window(optimizer, start, rates)
    found: list[Violation | None] = []
    for name in states[0][0]:
        pair = [Moments(moments[f"first.{name}"], moments[f"second.{name}"]) for _, moments in states]
        found += [window.weights(name, states[0][0][name], states[1][0][name]), window.moments(name, *pair)]
    return [violation for violation in found if violation]


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_gives_a_false_alarm_on_real_gradients(name: str) -> None:
    """Its family made tiny, its optimizer, and its whole schedule in eight updates."""
    recipe, spec = load_recipe(name, ROOT)
    steps = np.linspace(1, recipe.schedule.steps, 8).astype(int)
    rates = [learning_rate(recipe.schedule, int(step), recipe.data.global_batch) for step in steps]
    states = trained(recipe.model["family"], recipe.optimizer, rates, recipe.seed)
    optimizer = Optimizer(**recipe.optimizer.model_dump(exclude={"clip_norm"}))
    for start, end in ((0, 1), (1, 2), (2, 8), (0, 8), (7, 8)):
        assert found_between(optimizer, rates[start:end], start, (states[start], states[end])) == []


@cache
def series(seed: int) -> dict[int, State]:
    """The stored states of the demo's mobilellm, made tiny, until the end of its warm-up."""
    recipe, _ = load_recipe("mobilellm", ROOT)
    states = trained("mobilellm", recipe.optimizer, demo_rates(), seed)
    return {step: states[step] for step in STORED}


def ours() -> Optimizer:
    recipe, _ = load_recipe("mobilellm", ROOT)
    return Optimizer(**recipe.optimizer.model_dump(exclude={"clip_norm"}))


@cache
def demo_rates() -> list[float]:
    schedule: ScheduleSection = load_recipe("mobilellm", ROOT)[0].schedule
    return [learning_rate(schedule, step, 4) for step in range(1, STORED[-1] + 1)]


def blend(ours: Tensors, theirs: Tensors, share: float) -> Tensors:
    return {name: ours[name] + np.float32(share) * (theirs[name] - ours[name]) for name in ours}


def spliced(kind: str, step: int, draw: np.random.Generator) -> tuple[Tensors, set[str]]:
    """Weights for `step` that no training made, and the tensors that are not ours."""
    ours, theirs = series(1)[step][0], series(2)[step][0]
    if kind == "another seed":
        return theirs, {name for name in ours if not np.array_equal(ours[name], theirs[name])}
    if kind == "another step":
        other = series(1)[int(draw.choice([one for one in STORED if one != step]))][0]
        return other, {*ours}
    if kind.startswith("interpolation"):
        mixed = blend(ours, theirs, float(kind.split()[1]))
        return mixed, {name for name in ours if not np.array_equal(ours[name], mixed[name])}
    if kind == "one tensor":
        name = str(draw.choice([name for name in ours if ours[name].ndim > 1]))
        return ours | {name: theirs[name]}, {name}
    sigma = float(kind.split()[1]) * np.std(ours["embedding.weight"])
    noise = {name: np.float32(sigma) * draw.standard_normal(t.shape).astype(np.float32) for name, t in ours.items()}
    return {name: t + noise[name] for name, t in ours.items()}, {*ours}


KINDS = ["another seed", "another step", "interpolation 0.03", "interpolation 0.1", "one tensor", "noise 0.1", "noise 3"]


@pytest.mark.parametrize("number", range(100))
def test_a_splice_is_found_by_tensor_and_no_other_tensor_is(number: int) -> None:
    """At the steps of the demo's schedule up to 8; farther apart, see the table in `docs/audit.md`."""
    draw = np.random.default_rng(number)
    kind, place = KINDS[number % len(KINDS)], int(draw.integers(1, len(STORED) - 1))
    weights, foreign = spliced(kind, STORED[place], draw)
    found: set[str] = set()
    states = series(1) | {STORED[place]: (weights, series(1)[STORED[place]][1])}
    for start, end in pairwise(STORED[place - 1 : place + 2]):
        violations = found_between(ours(), demo_rates()[start:end], start, (states[start], states[end]))
        found |= {violation.tensor for violation in violations}
    assert found and found <= foreign


def test_nothing_is_found_in_the_training_itself() -> None:
    states = series(1)
    for start, end in pairwise(STORED):
        assert found_between(ours(), demo_rates()[start:end], start, (states[start], states[end])) == []


def test_moments_of_another_seed_do_not_fit() -> None:
    """Whole states are spliced: weights and moments that belong together."""
    for place in range(1, len(STORED) - 1):
        states = series(1) | {STORED[place]: (series(1)[STORED[place]][0], series(2)[STORED[place]][1])}
        kinds = set()
        for start, end in pairwise(STORED[place - 1 : place + 2]):
            violations = found_between(ours(), demo_rates()[start:end], start, (states[start], states[end]))
            kinds |= {violation.kind for violation in violations}
        assert kinds & {"first moment", "second moment"}
