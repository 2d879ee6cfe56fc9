"""How far AdamW can have moved a weight between two states, and what the moments of both must have in common.

Bounds that hold for every gradient, so whoever knows two weight files and the learning rates between them can show that
one was not trained from the other: without training, and on any processor. Their proof is section 14 of
`docs/formats.md`, whose letters are used here. A bound counts the float32 rounding of each operation, never a margin
that was fitted. What is within the bounds is not thereby proved to be right.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import expm1, log
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

U = 2.0**-24
"""Largest relative error of one operation in float32, or of a constant that is stored in it."""
LEAST = 2.0**-126
"""Smallest float32 number with full precision; a result below it may become zero."""
HALF_ULP = {"F32": (0.0, 0.0), "BF16": (2.0**-8, 2.0**-134), "F16": (2.0**-11, 2.0**-25)}
"""Relative and absolute error of a weight that was rounded to this type when it was published."""
PIECE = 1 << 16  # elements at a time, so that the passes over them stay in the cache


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW as a recipe describes it. `decay`: weight decay acts on `matrices` (two dimensions or more) or on `all`."""

    beta1: float
    beta2: float
    epsilon: float
    weight_decay: float
    decay: Literal["matrices", "all"]


class Violation(NamedTuple):
    """An element that AdamW cannot have brought from one state to the other."""

    kind: Literal["weight", "first moment", "second moment"]
    tensor: str
    element: tuple[int, ...]
    """Its place; of all violating elements of the tensor, the one that is farthest off."""
    found: float
    """Distance that a weight, without its decay, or a first moment moved; the value of a second moment."""
    allowed: float
    """The longest distance; the least second moment."""

    def __str__(self) -> str:
        where = f"{self.tensor}{list(self.element)}"
        if self.kind == "second moment":
            return f"the {self.kind} of {where} is {self.found:.6g}, it cannot be below {self.allowed:.6g}"
        return f"the {self.kind} of {where} moved by {self.found:.6g}, it cannot move farther than {self.allowed:.6g}"


class Moments(NamedTuple):
    """First and second moment of one tensor."""

    first: Floats
    second: Floats


def moment_ratio(optimizer: Optimizer, steps: int | NDArray[np.int64]) -> Doubles:
    """Largest m^2 / v that `steps` updates can add to the moments: K of equation (2)."""
    beta1, beta2 = optimizer.beta1, optimizer.beta2
    newest = (1 - beta1 + beta1 * U) ** 2 * (1 + 3 * U) ** 2 / ((1 - beta2 - beta2 * U) * (1 - 4 * U))
    growth = log((beta1 * (1 + 3 * U)) ** 2 / (beta2 * (1 - 3 * U)))
    with np.errstate(over="ignore"):  # beta2 < beta1^2: without bound in the end, and infinity is one
        terms = np.expm1(np.asarray(steps) * growth) / expm1(growth) if growth else np.asarray(steps, np.float64)
    return newest * terms


def update_bounds(optimizer: Optimizer, steps: NDArray[np.int64]) -> Doubles:
    """Largest |update| / learning rate at each of these steps (from 1, the moments being zero before): C of (3)."""
    power1, power2 = optimizer.beta1**steps, optimizer.beta2**steps
    first = 1 - power1 - steps * power1 * U
    second = 1 - power2 + steps * power2 * U
    tiny = np.sqrt(4 * LEAST) / ((1 - optimizer.beta2) * optimizer.epsilon)
    with np.errstate(over="ignore"):
        return np.sqrt(moment_ratio(optimizer, steps) * second) / first * (1 + 16 * U) * max(1.0, tiny)


class Window:
    """The updates from the state of step `start` to that of step `start + len(rates)`."""

    def __init__(self, optimizer: Optimizer, start: int, rates: Sequence[float] | Doubles) -> None:
        """Take the learning rate of each update in order. A recipe of ours has rate x weight decay below 1."""
        self.optimizer = optimizer
        self.num_steps = len(rates)
        steps = np.arange(start + 1, start + 1 + len(rates))
        self._moves = np.asarray(rates, np.float64) * update_bounds(optimizer, steps)
        self._decays = 1 - np.asarray(rates, np.float64) * optimizer.weight_decay

    def kept(self, decayed: bool) -> float:
        """The share of a weight that decay leaves."""
        return float(np.prod(self._decays)) if decayed else 1.0

    def reach(self, decayed: bool) -> float:
        """The longest distance that updates move a weight, in exact arithmetic: R of (4)."""
        if not decayed:
            return float(self._moves.sum())
        after = np.append(np.cumprod(self._decays[:0:-1])[::-1], 1.0)[: self.num_steps]
        return float((self._moves * after).sum())

    @np.errstate(over="ignore", invalid="ignore")
    def weights(
        self, name: str, start: Floats, end: Floats, published: Literal["F32", "BF16", "F16"] = "F32"
    ) -> Violation | None:
        """The weight of one tensor that moved farthest beyond its bound (4), if one did.

        Both are float32; `published` is the type that they were rounded to before they were published.
        """
        decayed = self.optimizer.decay == "all" or start.ndim > 1
        kept, reach = self.kept(decayed), self.reach(decayed)
        relative, absolute = HALF_ULP[published]
        rounding = expm1((3 if decayed else 1) * self.num_steps * U)
        worst: Violation | None = None
        for piece, (before, after) in _pieces(start, end):
            if np.abs(after - np.float32(kept) * before).max() <= reach * (1 - 8 * U):
                continue  # the float32 error of this pass is below `rounding`, so no element is beyond the bound
            w, w_end = kept * before.astype(np.float64), after.astype(np.float64)
            cast = relative * np.abs(w) + absolute
            allowed = reach + rounding * (reach + np.abs(w) + cast) + cast + relative * np.abs(w_end) + absolute
            moved = np.abs(w_end - w)
            worst = _worse(worst, "weight", name, start.shape, piece, moved, allowed)
        return worst

    @np.errstate(over="ignore", invalid="ignore")
    def moments(self, name: str, start: Moments | None, end: Moments) -> Violation | None:
        """The moment of one tensor that is farthest beyond its bound (2), if one is; `start` None: zero at step 0.

        A second moment that fell too fast is named before any first moment.
        """
        optimizer, n = self.optimizer, self.num_steps
        ratio = float(moment_ratio(optimizer, n))
        beta1, beta2 = optimizer.beta1**n, (optimizer.beta2 * (1 - 3 * U)) ** n
        rounding = beta1 * expm1(3 * n * U)
        tiny1, tiny2 = (4 * LEAST / (1 - beta) if n else 0.0 for beta in (optimizer.beta1, optimizer.beta2))
        start = start or Moments(np.zeros_like(end.first), np.zeros_like(end.second))
        first: Violation | None = None
        second: Violation | None = None
        for piece, (m, v, m_end, v_end) in _pieces(*start, *end):
            if _surely_fit(m, v, m_end, v_end, optimizer.beta1**n, optimizer.beta2**n, ratio * (1 - 8 * U)):
                continue
            m, v, m_end, v_end = (x.astype(np.float64) for x in (m, v, m_end, v_end))
            least = beta2 * v - tiny2
            second = _worse(second, "second moment", name, end.first.shape, piece, v_end, least)
            moved = np.abs(m_end - beta1 * m)
            allowed = np.sqrt(ratio * np.maximum(v_end - least, 0)) + rounding * np.abs(m) + tiny1
            first = _worse(first, "first moment", name, end.first.shape, piece, moved, allowed)
        return second or first


def violations(
    start: Mapping[str, Floats],
    end: Mapping[str, Floats],
    window: Window,
    published: Literal["F32", "BF16", "F16"] = "F32",
) -> list[Violation]:
    """What two sets of named weights violate, at most one element of each tensor, in the order of their names."""
    found = (window.weights(name, start[name], end[name], published) for name in sorted(start))
    return [violation for violation in found if violation]


def _pieces(*tensors: Floats) -> Iterator[tuple[int, list[Floats]]]:
    """Pieces of tensors of one shape, with the place of their first element."""
    flat = [tensor.reshape(-1) for tensor in tensors]
    for first in range(0, flat[0].size, PIECE):
        yield first, [tensor[first : first + PIECE] for tensor in flat]


def _surely_fit(m: Floats, v: Floats, m_end: Floats, v_end: Floats, beta1: float, beta2: float, ratio: float) -> bool:
    """Whether all moments are within their bounds by float32 arithmetic, whose own error is below what those allow."""
    moved = m_end - np.float32(beta1) * m
    grown = v_end - np.float32(beta2) * v
    return bool((moved * moved <= np.float32(ratio) * grown).all())


def _worse(
    worst: Violation | None,
    kind: Literal["weight", "first moment", "second moment"],
    name: str,
    shape: tuple[int, ...],
    piece: int,
    found: Doubles,
    bound: Doubles,
) -> Violation | None:
    """The worst violation so far, after these elements. A value that is no number violates every bound."""
    over = bound - found if kind == "second moment" else found - bound
    if (over <= 0).all():
        return worst
    place = int(np.argmax(over))  # the first that is no number, if there is one
    violation = Violation(
        kind,
        name,
        tuple(map(int, np.unravel_index(piece + place, shape))),
        float(found[place]),
        float(bound[place]),
    )
    if worst is None or not abs(violation.found - violation.allowed) <= abs(worst.found - worst.allowed):
        return violation
    return worst
