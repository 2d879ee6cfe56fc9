"""Runs of non-blank characters as numbers: what is known of a run is found once, and added up in compiled loops.

The words of a run (`pipeline.blocks.words`) and its share in a text's language (`pipeline.blocks.language`) depend on
the run alone, and most runs of a text have been seen before. So each distinct run has a number here, and its facts are
rows of arrays. Runs are compared character by character; their hashes only say where to look.
"""

from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from pipeline.blocks.shingles import FACTOR, FNV_OFFSET, FNV_PRIME, compiled

Characters = NDArray[np.uint32]
Numbers = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)
# Runs, or characters of them, after which a table starts again, so that no corpus fills the memory.
REMEMBERED, REMEMBERED_CHARACTERS = 1 << 17, 1 << 24
MAX_PROBES = 64  # slots that one run is compared with; only adversarial texts need more, and get a new number each time


class Runs:
    """Table from runs to numbers: equal runs have the same number, and new ones the next."""

    def __init__(self) -> None:
        self._slots = np.zeros(1 << 12, dtype=np.int64)  # number + 1 of the run in a slot, or 0
        self._stops = np.zeros(1 << 11, dtype=np.int64)  # where each run begins in `characters`, and the last one ends
        self.characters = np.empty(1 << 14, dtype=np.uint32)
        """Of all runs, one after another."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def stops(self) -> Numbers:
        """Where each run begins in `characters`, and where the last one ends."""
        return self._stops[: self._count + 1]

    def number(self, text: str) -> Numbers:
        """Return the number of each run of a text, in order."""
        given = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        numbers = np.empty((len(given) + 1) // 2, dtype=np.int64)
        place = found = 0
        while True:
            place, found, self._count = _number(
                given, place, numbers, found, self._slots, self._stops, self.characters, self._count
            )
            if place == len(given):
                return numbers[:found]
            self._grow(len(given))

    def since(self, number: int) -> list[str]:
        """Return the runs from a number on."""
        stops = self._stops[number : self._count + 1]
        joined = self.characters[stops[0] : stops[-1]].tobytes().decode("utf-32-le", "surrogatepass")
        return [joined[start:stop] for start, stop in pairwise((stops - stops[0]).tolist())]

    @property
    def is_full(self) -> bool:
        """Whether it is time to start again."""
        return self._count > REMEMBERED or int(self._stops[self._count]) > REMEMBERED_CHARACTERS

    def _grow(self, given: int) -> None:
        """Make room for the runs of a text of as many characters, where there is none."""
        used = int(self._stops[self._count])
        if used + given > len(self.characters):
            self.characters = grown(self.characters[:used], 2 * (used + given))
        if self._count + 2 > len(self._stops):
            self._stops = grown(self._stops, 2 * len(self._stops))
            self._slots = np.zeros(2 * len(self._slots), dtype=np.int64)
            _place_all(self._slots, self._stops, self.characters, self._count)


def grown(array: NDArray[Number], size: int) -> NDArray[Number]:
    """Copy an array into a longer one; what is new is not set."""
    longer = np.empty((size, *array.shape[1:]), dtype=array.dtype)
    longer[: len(array)] = array
    return longer


@compiled
def _is_blank(character: int) -> bool:
    """Tell what `str.split` splits at."""
    if character < 0x1680:
        return 9 <= character <= 13 or 28 <= character <= 32 or character == 0x85 or character == 0xA0
    return character == 0x1680 or 0x2000 <= character <= 0x200A or character in (0x2028, 0x2029, 0x202F, 0x205F, 0x3000)


@compiled
def _number(
    given: Characters,
    place: int,
    numbers: Numbers,
    found: int,
    slots: Numbers,
    stops: Numbers,
    characters: Characters,
    count: int,
) -> tuple[int, int, int]:
    """Number the runs from `place` on; return the place of the first for which there is no room, or the end."""
    while place < len(given):
        if _is_blank(given[place]):
            place += 1
            continue
        start = place
        value: Any = uint64(FNV_OFFSET)
        while place < len(given) and not _is_blank(given[place]):
            value = (value ^ uint64(given[place])) * uint64(FNV_PRIME)
            place += 1
        slot = _slot(value, slots)
        number = -1
        for _ in range(MAX_PROBES):
            other = slots[slot] - 1
            if other < 0:
                break
            at = stops[other]
            if stops[other + 1] - at == place - start:
                c = start
                while c < place and given[c] == characters[at + c - start]:
                    c += 1
                if c == place:
                    number = other
                    break
            slot = (slot + 1) & (len(slots) - 1)
        if number < 0:
            end = stops[count] + place - start
            if count + 2 > len(stops) or end > len(characters):
                return start, found, count
            number = count
            characters[stops[count] : end] = given[start:place]
            count += 1
            stops[count] = end
            if not slots[slot]:
                slots[slot] = count
        numbers[found] = number
        found += 1
    return place, found, count


@compiled
def _slot(value: Any, slots: Numbers) -> Any:
    """The first slot for a hash; the upper bits of the product depend on all of its bits."""
    return np.int64((value * uint64(FACTOR)) >> uint64(32)) & (len(slots) - 1)


@compiled
def _place_all(slots: Numbers, stops: Numbers, characters: Characters, count: int) -> None:
    for number in range(count):
        value: Any = uint64(FNV_OFFSET)
        for c in range(stops[number], stops[number + 1]):
            value = (value ^ uint64(characters[c])) * uint64(FNV_PRIME)
        slot = _slot(value, slots)
        for _ in range(MAX_PROBES):
            if not slots[slot]:
                slots[slot] = number + 1
                break
            slot = (slot + 1) & (len(slots) - 1)
