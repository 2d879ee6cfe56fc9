"""Checkpoints written in the background: training pauses only to copy the state.

One thread digests and writes, one checkpoint at a time and in order, since each record names its parent's digest.
A checkpoint appears whole or not at all, so a kill loses at most what was not yet written.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.base.files import write_bytes
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, pretty
from pipeline.formats.digests import tensors_digest
from pipeline.formats.log import Entry
from pipeline.formats.model import ModelSpec
from trainer.optimizer import FlatParameters
from trainer.recipe import Recipe

Tensors = dict[str, np.ndarray[Any, np.dtype[np.float32]]]


def moments(flat: FlatParameters, first: Tensor, second: Tensor) -> Tensors:
    """Return the moments as named tensors: `first.NAME` and `second.NAME`."""
    pairs = (("first", first), ("second", second))
    return {f"{moment}.{name}": array for moment, whole in pairs for name, array in flat.named(whole).items()}


def write_state(folder: Path, record: ck.Record, spec: ModelSpec, weights: Tensors, moments: Tensors) -> None:
    """Write the four files of a checkpoint; the record is the last."""
    ck.write_tensors(folder / ck.WEIGHTS, weights)
    ck.write_tensors(folder / ck.OPTIMIZER, moments)
    write_bytes(folder / ck.CONFIG, pretty(spec.to_json()))
    ck.write_record(folder, record)


class Writer:
    """A writer of checkpoints into `folder/REVISION`. Use as a context manager; leaving it waits for the last one."""

    def __init__(self, folder: Path, recipe: Recipe, spec: ModelSpec, numerics: dict[str, Json], parent: str | None):
        self._folder, self._recipe, self._spec, self._numerics = folder, recipe, spec, numerics
        self._parent = parent
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: Any, *rest: Any) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:
            self.wait()

    def save(self, step: int, tokens: int, entry: Entry | None, weights: Tensors, moments: Tensors) -> None:
        """Begin to write this state, once the previous one is written. Its arrays must not change any more."""
        self.wait()
        self._pending = self._thread.submit(self._write, step, tokens, entry, weights, moments)

    def check(self) -> None:
        """Raise what writing raised, if it did: a full disk is reported at the next step, not the next checkpoint."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def wait(self) -> None:
        """Wait until everything is on disk; raise what writing raised."""
        if self._pending is not None:
            self._pending.result()

    def _write(self, step: int, tokens: int, entry: Entry | None, weights: Tensors, moments: Tensors) -> None:
        digests = tensors_digest(weights), tensors_digest(moments)
        record = ck.Record(
            format=ck.FORMAT,
            model=self._recipe.name,
            revision=ck.revision(step, tokens),
            step=step,
            tokens=tokens,
            applied_updates=step,
            learning_rate=entry.learning_rate if entry else None,
            loss=entry.loss if entry else None,
            weights_digest=digests[0],
            optimizer_digest=digests[1],
            state_digest=ck.state_digest(*digests, step),
            parent=self._parent,
            storage="stored",
            nearest_stored_step=step,
            digest_interval=self._recipe.digest_every,
            numerics=ck.Numerics.from_json(self._numerics, "numerics"),
        )
        final = self._folder / record.revision
        partial = ck.begin(final)
        write_state(partial, record, self._spec, weights, moments)
        partial.rename(final)
        self._parent = record.state_digest
