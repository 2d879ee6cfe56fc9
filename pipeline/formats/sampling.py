"""Sampled audits: which stretches of a training a public number chooses, and the chance that bad ones are among them.

A *stretch* goes from one stored state of a model to the next. The stretches are ranked by a hash of the root manifest's
digest, of a *beacon* and of the stretch itself, and the first K are replayed. So nobody who made the release before the
beacon was known could choose what is replayed, and anybody can tell later which stretches it must have been.
"""

import hashlib
import re
from collections.abc import Collection
from fractions import Fraction
from typing import NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import canonical

DOMAIN = "everystep/stretch/1"
"""What the ranking hash is for, with its version."""
BEACON = r"\A([0-9a-f]{2}){16,64}\z"
"""Shorter ones could be tried out by who makes a release."""


class Stretch(NamedTuple):
    """The steps of a model from one stored state, `start`, to the next, `stop`."""

    model: str
    start: int
    stop: int


def parse_beacon(text: str) -> str:
    """The beacon that somebody typed, in lower case."""
    beacon = text.strip().lower().removeprefix("0x")
    if not re.fullmatch(BEACON.removeprefix(r"\A").removesuffix(r"\z"), beacon):
        raise EverystepError(f"--beacon {text!r:.140}: give 16 to 64 bytes as hex digits, as beacons publish them")
    return beacon


def rank(root_sha256: str, beacon: str, stretch: Stretch) -> str:
    """The place of a stretch among all: they are ordered by this."""
    return hashlib.sha256(canonical([DOMAIN, root_sha256, beacon, *stretch])).hexdigest()


def choose(root_sha256: str, beacon: str, stretches: Collection[Stretch], sample: int) -> list[Stretch]:
    """The `sample` stretches that a beacon chooses, by model and step.

    Law: of the same beacon, a smaller sample is a part of each larger one.
    """
    if not 1 <= sample <= len(stretches):
        raise EverystepError(f"a sample of {sample}: there are {len(stretches)} stretches; choose 1 to that many")
    return sorted(sorted(stretches, key=lambda stretch: rank(root_sha256, beacon, stretch))[:sample])


def chance_to_catch(bad: int, sample: int, stretches: int) -> float:
    """The probability that at least one of `bad` stretches is among `sample` of all: 1 - C(n - b, k) / C(n, k).

    It is the same whichever stretches are bad. Computed exactly, and rounded once.
    """
    missed = Fraction(1)
    for number in range(bad):
        missed *= Fraction(max(0, stretches - sample - number), stretches - number)
    return float(1 - missed)
