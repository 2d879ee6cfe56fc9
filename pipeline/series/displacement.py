"""How far weights moved between two checkpoints of others, read by ranges, and which learning rates that takes.

AdamW moves a weight by at most C(t) times the learning rate in update t, whatever the gradients, plus the decay
(`pipeline.release.displacement`, section 14 of `docs/formats.md`). So n updates at a mean rate r move it by at most
n r (max C + decay |w|), and the distance that was found says how large r must have been. A peak rate below that shows
that the one was not trained from the other. With the rates of a recipe the bound is that of the gate.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.yaml import load_yaml
from pipeline.formats.manifests import RecipeParameters
from pipeline.release.displacement import HALF_ULP, Floats, Optimizer, U, Violation, Window, update_bounds
from pipeline.release.rates import learning_rates
from pipeline.series.findings import Finding
from pipeline.series.headers import Tensor, read_header
from pipeline.series.series import Checkpoint, Collection

Published = Literal["F32", "BF16", "F16"]
COARSEST_FIRST: tuple[Published, ...] = ("BF16", "F16", "F32")
PIECE_BYTES = 64 << 20
"""Bytes of a tensor that are asked for at a time."""
ADAMW = Optimizer(beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, decay="all")
"""What Pythia, OLMo, Amber and MobileLLM train with, where no recipe says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What is known of the training between two checkpoints."""

    recipe: RecipeParameters | None = None
    peak: float | None = None
    beta2: float | None = None
    updates: int | None = None
    """Updates between them; null: their steps count updates."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """How far the weights moved."""

    start: str
    end: str
    updates: int
    tensors: int
    moved: float
    """Distance of the element that takes the largest rate."""
    where: str
    """That element."""
    needed_rate: float
    """Least mean learning rate that explains it."""
    optimizer: str
    is_judged: bool
    """Whether learning rates were given."""


class Pair(NamedTuple):
    """Two checkpoints between which weights are compared."""

    start: Checkpoint
    end: Checkpoint


def read_recipe(path: Path) -> RecipeParameters:
    """The recipe in a file, as `docs/reference/recipes.md` describes it."""
    if not path.is_file():
        raise EverystepError(f"{path}: no such file; --recipe names a recipe, such as those in recipes/")
    return RecipeParameters.from_json(load_yaml(path), path)


def pick(collection: Collection, names: Sequence[str]) -> Pair:
    """The two checkpoints of these names, or steps, in the order of their steps."""
    start, end = (_picked(collection, name) for name in names)
    if start.step is None or end.step is None or start.step >= end.step:
        raise EverystepError(f"--weights {' '.join(names)}: give two checkpoints of different steps, the earlier first")
    return Pair(start, end)


def displacement(collection: Collection, pair: Pair, rates: Rates) -> tuple[Moved, list[Finding]]:
    """Compare the weights of two checkpoints; a finding for what these rates cannot have done."""
    start, end = (_Weights(collection, one) for one in pair)
    if start.layout() != end.layout():
        raise EverystepError(f"--weights: {pair.start.name} and {pair.end.name} have different tensors")
    first, updates = _stretch(pair, rates)
    optimizer = _optimizer(rates)
    window = Window(optimizer, first, _rates(rates.recipe, first, updates)) if rates.recipe else None
    strongest = float(update_bounds(optimizer, np.arange(first + 1, first + updates + 1)).max())
    worst, violations = (0.0, 0.0, ""), []
    names = [name for name, tensor in sorted(start.tensors.items()) if tensor[1].dtype in HALF_ULP]
    with progress(f"compare {pair.start.name} and {pair.end.name}", len(names), "tensors") as advance:
        for name in names:
            published = _coarser(start.tensors[name][1].dtype, end.tensors[name][1].dtype)
            before, after = start.read(name), end.read(name)
            worst = max(worst, _needed(name, before, after, published, updates, strongest, optimizer.weight_decay))
            if window and (violation := window.weights(name, before, after, published)):
                violations.append(violation)
            advance(1)
    said = f"AdamW, betas {optimizer.beta1} and {optimizer.beta2}, weight decay {optimizer.weight_decay}"
    moved = Moved(
        start=pair.start.name,
        end=pair.end.name,
        updates=updates,
        tensors=len(names),
        moved=worst[1],
        where=worst[2],
        needed_rate=worst[0],
        optimizer=said,
        is_judged=window is not None or rates.peak is not None,
    )
    return moved, _judged(pair, moved, violations, rates)


def _judged(pair: Pair, moved: Moved, violations: Sequence[Violation], rates: Rates) -> list[Finding]:
    reasons = []
    if violations:
        more = f", and so for {len(violations) - 1} more tensors" if len(violations) > 1 else ""
        reasons.append(f"by the rates of the recipe {max(violations, key=_excess)}{more}")
    if rates.peak is not None and moved.needed_rate > rates.peak:
        reasons.append(
            f"{moved.where} moved by {moved.moved:.6g}, which takes a mean learning rate of {moved.needed_rate:.3g} "
            f"or more ({moved.optimizer}); the peak is {rates.peak:g}"
        )
    updates = f"{moved.updates:,} update{'' if moved.updates == 1 else 's'}"
    steps = (pair.start.step or 0, pair.end.step or 0)
    return [
        Finding(
            "displacement",
            (pair.start.name, pair.end.name),
            f"{pair.end.name} was not trained from {pair.start.name} in {updates}: {reason}",
            steps,
        )
        for reason in reasons
    ]


def _excess(violation: Violation) -> float:
    return violation.found - violation.allowed


def _needed(
    name: str, start: Floats, end: Floats, published: Published, updates: int, strongest: float, decay: float
) -> tuple[float, float, str]:
    """The largest mean rate that an element takes, how far that one moved, and which it is. NaN takes any rate."""
    if not start.size:
        return 0.0, 0.0, ""
    relative, absolute = HALF_ULP[published]
    before, after = start.astype(np.float64), end.astype(np.float64)
    cast = relative * (np.abs(before) + np.abs(after)) + 2 * absolute
    rounding = np.expm1(3 * updates * U) * (np.abs(before) + np.abs(after))
    distance: NDArray[np.float64] = np.abs(after - before)
    needed = (distance - cast - rounding) / (updates * (strongest + decay * np.abs(before)))
    needed = np.where(np.isnan(needed), np.inf, needed)
    place = np.unravel_index(int(needed.argmax()), needed.shape)
    return max(0.0, float(needed[place])), float(distance[place]), f"{name}{[int(index) for index in place]}"


def _stretch(pair: Pair, rates: Rates) -> tuple[int, int]:
    """The updates before the first checkpoint, and those between the two."""
    start, end = pair.start.step or 0, pair.end.step or 0
    if rates.updates is None:
        return start, end - start
    return start * rates.updates // (end - start), rates.updates


def _optimizer(rates: Rates) -> Optimizer:
    said = rates.recipe.optimizer if rates.recipe else None
    if said is None:
        known = ADAMW
        return known if rates.beta2 is None else Optimizer(**{**vars(known), "beta2": rates.beta2})
    return Optimizer(
        beta1=said.beta1, beta2=said.beta2, epsilon=said.epsilon, weight_decay=said.weight_decay, decay=said.decay
    )


def _rates(recipe: RecipeParameters, first: int, updates: int) -> NDArray[np.float64]:
    if first + updates > recipe.schedule.steps:
        raise EverystepError(f"--recipe: it has {recipe.schedule.steps} steps, fewer than {first + updates}")
    return learning_rates(recipe, first + updates)[first:]


def _coarser(one: str, other: str) -> Published:
    """The type of the two that rounds more."""
    return next(kind for kind in COARSEST_FIRST if kind in (one, other))


def _picked(collection: Collection, name: str) -> Checkpoint:
    every = list(collection.checkpoints())
    found = [one for one in every if one.name == name or one.name.endswith(f"/{name}")]
    found = found or [one for one in every if str(one.step) == name]
    if len(found) != 1:
        there = ", ".join(one.name for one in (found or every)[:5])
        raise EverystepError(f"--weights {name}: {'several' if found else 'no'} checkpoints of that name: {there} ...")
    return found[0]


class _Weights:
    """The tensors of one checkpoint, read by ranges; pickles are never opened."""

    def __init__(self, collection: Collection, checkpoint: Checkpoint) -> None:
        self._place, self._name = collection.place, checkpoint.name
        self.tensors: dict[str, tuple[str, Tensor]] = {}
        paths = [path for files in checkpoint.weights().values() for path in files if path.endswith(".safetensors")]
        if not paths:
            raise EverystepError(
                f"--weights {checkpoint.name}: has no safetensors; pickles are not opened, convert them"
            )
        for path in paths:
            header = read_header(partial(self._bytes, path), f"{self._name}/{path}")
            self.tensors |= {name: (path, tensor) for name, tensor in header.items()}

    def layout(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tensor.shape for name, (_, tensor) in self.tensors.items()}

    def read(self, name: str) -> Floats:
        """One tensor in float32, whatever it was published in."""
        path, tensor = self.tensors[name]
        pieces = range(tensor.begin, tensor.end, PIECE_BYTES)
        content = b"".join(self._bytes(path, start, min(start + PIECE_BYTES, tensor.end)) for start in pieces)
        if tensor.dtype == "BF16":
            raw = np.frombuffer(content, "<u2").astype(np.uint32) << 16
            return raw.view(np.float32).reshape(tensor.shape)
        numbers = np.frombuffer(content, "<f4" if tensor.dtype == "F32" else "<f2")
        return numbers.astype(np.float32).reshape(tensor.shape)

    def _bytes(self, path: str, start: int, stop: int) -> bytes:
        content = self._place.read(self._name, path, start, stop)
        if len(content) != stop - start:
            raise EverystepError(f"{self._name}/{path}: ends at byte {start + len(content)}; its header says otherwise")
        return content
