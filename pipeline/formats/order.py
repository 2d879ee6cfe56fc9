"""The data order: a pure function of (seed, step), the same for every model, world size and worker.

Sample i = step x global batch + position. With N rows, epoch e = i // N and the row is
permutation_e(i mod N), so a batch may straddle two epochs. The permutation is a balanced Feistel
network of `ROUNDS` rounds on 2b bits (the smallest even width whose domain holds N; at least 2) with
cycle walking: a value outside 0..N-1 is sent through again. Round keys are SHA-256 of (seed, epoch,
round). An affine shuffle is cheaper but leaves visible structure; Marin measured a loss shift from one.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError

Numbers = NDArray[np.uint64]

ROUNDS = 8
SAMPLES_AT_ONCE = 1 << 16


def permute(numbers: Numbers, num_rows: int, seed: int, epoch: int) -> Numbers:
    """Map positions `numbers` (each < num_rows) of an epoch to row numbers: a bijection on 0..num_rows-1."""
    _check_range(numbers, num_rows)
    return _walk(numbers, num_rows, _round_keys(seed, epoch))


def unpermute(rows: Numbers, num_rows: int, seed: int, epoch: int) -> Numbers:
    """Map row numbers to positions of the epoch: the inverse of `permute`."""
    _check_range(rows, num_rows)
    return _walk(rows, num_rows, _round_keys(seed, epoch)[::-1], inverse=True)


def first_sample(step: int, global_batch: int, begun_at: int = 0, begun_with: int = 0) -> int:
    """Number the first sample that the step from state `step` to the next reads.

    A training that goes on from a state of another one began at its step, `begun_at`, with the sample `begun_with`.
    """
    return begun_with + (step - begun_at) * global_batch


def rows_of_step(step: int, global_batch: int, num_rows: int, seed: int) -> NDArray[np.int64]:
    """Return the row numbers that training step `step` reads (0-based: step s turns state s into s + 1)."""
    return rows_of_samples(step * global_batch, (step + 1) * global_batch, num_rows, seed)


def rows_of_samples(start: int, stop: int, num_rows: int, seed: int) -> NDArray[np.int64]:
    """Return the row numbers of the samples `start` to `stop` (excluded)."""
    if num_rows < 1:
        raise EverystepError("there are no rows to read")
    parts = []
    while start < stop:  # one epoch at a time: its samples are next to each other
        epoch, position = divmod(start, num_rows)
        count = min(stop - start, num_rows - position)
        positions = np.arange(position, position + count, dtype=np.uint64)
        parts.append(permute(positions, num_rows, seed, epoch).astype(np.int64))
        start += count
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def rows_read(num_samples: int, num_rows: int, seed: int) -> NDArray[np.bool_]:
    """Mark the rows that the first `num_samples` samples read, shape (num_rows,). An epoch reads each row once."""
    read = np.zeros(num_rows, dtype=np.bool_)
    if num_samples >= num_rows:
        return ~read
    for start in range(0, num_samples, SAMPLES_AT_ONCE):
        samples = np.arange(start, min(start + SAMPLES_AT_ONCE, num_samples), dtype=np.uint64)
        read[permute(samples, num_rows, seed, epoch=0)] = True
    return read


def steps_of_rows(
    rows: Numbers, global_batch: int, num_rows: int, seed: int, num_steps: int, first: int = 0
) -> list[int]:
    """List every step below `num_steps` that reads any of `rows`, ascending, without repetition; step 0 begins with the
    sample `first`.

    A step that straddles two epochs may read a row twice.
    """
    num_samples = first + num_steps * global_batch
    steps: set[int] = set()
    for epoch in range(first // num_rows, max(num_samples - 1, 0) // num_rows + 1):
        samples = unpermute(rows, num_rows, seed, epoch) + np.uint64(epoch * num_rows)
        read = samples[(samples >= first) & (samples < num_samples)]
        steps.update(((read - np.uint64(first)) // np.uint64(global_batch)).tolist())
    return sorted(steps)


def _check_range(numbers: Numbers, num_rows: int) -> None:
    """Refuse a number outside the range, which would come out as the position of another row."""
    if numbers.size and numbers.max() >= num_rows:
        raise EverystepError(f"there is no row {numbers.max()}: rows are 0..{num_rows - 1}")


def _round_keys(seed: int, epoch: int) -> list[np.uint64]:
    texts = (f"everystep-order-v1\n{seed}\n{epoch}\n{number}" for number in range(ROUNDS))
    return [np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")) for text in texts]


def _walk(numbers: Numbers, num_rows: int, keys: list[np.uint64], inverse: bool = False) -> Numbers:
    half = np.uint64(max(1, ((num_rows - 1).bit_length() + 1) // 2))
    network = _backward if inverse else _forward
    values = network(numbers, half, keys)
    outside = values >= num_rows
    while outside.any():
        values[outside] = network(values[outside], half, keys)
        outside = values >= num_rows
    return values


def _forward(numbers: Numbers, half: np.uint64, keys: list[np.uint64]) -> Numbers:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _backward(numbers: Numbers, half: np.uint64, keys: list[np.uint64]) -> Numbers:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right ^ (_mix(left ^ key) & mask), left
    return (left << half) | right


def _mix(values: Numbers) -> Numbers:
    """The finalizer of SplitMix64 (Steele, Lea, Flood 2014), modulo 2^64."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
