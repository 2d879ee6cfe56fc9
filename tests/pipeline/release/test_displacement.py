"""Bounds on what AdamW does between two states: no gradient breaks them, the worst one reaches them.

The optimizer is the trainer's own. Each element of a tensor is one adversary, so a run tries hundreds of them.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.base.yaml import load_yaml
from pipeline.formats.manifests import RecipeParameters
from pipeline.release.displacement import HALF_ULP, Moments, Optimizer, Window, update_bounds, violations
from pipeline.release.rates import learning_rates, wrong_rate
from tests.project import ROOT
from trainer.optimizer import AdamW, FlatParameters, learning_rate
from trainer.recipe import OptimizerSection, load_recipe

RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
OURS = Optimizer(beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, decay="matrices")
SHAPE = (4, 96)
State = dict[str, NDArray[np.float32]]
Arrays = NDArray[np.float64]


@pytest.fixture(scope="module", params=[False, True], ids=["native", "portable"], autouse=True)
def portable(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each numerics class has an update of its own. One thread: tensors are small, and threads wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.matmul._portable", request.param)
        yield
    torch.set_num_threads(threads)


class Model(torch.nn.Module):
    """A matrix and a vector, of which decay takes both or one."""

    def __init__(self, matrix: NDArray[np.float32], vector: NDArray[np.float32]) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.from_numpy(matrix))
        self.vector = torch.nn.Parameter(torch.from_numpy(vector))


def run(start: State, optimizer: Optimizer, rates: Arrays, gradients: Arrays) -> list[tuple[State, State]]:
    """Weights and moments after each update, from step 0; `gradients` are (steps, elements)."""
    flat = FlatParameters(Model(start["matrix"], start["vector"]), optimizer.decay)
    adamw = AdamW(flat, 0, flat.size, OptimizerSection(**asdict(optimizer), clip_norm=1.0))
    states = []
    for step in range(len(rates) + 1):
        if step:
            row = gradients[step - 1].astype(np.float32)
            named = {"matrix": row[: np.prod(SHAPE)].reshape(SHAPE), "vector": row[np.prod(SHAPE) :]}
            gradient = torch.zeros(flat.size)
            for name, view in flat.named(gradient).items():
                view[...] = named[name]
            adamw.update(gradient, 1.0, float(rates[step - 1]), step)
        moments = {
            f"{moment}.{name}": array.copy()
            for moment, whole in (("first", adamw.first), ("second", adamw.second))
            for name, array in flat.named(whole).items()
        }
        states.append(({name: array.copy() for name, array in flat.named(flat.values).items()}, moments))
    return states


def moments(state: State, name: str) -> Moments:
    return Moments(state[f"first.{name}"], state[f"second.{name}"])


def some_weights(draw: np.random.Generator) -> State:
    """Weights of every size that a model has: zeros, ones (norms) and small numbers."""
    matrix = draw.choice([0.0, 1.0, 0.02, 1e-6, 30.0], SHAPE) * draw.standard_normal(SHAPE)
    return {"matrix": matrix.astype(np.float32), "vector": draw.choice([0, 1, -0.5], 96).astype(np.float32)}


def adversaries(draw: np.random.Generator, optimizer: Optimizer, num_steps: int) -> Arrays:
    """Gradients (steps, elements): each element follows one way to move a weight far or to upset rounding."""
    elements, t = int(np.prod(SHAPE)) + 96, np.arange(num_steps)[:, None]
    worst = np.log(optimizer.beta2 / optimizer.beta1)
    noise = draw.standard_normal((num_steps, elements))
    since = t - draw.integers(0, num_steps, elements)
    ways = [
        np.exp(worst * t + 0 * since),
        np.where(since >= 0, np.exp(worst * since), 0.0),
        np.exp(draw.uniform(-3, 3, elements) * t * worst),
        np.ones_like(noise),
        (-1.0) ** (t // draw.integers(1, 20, elements)),
        noise,
        np.where(since == 0, 1.0, 1e-7 * noise),
        np.where(noise > 2, noise, 0.0),
        np.exp(20 * noise) * np.sign(noise),
        np.zeros_like(noise),
    ]
    which = np.arange(elements) % len(ways)
    scale = 10.0 ** draw.choice([-40, -25, -21, -19, -12, -8, -4, -2, 0, 3, 12], elements)
    chosen = np.choose(which, ways) * scale * draw.choice([-1, 1], elements)
    clipped: Arrays = np.clip(chosen, -1e18, 1e18)
    return clipped


def complaints(states: list[tuple[State, State]], optimizer: Optimizer, rates: Arrays, pairs: Any) -> list[str]:
    """All violations between these pairs of steps."""
    found: list[Any] = []
    for start, end in pairs:
        window = Window(optimizer, start, rates[start:end])
        found += violations(states[start][0], states[end][0], window)
        for name in ("matrix", "vector"):
            found.append(window.moments(name, moments(states[start][1], name), moments(states[end][1], name)))
            found.append(Window(optimizer, 0, rates[:end]).moments(name, None, moments(states[end][1], name)))
    return [str(violation) for violation in found if violation]


optimizers = st.builds(
    Optimizer,
    beta1=st.sampled_from([0.9, 0.8, 0.95, 0.5, 0.99]),
    beta2=st.sampled_from([0.95, 0.999, 0.99, 0.98, 0.8, 0.81]),
    epsilon=st.sampled_from([1e-8, 1e-6, 1e-15, 1e-20]),
    weight_decay=st.sampled_from([0.1, 0.0, 0.01, 1.0]),
    decay=st.sampled_from(["matrices", "all"]),
)


@settings(max_examples=25)
@given(optimizer=optimizers, seed=st.integers(0, 2**32), num_steps=st.integers(1, 60))
def test_no_gradient_breaks_a_bound(optimizer: Optimizer, seed: int, num_steps: int) -> None:
    draw = np.random.default_rng(seed)
    drawn = 10.0 ** draw.uniform(-6, -1) * draw.uniform(0, 1, num_steps)
    rates = drawn.astype(np.float32).astype(np.float64)
    gradients = adversaries(draw, optimizer, num_steps)
    states = run(some_weights(draw), optimizer, rates, gradients)
    ends = draw.integers(1, num_steps + 1, 6)
    pairs = [(int(draw.integers(0, end)), int(end)) for end in ends]
    assert complaints(states, optimizer, rates, [*pairs, (0, num_steps), (0, 1)]) == []


@pytest.mark.parametrize("beta2", [0.95, 0.999, 0.8])
def test_the_worst_gradient_comes_within_one_in_ten_thousand_of_every_bound(beta2: float) -> None:
    """Growing by beta2 / beta1 in each step, it makes every step the longest there is."""
    optimizer = Optimizer(beta1=0.9, beta2=beta2, epsilon=1e-12, weight_decay=0.1, decay="matrices")
    zeros, rates = {"matrix": np.zeros(SHAPE, np.float32), "vector": np.zeros(96, np.float32)}, np.full(96, 1e-3)
    row = 1e-3 * (beta2 / 0.9) ** np.arange(96)
    states = run(zeros, optimizer, rates, np.tile(row[:, None], (1, int(np.prod(SHAPE)) + 96)))
    for start, end in [(0, 1), (0, 8), (0, 96), (40, 41), (40, 72)]:
        window = Window(optimizer, start, rates[start:end])
        for name, decayed in (("matrix", True), ("vector", False)):
            before, after = states[start][0][name], states[end][0][name]
            moved = after - np.float32(window.kept(decayed)) * before
            assert 0.9999 < np.abs(moved).max() / window.reach(decayed) < 1.0001
            assert window.weights(name, before, after) is None
            assert window.weights(name, before, (after + 3e-4 * moved).astype(np.float32)) is not None
        shrunk = moments(states[end][1], "matrix")._replace(second=states[end][1]["second.matrix"] * np.float32(0.9999))
        assert window.moments("matrix", moments(states[start][1], "matrix"), shrunk) is not None


@pytest.mark.parametrize("step", [1, 2, 16, 64, 5000])
def test_the_bound_of_a_step_is_the_sum_of_the_formula(step: int) -> None:
    terms = math.fsum((0.9**2 / 0.95) ** age for age in range(step))
    exact = 0.1 / (1 - 0.9**step) * math.sqrt((1 - 0.95**step) / 0.05 * terms)
    bound = float(update_bounds(OURS, np.array([step]))[0])
    assert exact < bound < exact * (1 + 1e-5)
    assert exact <= 1.16497 and (step != 1 or exact == pytest.approx(1))


def test_a_second_moment_falls_no_faster_than_its_decay() -> None:
    window, some = Window(OURS, 10, np.full(3, 1e-3)), np.full((2, 2), 1e-4, np.float32)
    zero = np.zeros_like(some)
    kept = Moments(zero, some * np.float32(0.95**3))
    assert window.moments("w", Moments(zero, some), kept) is None
    found = window.moments(
        "w", Moments(zero, some), kept._replace(second=kept.second * np.array([[1, 1], [1, 0.99]], np.float32))
    )
    assert found and (found.kind, found.tensor, found.element) == ("second moment", "w", (1, 1))
    assert str(found).startswith("the second moment of w[1, 1] is 8.4880")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_violates_every_bound(value: float) -> None:
    window, fine = Window(OURS, 0, np.full(3, 1e-3)), np.ones((3, 3), np.float32)
    broken = fine.copy()
    broken[2, 1] = value
    for before, after in ((fine, broken), (broken, fine), (broken, broken)):
        found = window.weights("w", before, after)
        assert found and found.element == (2, 1)
    assert window.moments("w", Moments(fine, fine), Moments(broken, fine)) is not None
    if value != np.inf:  # what a gradient above 10^19 leaves in the second moment, so no proof of anything
        assert window.moments("w", Moments(fine, fine), Moments(fine, broken)) is not None


@pytest.mark.parametrize(("published", "numpy"), [("F16", np.float16), ("BF16", None)])
def test_weights_that_were_rounded_when_published_are_allowed_their_half_ulp(published: Any, numpy: Any) -> None:
    draw, rates = np.random.default_rng(5), np.full(20, 1e-6)
    states = run(some_weights(draw), OURS, rates, adversaries(draw, OURS, 20))
    window = Window(OURS, 0, rates)

    def rounded(weights: State) -> State:
        if numpy:
            return {name: array.astype(numpy).astype(np.float32) for name, array in weights.items()}
        return {name: torch.from_numpy(array).bfloat16().float().numpy() for name, array in weights.items()}

    start, end = rounded(states[0][0]), rounded(states[20][0])
    assert violations(start, end, window, published) == []
    assert violations(start, end, window) != []  # as if they were float32
    assert set(HALF_ULP) == {"F32", "F16", "BF16"}


@pytest.mark.parametrize("name", RECIPES)
def test_no_recipe_gives_a_false_alarm(name: str) -> None:
    """Its optimizer and its schedule: the first steps, all of it in fewer steps, the last ones; worst gradients."""
    recipe, steps = load_recipe(name, ROOT)[0], 48
    optimizer = Optimizer(**recipe.optimizer.model_dump(exclude={"clip_norm"}))
    total, draw = recipe.schedule.steps, np.random.default_rng(11)
    for chosen in (range(1, steps + 1), np.linspace(1, total, steps), range(total - steps + 1, total + 1)):
        rates = np.array([learning_rate(recipe.schedule, int(t), recipe.data.global_batch) for t in chosen])
        states = run(some_weights(draw), optimizer, rates, adversaries(draw, optimizer, steps))
        pairs = [(0, 1), (1, 2), (0, steps), (7, 8), (30, steps), (16, 32)]
        assert complaints(states, optimizer, rates, pairs) == []


@pytest.mark.parametrize("name", RECIPES)
def test_rates_are_those_of_the_trainer(name: str) -> None:
    recipe = load_recipe(name, ROOT)[0]
    total, batch = recipe.schedule.steps, recipe.data.global_batch
    parameters = RecipeParameters.from_json(load_yaml(ROOT / "recipes" / f"{name}.yaml"), name)
    rates = learning_rates(parameters, total)
    chosen = [*range(1, 20), *np.linspace(20, total, 100).astype(int)]
    trained = [learning_rate(recipe.schedule, int(step), batch) for step in chosen]
    np.testing.assert_allclose(rates[np.array(chosen) - 1], trained, rtol=0, atol=2.0**-22 * max(trained))
    assert wrong_rate(parameters, rates) is None
    rates[total // 2] *= 1.001
    step, rate = wrong_rate(parameters, rates) or (0, 0.0)
    assert step == total // 2 + 1
    assert rate == pytest.approx(rates[total // 2] / 1.001)
