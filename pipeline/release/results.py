"""What a learning record sums up to: loss and bits per byte of every checkpoint on the held-out rows, by source too.

    loss = nats / targets        bits per byte = nats / ln 2 / bytes of text of the targets

The second does not depend on the tokenizer, so it compares across releases (Gao et al. 2020, section 3.1). Sums of nats
are those of the float32 losses, exact until they are rounded once to a double.

The standard error is that of bits per byte as a ratio of two sums over rows, the units that were drawn (Cochran 1977,
chapter 6, without the correction for a finite population): with n rows that have targets of the source, of which
row i has x_i bits and b_i bytes, and R = sum x / sum b,

    sqrt(n / (n - 1) * sum (x_i - R b_i)^2) / sum b
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.canonical import Json
from pipeline.formats.manifests import Checkpoint, Result, SourceResult, SourceText
from pipeline.release.targets import Targets

LN_2 = 0.6931471805599453
Losses = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The held-out targets of a record: bytes of text and source of each, shape (rows, context)."""

    bytes: NDArray[np.int64]
    sources: list[str]
    source_of: NDArray[np.int64]

    @classmethod
    def of(cls, targets: Targets, token_bytes: NDArray[np.int64]) -> "HeldOut":
        """Those of a record; `token_bytes` are the bytes of each token id."""
        rows = targets.num_held_out
        named = targets.keys["source"].slice(0, rows * targets.shape[1]).combine_chunks().dictionary_encode()
        names = named.dictionary.to_pylist()
        order = np.argsort(names)
        place = np.empty(len(names), dtype=np.int64)
        place[order] = np.arange(len(names))
        source_of = place[named.indices.to_numpy()].reshape(rows, -1)
        return cls(token_bytes[targets.rows[:rows, 1:]], [names[i] for i in order], source_of)

    def texts(self) -> dict[str, SourceText]:
        """What the rows hold of each source."""
        found = {}
        for number, source in enumerate(self.sources):
            mine = self.source_of == number
            counts = {"rows": mine.any(axis=1), "targets": mine, "bytes": self.bytes[mine]}
            found[source] = SourceText(**{key: int(values.sum()) for key, values in counts.items()})
        return found

    def results(
        self, checkpoints: Sequence[Checkpoint], losses: Mapping[str, Losses]
    ) -> tuple[list[Result], list[SourceResult]]:
        """Sum the losses of each checkpoint, by its revision, shape (rows, context): over all, and by source."""
        results, by_source = [], []
        everything = np.ones(self.bytes.shape, dtype=np.bool_)
        for checkpoint in checkpoints:
            column = losses[checkpoint.revision].astype(np.float64)
            about: dict[str, Json] = {
                "revision": checkpoint.revision,
                "step": checkpoint.step,
                "tokens": checkpoint.tokens,
            }
            about |= self._measured(column, everything)
            results.append(Result.from_json(about, checkpoint.revision))
            for number, source in enumerate(self.sources):
                about |= {"source": source} | self._measured(column, self.source_of == number)
                by_source.append(SourceResult.from_json(about, checkpoint.revision))
        return results, by_source

    def _measured(self, losses: NDArray[np.float64], chosen: NDArray[np.bool_]) -> dict[str, Json]:
        rows = chosen.any(axis=1)
        nats = [math.fsum(row[mine].tolist()) for row, mine in zip(losses[rows], chosen[rows], strict=True)]
        num_bytes = [int(row[mine].sum()) for row, mine in zip(self.bytes[rows], chosen[rows], strict=True)]
        return measured(math.fsum(losses[chosen].tolist()), int(chosen.sum()), nats, num_bytes)._asdict()


class Measured(NamedTuple):
    """Loss, bits per byte and the standard error of these; null if there are too few rows for one."""

    loss: float
    bits_per_byte: float
    standard_error: float | None


def measured(nats: float, targets: int, nats_of_rows: Sequence[float], bytes_of_rows: Sequence[int]) -> Measured:
    """Divide the nats of some targets, which are also given by row, by their number and the bytes of their text."""
    num_bytes, rows = sum(bytes_of_rows), len(bytes_of_rows)
    bits_per_byte = nats / LN_2 / num_bytes if num_bytes else 0.0
    error = None
    if rows > 1 and num_bytes:
        pairs = zip(nats_of_rows, bytes_of_rows, strict=True)
        apart = [x / LN_2 - bits_per_byte * b for x, b in pairs]
        error = math.sqrt(rows / (rows - 1) * math.fsum(each * each for each in apart)) / num_bytes
    return Measured(nats / targets, bits_per_byte, error)
