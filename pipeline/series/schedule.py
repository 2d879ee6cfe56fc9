"""The schedule of a series, inferred from the steps that are there, and the steps that it lacks.

Two rules are known, alone or after each other: powers of two from the start, and a constant stride, which may change
along the way. A gap is a missing step only where the steps around it agree on a stride; irregular steps are never
called wrong, as nobody promised a rule. Nor is a gap that is longer than all the steps that are there.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

AROUND = 8
"""Differences on each side of a gap that are asked for the stride."""
OWN_STRIDE = 3
"""Equal differences in a row that are a stride of their own and no gaps."""
LEAST_POWERS = 4


def missing_steps(steps: Sequence[int]) -> list[int]:
    """Steps that the schedule of these ascending steps has and they lack."""
    there, powers = set(steps), head(steps)
    absent = {power for power in _powers(powers[0], powers[-1]) if power not in there} if powers else set()
    later = _later(steps, powers)
    differences = [after - before for before, after in pairwise(later)]
    for place, difference in enumerate(differences):
        around = differences[max(0, place - AROUND) : place + AROUND + 1]
        stride, agreeing = Counter(around).most_common(1)[0]
        is_gap = difference % stride == 0 and stride < difference <= stride * len(later)
        if is_gap and 2 * agreeing >= len(around) and agreeing > 1 and not _is_own_stride(differences, place):
            absent |= {*range(later[place] + stride, later[place + 1], stride)} - there
    return sorted(absent)


def head(steps: Sequence[int]) -> list[int]:
    """The powers of two with which a series begins, below its first stride; empty if it does not."""
    there = set(steps)
    others = [step for step in steps if step == 0 or step & (step - 1)]
    strides = Counter(after - before for before, after in pairwise(others))
    below = strides.most_common(1)[0][0] if len(others) > 1 else max(steps, default=0) + 1
    powers = [power for power in _powers(1, max(steps, default=0)) if power in there and power < below]
    return powers if len(powers) >= LEAST_POWERS else []


def in_words(steps: Sequence[int]) -> str:
    """The schedule for a person: `powers of two to 512, then every 1,000`; empty if none is recognized."""
    powers = head(steps)
    strides = Counter(after - before for before, after in pairwise(_later(steps, powers)))
    words = [f"powers of two to {powers[-1]}"] if powers else []
    if strides:
        stride, times = strides.most_common(1)[0]
        if 2 * times >= sum(strides.values()) and times > 1:
            words.append(f"every {stride:,}")
    return ", then ".join(words)


def _later(steps: Sequence[int], powers: Sequence[int]) -> list[int]:
    """The steps after the powers of two, from the points before them on that the stride of the first two hits."""
    early = {0, *powers} if powers else set()
    later = [step for step in steps if step not in early]
    if powers and len(later) > 1:
        stride = later[1] - later[0]
        before = [step for step in (0, powers[-1]) if step in steps and (later[0] - step) % stride == 0]
        later = sorted({*before, *later})
    return later


def _powers(first: int, last: int) -> list[int]:
    return [2**n for n in range(max(last, 0).bit_length()) if first <= 2**n <= last]


def _is_own_stride(differences: Sequence[int], place: int) -> bool:
    before = after = place
    while before and differences[before - 1] == differences[place]:
        before -= 1
    while after + 1 < len(differences) and differences[after + 1] == differences[place]:
        after += 1
    return after - before + 1 >= OWN_STRIDE
