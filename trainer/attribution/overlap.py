"""The prediction that knows no model: runs of token ids that a group and a held-out row have in common.

A run of three ids that few groups hold says more than one that many hold: each distinct run of a row counts
log(groups / groups that hold it), as in retrieval (inverse document frequency; Sparck Jones 1972).
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RUN = 3
Runs = set[tuple[int, ...]]


def overlap(groups: Sequence[Runs], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each group has in common with each row, shape (groups, rows)."""
    known = Counter(run for group in groups for run in group)
    weight = {run: math.log(len(groups) / count) for run, count in known.items()}
    of_rows = [runs_of(row) for row in rows]
    return np.array([[math.fsum(sorted(weight[run] for run in mine & group)) for mine in of_rows] for group in groups])


def runs_of(ids: NDArray[np.integer]) -> Runs:
    """The distinct runs in a piece of a row."""
    return set(zip(*(ids[start : len(ids) - RUN + 1 + start].tolist() for start in range(RUN)), strict=True))
