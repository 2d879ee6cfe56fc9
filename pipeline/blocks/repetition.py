"""Upper bounds on what Gopher's repetition rule measures, in one compiled loop, for texts that clearly pass it.

The rule is the library's (`pipeline.blocks.quality`). It makes a string of every run of 2 to 10 words, although most
texts are far from its thresholds. Here a run is a hash of its characters. Law: no bound is below what the rule
measures, so a text whose bounds respect a threshold passes it. Runs with the same hash count as one, which raises a
bound; so do runs for which `MAX_PROBES` find no slot, as happens only in adversarial texts.
"""

from collections.abc import Sequence

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from pipeline.blocks.shingles import FACTOR, compiled

Counts = NDArray[np.int64]
MAX_PROBES = 256  # slots of the half-empty table that one run is compared with


def bounds(characters: NDArray[np.uint32], lengths_W: Counts, sizes: Sequence[int]) -> tuple[Counts, Counts]:
    """Bound, for runs of each size, shape (N,): the characters of one run and its repetitions, blanks between words
    included; and those of all runs that occurred before, none counted twice, without blanks."""
    most_N = np.zeros(len(sizes), dtype=np.int64)
    repeated_N = np.zeros(len(sizes), dtype=np.int64)
    _bound(characters, lengths_W, np.array(sizes, dtype=np.int64), most_N, repeated_N)
    return most_N, repeated_N


@compiled
def _bound(
    characters: NDArray[np.uint32], lengths_W: Counts, sizes_N: Counts, most_N: Counts, repeated_N: Counts
) -> int:
    """Fill the last two arrays; return how many slots of the table were probed."""
    ends_C = np.zeros(len(characters) + 1, dtype=np.uint64)  # hash of all characters before
    powers_C = np.ones(len(characters) + 1, dtype=np.uint64)
    for c in range(len(characters)):
        ends_C[c + 1] = ends_C[c] * uint64(FACTOR) + uint64(characters[c]) + uint64(1)
        powers_C[c + 1] = powers_C[c] * uint64(FACTOR)
    starts_W = np.zeros(len(lengths_W) + 1, dtype=np.int64)
    for w in range(len(lengths_W)):
        starts_W[w + 1] = starts_W[w] + lengths_W[w]
    bits = 2
    while 1 << bits < 2 * len(lengths_W):
        bits += 1
    hashes_S = np.empty(1 << bits, dtype=np.uint64)
    counts_S = np.empty(1 << bits, dtype=np.int64)
    looked_at = 0
    for n in range(len(sizes_N)):
        size = sizes_N[n]
        counts_S[:] = 0
        counted = 0  # words before this one are in a run that was counted
        for w in range(len(lengths_W) - size + 1):
            start, end = starts_W[w], starts_W[w + size]
            value = ends_C[end] - ends_C[start] * powers_C[end - start]
            slot = np.int64(value * uint64(FACTOR) >> uint64(64 - bits))
            probes = 1
            while counts_S[slot] and hashes_S[slot] != value and probes < MAX_PROBES:
                slot = (slot + 1) & ((1 << bits) - 1)
                probes += 1
            looked_at += probes
            if counts_S[slot]:
                repeated_N[n] += end - starts_W[max(w, counted)]
                counted = w + size
            else:
                hashes_S[slot] = value
            counts_S[slot] += 1
            most_N[n] = max(most_N[n], counts_S[slot] * (end - start + size - 1))
    return looked_at
