"""Jobs that each process of `launch` runs: a sum of eight tensors, and a step's gradients in two ways."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def exchange(world: Any) -> str:
    """The digest of a sum of eight tensors over the processes that there are."""
    import torch

    from trainer.parallel import TreeSum

    tree = TreeSum(world.subtree(4096))
    for number in range(*world.part(8)):
        tree.add(tree.buffer().copy_(torch.randn(4096, generator=torch.Generator().manual_seed(number))))
    owned = world.exchange(tree.total())
    whole = torch.empty(4096)
    world.gather(owned, whole)
    return hashlib.sha256(whole.numpy().tobytes()).hexdigest()


def common_memory(world: Any) -> dict[str, Any]:
    """What rank 0 sees of weights of which each process wrote its part, and the name of their memory."""
    weights = world.weights(4096)
    weights[slice(*world.part(4096))] = world.rank + 1.0
    world.complete(weights)
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if "everystep" in line]
    return {"weights": weights[::1024].tolist(), "mapped": [line.split(maxsplit=5)[-1] for line in mapped]}


def compare_with_ddp(world: Any) -> dict[str, Any]:
    """Digests of the mean gradient of four micro-batches: of one process and of `world`, by our sum and by DDP.

    Each rank has one micro-batch; beside it, it computes what one process alone would.
    """
    from trainer.parallel import World

    ours, alone = _summed(world), _summed(World(0, 1))
    ddp, sequential = _averaged_by_ddp(), _accumulated()
    return {
        "ours of one": _digest(alone),
        "ours of four": _digest(ours),
        "ddp of one": _digest(sequential),
        "ddp of four": _digest(ddp),
        "largest difference of ddp": float((ddp - sequential).abs().max()),
    }


def _summed(world: Any) -> Any:
    """As `trainer.loop`."""
    import torch

    from trainer.optimizer import FlatParameters
    from trainer.parallel import TreeSum

    model = _model()
    flat = FlatParameters(model)
    tree = TreeSum(world.subtree(flat.size))
    for number in range(*world.part(4)):
        gradients = tree.buffer()
        flat.collect(gradients)
        model.loss(_rows(number)).backward()
        tree.add(gradients)
    whole = torch.empty(flat.size)
    world.gather(world.exchange(tree.total()), whole)
    return whole / 4


def _averaged_by_ddp() -> Any:
    import torch
    from torch.nn.parallel import DistributedDataParallel

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = _model()

        def forward(self, rows_BT: torch.Tensor) -> torch.Tensor:
            loss: torch.Tensor = self.model.loss(rows_BT)
            return loss

    ddp = DistributedDataParallel(Loss())
    ddp(_rows(torch.distributed.get_rank())).backward()
    return _flat(ddp.module.model)


def _accumulated() -> Any:
    """The loop of one process without DDP."""
    model = _model()
    for number in range(4):
        (model.loss(_rows(number)) / 4).backward()
    return _flat(model)


def _model() -> Any:
    from tests.trainer.tiny import tiny_spec
    from trainer.model import Decoder, initialize

    model = Decoder(tiny_spec("mobilellm"))
    initialize(model, 1)
    return model


def _rows(number: int) -> Any:
    import torch

    return torch.randint(320, (2, 33), generator=torch.Generator().manual_seed(number))


def _flat(model: Any) -> Any:
    import torch

    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def _digest(tensor: Any) -> str:
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


def staged_exchange(world: Any) -> str:
    """As `exchange`, by the way that processes of one GPU take."""
    from trainer.parallel import Staged

    return exchange(Staged(world.rank, world.size))


def train_sharded(
    world: Any, folder: str, families: list[str], steps: int, changes: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """What a sharded training of each family and, at rank 0, one in a single process came to; `changes` of the recipe.

    One process alone holds four numbers of each parameter: weight, gradient and two moments.
    """
    from pipeline.formats.digests import tensors_digest
    from pipeline.formats.model import num_parameters
    from tests.trainer.tiny import tiny_spec
    from trainer.data import Checking, training_data
    from trainer.fits import RECOMPUTE
    from trainer.loop import Trainer
    from trainer.parallel import World
    from trainer.recipe import load_recipe
    from trainer.sharded import ShardedTrainer

    recipe, _ = load_recipe("mobilellm", Path(folder))
    os.environ[RECOMPUTE] = str(int(changes.pop("recompute", False)))
    recipe = recipe.model_copy(update=changes)
    found: dict[str, dict[str, Any]] = {}
    for family in families:
        spec = tiny_spec(family, layers=3)
        data = training_data(Path(folder), recipe, spec, Checking(folder=Path(folder) / ".checked"))
        sharded = ShardedTrainer(world, recipe, spec, data)
        began = sharded.weights_digest()
        entries = [sharded.train_step() for _ in range(steps)]
        digests, (weights, moments) = sharded.digests(), sharded.state()
        about: dict[str, Any] = {
            "losses": [entry.loss for entry in entries],
            "norms": [entry.gradient_norm for entry in entries],
            "numbers held of each parameter": sharded.bytes_held() / 4 / num_parameters(spec),
        }
        if world.rank == 0:
            alone = Trainer(World(0, 1), recipe, spec, data)
            about["begins alike"] = began == alone.weights_digest()
            others = [alone.train_step() for _ in range(steps)]
            about["losses alone"] = [entry.loss for entry in others]
            about["norms alone"] = [entry.gradient_norm for entry in others]
            about["digests are of the state"] = digests == (tensors_digest(weights), tensors_digest(moments))
            about["layout alike"] = [list(part) for part in (weights, moments)] == [
                sorted(part) for part in alone.state()
            ]
        found[family] = about
        world.gather_floats([0.0])  # the others wait for rank 0
    return found


if __name__ == "__main__":  # python -m tests.trainer.job [PROCESSES, FOLDER, FAMILIES, STEPS, CHANGES]
    from tests.trainer.job import train_sharded as job
    from trainer.launch import launch

    processes, *rest = json.loads(sys.argv[1])
    print(json.dumps(launch(job, processes, "native", *rest)))
