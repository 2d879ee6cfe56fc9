"""Seeded splices: states that were put into a training from elsewhere, and the tensors in which that shows.

Trainings are real: gradients of a tiny model of each family, the trainer's optimizer, recipes' sections. What no bound
can show, and from which distance on, is measured in `docs/audit.md`.
"""

import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.formats import log
from pipeline.formats.checkpoints import OPTIMIZER, WEIGHTS, read_tensors
from pipeline.release.displacement import Moments, Optimizer, Violation, Window
from pipeline.release.release import Release
from tests.conftest import Once
from tests.project import ROOT, run
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
            model.loss(rows[step - 1], 0.0).backward()
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
    recipe, _ = load_recipe(name, ROOT)
    steps = np.linspace(1, recipe.schedule.steps, 8).astype(int)
    rates = [learning_rate(recipe.schedule, int(step), recipe.data.global_batch) for step in steps]
    states = trained(recipe.model["family"], recipe.optimizer, rates, recipe.seed)
    optimizer = optimizer_of(name)
    for start, end in ((0, 1), (1, 2), (2, 8), (0, 8), (7, 8)):
        assert found_between(optimizer, rates[start:end], start, (states[start], states[end])) == []


@cache
def series(seed: int) -> dict[int, State]:
    """The stored states of the demo's mobilellm, made tiny, until the end of its warm-up."""
    recipe, _ = load_recipe("mobilellm", ROOT)
    states = trained("mobilellm", recipe.optimizer, demo_rates(), seed)
    return {step: states[step] for step in STORED}


def optimizer_of(model: str) -> Optimizer:
    recipe, _ = load_recipe(model, ROOT)
    return Optimizer(**recipe.optimizer.model_dump(exclude={"clip_norm"}))


@cache
def demo_rates() -> list[float]:
    schedule: ScheduleSection = load_recipe("mobilellm", ROOT)[0].schedule
    return [learning_rate(schedule, step, 4) for step in range(1, STORED[-1] + 1)]


def blend(ours: Tensors, theirs: Tensors, share: float) -> Tensors:
    return {name: ours[name] + np.float32(share) * (theirs[name] - ours[name]) for name in ours}


def changed(kind: str, draw: np.random.Generator, ours: Tensors, theirs: Tensors) -> Tensors:
    """Our weights, of which the splice has left something."""
    what, _, number = kind.rpartition(" ")
    if kind == "another seed":
        return theirs
    if kind == "one tensor":
        name = str(draw.choice([name for name in ours if ours[name].ndim > 1]))
        return ours | {name: theirs[name]}
    if what == "interpolation":
        return blend(ours, theirs, float(number))
    sigma = float(number) * float(np.std(ours["embedding.weight"]))
    noise = {name: np.float32(sigma) * draw.standard_normal(t.shape).astype(np.float32) for name, t in ours.items()}
    return {name: t + noise[name] for name, t in ours.items()}


KINDS = [
    "another seed",
    "another step",
    "interpolation 0.03",
    "interpolation 0.1",
    "one tensor",
    "noise 0.1",
    "noise 3",
]


@pytest.mark.parametrize("number", range(100))
def test_a_splice_is_found_by_tensor_and_no_other_tensor_is(number: int) -> None:
    """At the steps of the demo's schedule up to 8; farther apart, see the table in `docs/audit.md`."""
    draw = np.random.default_rng(number)
    kind, place = KINDS[number % len(KINDS)], int(draw.integers(1, len(STORED) - 1))
    step = STORED[place]
    if kind == "another step":
        weights = series(1)[int(draw.choice([one for one in STORED if one != step]))][0]
    else:
        weights = changed(kind, draw, series(1)[step][0], series(2)[step][0])
    foreign = {name for name, ours in series(1)[step][0].items() if not np.array_equal(ours, weights[name])}
    found: set[str] = set()
    states = series(1) | {step: (weights, series(1)[step][1])}
    for start, end in pairwise(STORED[place - 1 : place + 2]):
        violations = found_between(
            optimizer_of("mobilellm"), demo_rates()[start:end], start, (states[start], states[end])
        )
        found |= {violation.tensor for violation in violations}
    assert found and found <= foreign


def test_nothing_is_found_in_the_training_itself() -> None:
    states = series(1)
    for start, end in pairwise(STORED):
        assert (
            found_between(optimizer_of("mobilellm"), demo_rates()[start:end], start, (states[start], states[end])) == []
        )


def test_moments_of_another_seed_do_not_fit() -> None:
    """Whole states are spliced: weights and moments that belong together."""
    for place in range(1, len(STORED) - 1):
        states = series(1) | {STORED[place]: (series(1)[STORED[place]][0], series(2)[STORED[place]][1])}
        kinds = set()
        for start, end in pairwise(STORED[place - 1 : place + 2]):
            violations = found_between(
                optimizer_of("mobilellm"), demo_rates()[start:end], start, (states[start], states[end])
            )
            kinds |= {violation.kind for violation in violations}
        assert kinds & {"first moment", "second moment"}


ANYWHERE, NEAR = (1, 2, 4, 8, 16, 32, 64, 96, 128), (1, 2, 4, 8)
IN_THE_DEMO = {
    "another seed": ANYWHERE,
    "one tensor": ANYWHERE,
    "noise 1": ANYWHERE,
    "another step": (*NEAR, 16, 32),
    "interpolation 0.1": NEAR,
    "interpolation 0.03": NEAR,
    "noise 0.1": NEAR,
    "state of another seed": ANYWHERE,
    "state 0.1": ANYWHERE,
    "state 0.03": ANYWHERE,
}
"""Kinds of splices, and the steps at which they are found. A `state` is spliced with its moments."""


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not (ROOT / "release").is_dir(), reason="the demo is not built here")
def test_a_hundred_splices_into_the_demo_are_found_by_tensor(
    once: Once, record_property: Callable[[str, object], None]
) -> None:
    model = Release.open(ROOT / "release").models()[0]
    command = [sys.executable, "-m", "tests.trainer.seeds", str(ROOT / "release"), model, "2", "128"]
    other = once("seed", lambda folder: run(ROOT, *command, str(folder)))
    release = Release.open(ROOT / "release")
    states, rates = release.states(model), rates_of(release, model)
    steps, named = list(states), 0
    for number in range(100):
        draw = np.random.default_rng(number)
        kind = list(IN_THE_DEMO)[number % len(IN_THE_DEMO)]
        step = int(draw.choice(IN_THE_DEMO[kind]))
        ours, theirs = state_in(ROOT / "release" / states[step].folder), state_in(other / f"{step}")
        elsewhere = state_in(ROOT / "release" / states[int(draw.choice([s for s in steps if s != step]))].folder)
        put = into_the_demo(kind, draw, ours, theirs, elsewhere[0])
        found: set[str] = set()
        for start, end in pairwise(steps[max(steps.index(step) - 1, 0) : steps.index(step) + 2]):
            pair = [put if at == step else state_in(ROOT / "release" / states[at].folder) for at in (start, end)]
            found |= {v.tensor for v in found_between(optimizer_of(model), rates[start:end], start, (pair[0], pair[1]))}
        assert found, f"{kind} at step {step}"
        assert all(differs(name, ours, put) for name in found)
        named += len(found)
    record_property("said", f"{model}: 100 of 100 found; {named / 100:.0f} of {len(ours[0])} tensors named on average")


def into_the_demo(kind: str, draw: np.random.Generator, ours: State, theirs: State, elsewhere: Tensors) -> State:
    what, _, number = kind.rpartition(" ")
    if kind == "state of another seed":
        return theirs
    if what == "state":
        return blend(ours[0], theirs[0], float(number)), blend(ours[1], theirs[1], float(number))
    if kind == "another step":
        return elsewhere, ours[1]
    return changed(kind, draw, ours[0], theirs[0]), ours[1]


def state_in(folder: Path) -> State:
    weights, moments = (read_tensors(folder / name) for name in (WEIGHTS, OPTIMIZER))
    return cast(State, (weights, moments))


def rates_of(release: Release, model: str) -> list[float]:
    return [entry.learning_rate for entry in log.read(release.file(f"runs/{model}/{log.JSONL}"))]


def differs(name: str, ours: State, put: State) -> bool:
    pairs = ((a[key], b[key]) for a, b in zip(ours, put, strict=True) for key in a if key.endswith(name))
    return any(not np.array_equal(a, b) for a, b in pairs)
