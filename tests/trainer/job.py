"""A job that each process of `launch` runs: sums eight tensors over the processes that there are."""

import hashlib
import json
from typing import Any


def exchange(world: Any) -> str:
    import torch

    from trainer.parallel import TreeSum

    tree = TreeSum(4096)
    for number in range(*world.part(8)):
        tree.add(torch.randn(4096, generator=torch.Generator().manual_seed(number)))
    owned = world.exchange(tree.total())
    whole = torch.empty(4096)
    world.gather(owned, whole)
    return json.dumps(hashlib.sha256(whole.numpy().tobytes()).hexdigest())
