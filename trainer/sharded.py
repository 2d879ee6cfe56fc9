"""Training of a model that does not fit one device: weights, gradients and moments are sharded over the processes.

Each process holds some rows of every tensor (`World.shard`, torch's `fully_shard`). A layer is gathered while it
computes, forward and backward, and its gradient is summed where its rows are. Everything else is as in `trainer.loop`:
the rows of a step, the update, the digests, the bytes of checkpoints. Weights and checkpoints are made, digested and
read row by row, so no device ever holds a whole model.

The order of additions depends on the number of processes, so it decides bits, and the numerics of a checkpoint have it.
"""

from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.base.errors import Differs
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import combine_leaves, tensor_leaf
from pipeline.formats.initial import initial_rows
from pipeline.formats.model import ModelSpec, tensor_shapes
from pipeline.formats.tensors import TensorFile
from trainer import numerics
from trainer.checkpoint import Tensors
from trainer.data import TrainingData
from trainer.launch import num_shards
from trainer.loop import Trainer
from trainer.model import Decoder
from trainer.optimizer import block_norms, fused_update
from trainer.parallel import World
from trainer.recipe import Recipe


class Piece(NamedTuple):
    """Rows [first, last) of a tensor, and where they lie in a flat vector of all the rows of this process."""

    name: str
    shape: tuple[int, ...]
    """Shape of the whole tensor."""
    first: int
    last: int
    place: slice

    def of(self, flat: Tensor) -> Tensor:
        """View a piece of a flat vector."""
        return flat[self.place].view(self.last - self.first, *self.shape[1:])


Rows = Callable[[Piece], Tensor]


def trainer_of(world: World, recipe: Recipe, spec: ModelSpec, data: TrainingData) -> Trainer:
    """Return the trainer that the environment asks for."""
    return (ShardedTrainer if num_shards() > 1 else Trainer)(world, recipe, spec, data)


def pieces_of(spec: ModelSpec, world: World) -> Iterator[Piece]:
    """Yield what this process owns of every tensor, in the order of their names. It may be nothing of a small one."""
    end = 0
    for name, shape in sorted(tensor_shapes(spec).items()):
        first, last = world.rows(shape[0])
        start, end = end, end + (last - first) * prod(shape[1:])
        yield Piece(name, shape, first, last, slice(start, end))


class ShardedTrainer(Trainer):
    """One process's share of a training run and of the model."""

    def _build(self, recompute: bool) -> None:
        device = self.world.device
        with torch.device("meta"):
            self.model = Decoder(self.spec, recompute)
        units = self.model.units()
        if self.recipe.compiled:
            self.model.compile_layers(whole=len(units) == len(self.model.layers))
        self.world.shard(self.model, units)
        self.model.to_empty(device=device)
        self.pieces = list(pieces_of(self.spec, self.world))
        self._parameters: dict[str, Any] = dict(self.model.named_parameters())
        self.gradient, self.first, self.second = (
            torch.zeros(self.pieces[-1].place.stop, device=device) for _ in range(3)
        )
        for piece in self.pieces:
            rows = (piece.last - piece.first, *piece.shape[1:])
            initial = initial_rows(self.spec, self.recipe.seed, piece.name, rows, piece.first)
            self._weights(piece).copy_(torch.from_numpy(initial))
            self.world.place_gradient(self._parameters[piece.name], piece.of(self.gradient))

    def numerics(self) -> dict[str, object]:
        return super().numerics() | {"shards": self.world.size}

    def weights_digest(self) -> str:
        return self._digest({"": self._weights})

    def digests(self) -> tuple[str, str]:
        return self.weights_digest(), self._digest(self._moments)

    def state(self) -> tuple[Tensors, Tensors]:
        """Copy (weights, moments) by name into the memory of rank 0, and of no other; every process must call this."""
        return self._gathered({"": self._weights}), self._gathered(self._moments)

    def bytes_held(self) -> int:
        vectors = [*map(self._weights, self.pieces), self.gradient, self.first, self.second]
        return sum(vector.untyped_storage().nbytes() for vector in vectors)

    def load(self, folder: Path) -> ck.Record:
        """Load this process's rows of a checkpoint, after comparing its digests; every process must call this."""
        record = ck.read_record(folder)
        if self.world.rank == 0:
            numerics.warn_if_other(record.numerics.to_json(), self.numerics())
        self._read(folder / ck.WEIGHTS, record.weights_digest, {"": self._weights})
        self._read(folder / ck.OPTIMIZER, record.optimizer_digest, self._moments)
        self.step = record.step
        return record

    def _gradients(self, step: int) -> tuple[list[float], Tensor]:
        """Compute losses of this process's micro-batches, and its rows of the gradient of all."""
        self.gradient.zero_()
        numbers = range(*self.world.part(self.recipe.data.num_micro_batches))
        return [self._backward(step, number, keeps_casts=False) for number in numbers], self.gradient

    def _exchange(self, gradient: Tensor) -> Tensor:
        return gradient

    def _norms(self, gradient: Tensor) -> list[float]:
        return block_norms(gradient, len(gradient))

    @torch.no_grad()
    def _update(self, gradient: Tensor, factor: float, rate: float) -> None:
        gradient.mul_(factor)
        section = self.recipe.optimizer
        for decays in (True, False):
            vectors = [
                (self._weights(piece), *(piece.of(flat) for flat in (gradient, self.first, self.second)))
                for piece in self.pieces
                if piece.last > piece.first and (len(piece.shape) > 1 or section.decay == "all") == decays
            ]
            fused_update(vectors, section, rate, section.weight_decay if decays else 0.0, self.step + 1)

    def _complete(self) -> None:
        pass

    def _weights(self, piece: Piece) -> Tensor:
        weights: Tensor = self._parameters[piece.name].detach().to_local()
        return weights

    @property
    def _moments(self) -> dict[str, Rows]:
        return {"first.": lambda piece: piece.of(self.first), "second.": lambda piece: piece.of(self.second)}

    def _gathered(self, parts: Mapping[str, Rows]) -> Tensors:
        return {name: whole.cpu().numpy() for name, whole in self._wholes(parts) if self.world.rank == 0}

    def _digest(self, parts: Mapping[str, Rows]) -> str:
        """Digest tensors, of which each process digests every so many."""
        leaves = [
            tensor_leaf(name, whole.cpu().numpy()) if self._is_mine(number) else None
            for number, (name, whole) in enumerate(self._wholes(parts))
        ]
        return self._combined(leaves)

    def _wholes(self, parts: Mapping[str, Rows]) -> Iterator[tuple[str, Tensor]]:
        """Gather one tensor after another, in the order of their names."""
        for prefix, rows in parts.items():
            for piece in self.pieces:
                yield prefix + piece.name, self.world.gather_rows(rows(piece), piece.shape[0])

    def _read(self, path: Path, promised: str, parts: Mapping[str, Rows]) -> None:
        """Fill rows from a file, of which each process reads its own, and compare the digest of what all have read."""
        wanted = {prefix + piece.name: (piece, rows(piece)) for prefix, rows in parts.items() for piece in self.pieces}
        with TensorFile(path) as file:
            if not file.holds({name: piece.shape for name, (piece, _) in wanted.items()}):
                raise Differs(f"{path}: these are not the tensors of {self.recipe.name}")
            for name, (piece, rows) in wanted.items():
                rows.copy_(torch.from_numpy(file.read_rows(name, piece.first, piece.last)))
        ck.require_promised(path, promised, self._digest(parts))

    def _is_mine(self, number: int) -> bool:
        return number % self.world.size == self.world.rank

    def _combined(self, leaves: list[bytes | None]) -> str:
        """Combine the leaves of all processes, each of which has its own of the list."""
        numbers = self.world.gather_floats([float(byte) for leaf in leaves for byte in leaf or bytes(32)])
        gathered = np.array(numbers).astype(np.uint8).reshape(self.world.size, len(leaves), 32)
        return combine_leaves([gathered[number % self.world.size, number].tobytes() for number in range(len(leaves))])
