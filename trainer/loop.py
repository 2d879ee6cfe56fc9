"""The training loop: from one state to the next, the same bits however often it is killed and wherever it runs.

    for each step:  rows of (seed, step) -> gradients of fixed micro-batches -> tree sum -> clip -> AdamW

A `Trainer` holds a state (weights, moments, step); no random state exists. `train_until` is used by training
and by replay alike, so a replay exercises the very code that trained.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import pretty
from pipeline.formats.digests import tensors_digest
from pipeline.formats.files import write_bytes
from trainer import numerics
from trainer.data import TrainingData
from trainer.description import ModelSpec
from trainer.log import Entry
from trainer.model import Decoder, initialize
from trainer.optimizer import BLOCKS, AdamW, FlatParameters, block_norms, clip_factor, learning_rate
from trainer.parallel import TreeAccumulator, World
from trainer.recipe import Recipe


class Trainer:
    """One process's share of a training run."""

    def __init__(self, world: World, recipe: Recipe, spec: ModelSpec, data: TrainingData) -> None:
        self.world = world
        self.recipe = recipe
        self.spec = spec
        self.data = data
        self.rows = data.open()
        self.step = 0
        self.model = Decoder(spec)
        initialize(self.model, recipe.seed)
        self.flat = FlatParameters(self.model)
        self.optimizer = AdamW(self.flat, *world.part(self.flat.size), recipe.optimizer)

    def train_step(self) -> Entry:
        """One update; every process returns the same entry."""
        step = self.step
        losses, subtree = self._accumulate(step)
        scale = 1.0 / self.recipe.data.num_micro_batches
        gradient = self.world.exchange(subtree).mul_(scale)
        norms = self.world.gather_floats(block_norms(gradient, self.flat.size // BLOCKS))
        norm, factor = clip_factor(norms, self.recipe.optimizer.clip_norm)
        rate = learning_rate(self.recipe.schedule, step + 1)
        self.optimizer.update(gradient.mul_(factor), rate, step + 1)
        self.world.gather(self.optimizer.values.clone(), self.flat.values)
        self.step = step + 1
        return Entry(
            step=self.step,
            tokens=self.tokens,
            loss=sum(self.world.gather_floats(losses)) * scale,
            gradient_norm=norm,
            learning_rate=rate,
            weights_digest=self.weights_digest() if self.step % self.recipe.digest_every == 0 else None,
        )

    @property
    def tokens(self) -> int:
        """Targets trained on so far: global batch x context for each step."""
        return self.step * self.recipe.data.global_batch * self.spec.context

    def weights_digest(self) -> str:
        return tensors_digest(self.flat.named(self.flat.values))

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """(weights, moments) by name; every process takes part in gathering the moments."""
        weights = self.flat.named(self.flat.values)
        moments: dict[str, np.ndarray] = {}
        for moment, owned in (("first", self.optimizer.first), ("second", self.optimizer.second)):
            whole = torch.empty(self.flat.size)
            self.world.gather(owned, whole)
            moments |= {f"{moment}.{name}": array for name, array in self.flat.named(whole).items()}
        return weights, moments

    def load(self, folder: Path) -> ck.Record:
        """Take over the state of a checkpoint, after its digests were found right."""
        record = ck.read_record(folder)
        if self.world.rank == 0:
            numerics.warn_if_other(record.numerics, self.recipe.numerics)
        self.flat.fill(self.flat.values, ck.read_verified(folder, ck.WEIGHTS))
        moments = ck.read_verified(folder, ck.OPTIMIZER)
        start, stop = self.world.part(self.flat.size)
        for moment, owned in (("first", self.optimizer.first), ("second", self.optimizer.second)):
            whole = torch.zeros(self.flat.size)
            prefix = f"{moment}."
            self.flat.fill(whole, {n.removeprefix(prefix): t for n, t in moments.items() if n.startswith(prefix)})
            owned.copy_(whole[start:stop])
        self.step = record.step
        return record

    def _accumulate(self, step: int) -> tuple[list[float], Tensor]:
        """Losses and the tree sum of the gradients of this process's micro-batches."""
        tree = TreeAccumulator()
        losses = []
        for number in range(*self.world.part(self.recipe.data.num_micro_batches)):
            rows_BT = torch.from_numpy(self.data.micro_batch_rows(self.rows, step, number))
            self.flat.gradients.zero_()
            loss = mean_loss(self.model, rows_BT)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            tree.add(self.flat.gradients.clone())
        return losses, tree.total()


def mean_loss(model: Decoder, rows_BT: Tensor) -> Tensor:
    """Mean cross entropy in nats of the targets `rows[:, 1:]` given `rows[:, :-1]`."""
    logits_BTV = model(rows_BT[:, :-1])
    return functional.cross_entropy(logits_BTV.flatten(0, 1), rows_BT[:, 1:].flatten())


def train_until(trainer: Trainer, last_step: int, after_step: Callable[[Trainer, Entry], None]) -> None:
    """Steps until `last_step`; `after_step` runs in every process, so it may gather."""
    while trainer.step < last_step:
        after_step(trainer, trainer.train_step())


def save_checkpoint(trainer: Trainer, folder: Path, entry: Entry | None, parent: str | None) -> str | None:
    """Write the state into `folder/REVISION`, whole or not at all; at rank 0 returns its state digest."""
    weights, moments = trainer.state()
    if trainer.world.rank != 0:
        return None
    digests = tensors_digest(weights), tensors_digest(moments)
    record = ck.Record(
        format=ck.FORMAT,
        model=trainer.recipe.name,
        revision=ck.revision(trainer.step, trainer.tokens),
        step=trainer.step,
        tokens=trainer.tokens,
        applied_updates=trainer.step,
        learning_rate=entry.learning_rate if entry else None,
        loss=entry.loss if entry else None,
        weights_digest=digests[0],
        optimizer_digest=digests[1],
        state_digest=ck.state_digest(*digests, trainer.step),
        parent=parent,
        storage="stored",
        nearest_stored_step=trainer.step,
        digest_interval=trainer.recipe.digest_every,
        numerics=numerics.describe(trainer.recipe.numerics),
    )
    final = folder / record.revision
    partial = ck.begin(final)
    ck.write_tensors(partial / ck.WEIGHTS, weights)
    ck.write_tensors(partial / ck.OPTIMIZER, moments)
    write_bytes(partial / ck.CONFIG, pretty(trainer.spec.to_json()))
    ck.write_record(partial, record)
    partial.rename(final)
    return record.state_digest
