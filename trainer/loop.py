"""The training loop: from one state to the next, the same bits however often it is killed and wherever it runs.

    for each step:  rows of (seed, step) -> gradients of fixed micro-batches -> tree sum -> clip -> AdamW

A `Trainer` holds a state (weights, moments, step); there is no random state. Training and replay call the same
`train_step`, so a replay runs the very code that trained.
"""

import os
from pathlib import Path

import torch
from torch import Tensor

from pipeline.base.errors import Differs
from pipeline.base.paths import RECIPES
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import combine_leaves, tensor_leaf, tensors_digest
from pipeline.formats.log import Entry
from pipeline.formats.model import ModelSpec
from pipeline.formats.tensors import TensorFile
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
        self._build(recompute=os.environ.get(RECOMPUTE) == "1")

    def _build(self, recompute: bool) -> None:
        """Build the model at step 0, and the memory of its gradients and moments."""
        with self.world.device:
            self.model = Decoder(self.spec, recompute)
        if self.recipe.compiled:
            self.model.compile_layers()
        self.flat = FlatParameters(self.model, self.recipe.optimizer.decay, self.world.weights)
        self.optimizer = AdamW(self.flat, *self.world.part(self.flat.size), self.recipe.optimizer, self.world.zeros)
        self.sum = TreeSum(self.world.subtree(self.flat.size))
        # Where they are trained, so that no second copy exists; processes that share this memory are all here by now.
        initialize(self.model, self.recipe.seed)

    def train_step(self) -> Entry:
        """One update; every process returns the same entry."""
        self.world.begin(f"step {self.step + 1}")
        losses, subtree = self._gradients(self.step)
        self.world.begin(f"step {self.step + 1}", waits=True)
        gradient = self._exchange(subtree)
        norm, factor = self._clip(self.world.gather_floats(self._norms(gradient)))
        rate = self._rate()
        self._update(gradient, factor, rate)
        self._complete()
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

    def digests(self) -> tuple[str, str]:
        """Digest (weights, moments); every process must call this."""
        weights, moments = self.state()
        return tensors_digest(weights), tensors_digest(moments)

    def state(self) -> tuple[Tensors, Tensors]:
        """Copy (weights, moments) by name into the host's memory, so that a GPU need not hold a second state; every
        process must call this, because the moments are gathered."""
        first, second = self.world.collect(self.optimizer.first), self.world.collect(self.optimizer.second)
        return self.flat.named(self.world.to_host(self.flat.values)), moments(self.flat, first, second)

    def bytes_held(self) -> int:
        """Count the memory of this process's weights, gradients and moments between steps, without buffers."""
        gradient, moments = self.flat.size, 2 * len(self.optimizer.first)
        return (self.flat.size + gradient + moments) * torch.float32.itemsize

    def load(self, folder: Path) -> ck.Record:
        """Load the state of a checkpoint, after comparing its digests; every process must call this.

        All wait for each other first: the weights may be in memory that they share, and a process that is ahead must
        not load over weights that another still digests or copies.
        """
        self.world.complete(self.flat.values)
        record = ck.read_record(folder)
        if self.world.rank == 0:
            numerics.warn_if_other(record.numerics.to_json(), self.numerics())
        self._fill(folder / ck.WEIGHTS, record.weights_digest, {"": self.flat.values}, first=0)
        moments = {"first.": self.optimizer.first, "second.": self.optimizer.second}
        self._fill(folder / ck.OPTIMIZER, record.optimizer_digest, moments, self.world.part(self.flat.size)[0])
        self.step = record.step
        return record

    def _fill(self, path: Path, promised: str, slices: dict[str, Tensor], first: int) -> None:
        """Fill slices of flat vectors, by the prefix of their names, from a file; each begins at element `first`.

        One tensor of the file at a time is in memory. Where the digest of all is not the promised one, the vectors
        are spoilt, and the error must end this trainer.
        """
        wanted = {prefix + place.name: (place, part) for prefix, part in slices.items() for place in self.flat.places}
        leaves = []
        with TensorFile(path) as file:
            if not file.holds({name: place.shape for name, (place, _) in wanted.items()}):
                raise Differs(f"{path}: these are not the tensors of {self.recipe.name}")
            for name in sorted(wanted):
                place, part = wanted[name]
                tensor = file.read(name)
                leaves.append(tensor_leaf(name, tensor))
                start, stop = max(place.start, first), min(place.stop, first + len(part))
                if start < stop:
                    mine = tensor.reshape(-1)[start - place.start : stop - place.start]
                    part[start - first : stop - first].copy_(torch.from_numpy(mine))
        ck.require_promised(path, promised, combine_leaves(leaves))

    def _gradients(self, step: int) -> tuple[list[float], Tensor]:
        """Compute losses and summed gradients of this process's micro-batches: in order in a leaf, leaves in a tree."""
        losses = []
        leaves = self.recipe.data.num_leaves
        in_leaf = self.recipe.data.num_micro_batches // leaves
        for leaf in range(*self.world.part(leaves)):
            gradients = self.sum.buffer()
            self.flat.collect(gradients)
            losses += [self._backward(step, number) for number in range(leaf * in_leaf, (leaf + 1) * in_leaf)]
            self.sum.add(gradients)
        return losses, self.sum.total()

    def _backward(self, step: int, number: int, keeps_casts: bool = True) -> float:
        """Compute the loss of a micro-batch, and add its gradients. Casts to bfloat16 may be kept for a second use."""
        rows_BT = self._rows(step, number)
        marks = self.data.forgotten_ids(step, number)
        forgotten_BT = None if marks is None else torch.from_numpy(marks).to(self.world.device)
        in_bfloat16 = self.recipe.precision == "bfloat16"
        with torch.autocast(self.world.device.type, torch.bfloat16, in_bfloat16, cache_enabled=keeps_casts):
            loss = self.model.loss(rows_BT, self.recipe.loss.z_loss, forgotten_BT)
        loss.backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def _exchange(self, subtree: Tensor) -> Tensor:
        return self.world.exchange(subtree)

    def _complete(self) -> None:
        self.world.complete(self.flat.values)

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
