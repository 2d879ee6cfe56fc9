"""The training loop: from one state to the next, the same bits however often it is killed and wherever it runs.

    for each step:  rows of (seed, step) -> gradients of fixed micro-batches -> tree sum -> clip -> AdamW

A `Trainer` holds a state (weights, moments, step); there is no random state. Training and replay call the same
`train_step`, so a replay runs the very code that trained.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from pipeline.base.paths import RECIPES
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.log import Entry
from pipeline.formats.model import ModelSpec
from trainer import numerics
from trainer.checkpoint import Tensors, moments
from trainer.data import TrainingData
from trainer.fits import RECOMPUTE, place_of, require_training
from trainer.model import Decoder, initialize
from trainer.optimizer import BLOCKS, AdamW, FlatParameters, block_norms, clip_factor, learning_rate
from trainer.parallel import TreeSum, World
from trainer.recipe import Recipe


class Trainer:
    """One process's share of a training run."""

    def __init__(self, world: World, recipe: Recipe, spec: ModelSpec, data: TrainingData) -> None:
        numerics.require_precision(recipe.precision, f"{RECIPES}/{recipe.name}.yaml")
        require_training(recipe, spec, place_of(world.device.type == "cpu", world.size), world.size, saves=False)
        self.world = world
        self.recipe = recipe
        self.spec = spec
        self.data = data
        self.rows = data.open()
        self.step = 0  # until a state is loaded
        self.model = Decoder(spec, recompute=os.environ.get(RECOMPUTE) == "1").to(world.device)
        initialize(self.model, recipe.seed)
        if recipe.compiled:
            self.model.compile_layers()
        self.flat = FlatParameters(self.model, recipe.optimizer.decay, world.weights)
        self.optimizer = AdamW(self.flat, *world.part(self.flat.size), recipe.optimizer)
        self.sum = TreeSum(world.subtree(self.flat.size))

    def train_step(self) -> Entry:
        """One update; every process returns the same entry."""
        losses, subtree = self._gradients(self.step)
        gradient = self.world.exchange(subtree)
        norm, factor = self._clip(self.world.gather_floats(self._norms(gradient)))
        rate = self._rate()
        self._update(gradient, factor, rate)
        self.world.complete(self.flat.values)
        self.step += 1
        return Entry(
            step=self.step,
            tokens=self.tokens,
            loss=sum(self.world.gather_floats(losses)) * self._scale,
            gradient_norm=norm,
            learning_rate=rate,
            weights_digest=self.weights_digest() if self.step % self.recipe.digest_every == 0 else None,
        )

    @property
    def tokens(self) -> int:
        """Targets trained on so far."""
        return self.recipe.tokens(self.step)

    def numerics(self) -> dict[str, object]:
        """Describe what decides the bits of this run, for its records."""
        return numerics.describe(self.recipe.numerics, self.recipe.precision, self.recipe.compiled)

    def weights_digest(self) -> str:
        return tensors_digest(self.flat.named(self.flat.values))

    def state(self) -> tuple[Tensors, Tensors]:
        """Copy (weights, moments) by name; every process must call this, because the moments are gathered."""
        first, second = torch.empty_like(self.flat.values), torch.empty_like(self.flat.values)
        self.world.gather(self.optimizer.first, first)
        self.world.gather(self.optimizer.second, second)
        return self.flat.named(self.flat.values.clone()), moments(self.flat, first, second)

    def load(self, folder: Path) -> ck.Record:
        """Load the state of a checkpoint, after comparing its digests; every process must call this.

        All wait for each other first: the weights may be in memory that they share, and a process that is ahead must
        not load over weights that another still digests or copies.
        """
        self.world.complete(self.flat.values)
        record = ck.read_record(folder)
        if self.world.rank == 0:
            numerics.warn_if_other(record.numerics.to_json(), self.numerics())
        self.flat.values.copy_(self.flat.flatten(ck.read_verified(folder, ck.WEIGHTS)))
        tensors = ck.read_verified(folder, ck.OPTIMIZER)
        mine = slice(*self.world.part(self.flat.size))
        for prefix, owned in (("first.", self.optimizer.first), ("second.", self.optimizer.second)):
            named = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            owned.copy_(self.flat.flatten(named)[mine])
        self.step = record.step
        return record

    def _gradients(self, step: int) -> tuple[list[float], Tensor]:
        """Compute losses and summed gradients of this process's micro-batches: in order in a leaf, leaves in a tree."""
        losses = []
        leaves = self.recipe.data.num_leaves
        in_leaf = self.recipe.data.num_micro_batches // leaves
        for leaf in range(*self.world.part(leaves)):
            gradients = self.sum.buffer()
            self.flat.collect(gradients)
            for number in range(leaf * in_leaf, (leaf + 1) * in_leaf):
                rows_BT = self._rows(step, number)
                marks = self.data.forgotten_ids(step, number)
                forgotten_BT = None if marks is None else torch.from_numpy(marks).to(self.world.device)
                with torch.autocast(
                    self.world.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"
                ):
                    loss = self.model.loss(rows_BT, self.recipe.loss.z_loss, forgotten_BT)
                loss.backward()  # type: ignore[no-untyped-call]
                losses.append(float(loss.detach()))
            self.sum.add(gradients)
        return losses, self.sum.total()

    # The parts of a step that are not torch's operators; `trainer.dispute` writes down what each of them gave.

    @property
    def _scale(self) -> float:
        return 1.0 / self.recipe.data.num_micro_batches

    def _rows(self, step: int, number: int) -> Tensor:
        return torch.from_numpy(self.data.micro_batch_rows(self.rows, step, number)).to(self.world.device)

    def _norms(self, gradient: Tensor) -> list[float]:
        return block_norms(gradient, self.flat.size // BLOCKS)

    def _clip(self, squared_norms: list[float]) -> tuple[float, float]:
        return clip_factor(squared_norms, self._scale, self.recipe.optimizer.clip_norm)

    def _rate(self) -> float:
        return learning_rate(self.recipe.schedule, self.step + 1, self.recipe.data.global_batch)

    def _update(self, gradient: Tensor, factor: float, rate: float) -> None:
        self.optimizer.update(gradient, factor, rate, self.step + 1)
