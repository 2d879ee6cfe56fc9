"""Average: the mean of checkpoints of a model, usually its last, as a folder that transformers loads.

OpenELM is published so (Mehta et al., 2024): they found the mean of its last checkpoints as good as the last one, or
slightly better. Sums are float64, in the order of the steps, and the mean is cast to float32 once: the same bytes on
every machine. Needs numpy, not torch.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.pull import origin, write_folder
from pipeline.base.errors import Differs
from pipeline.base.files import new_folder
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.model import tensor_shapes
from pipeline.release.release import Release, State, Weights


def average(release: Release, states: list[State], out: Path) -> None:
    """Write the mean of `states` of one model, ascending by step, to the new folder `out`.

    `everystep.json` there names each of them with its digests, and the digest of the mean in the trainer's own form.
    """
    with new_folder(out) as scratch:
        weights = mean(states)
        keys = ("revision", "step", "tokens", "storage", "weights_digest", "state_digest")
        records = [state.record.to_json() for state in states]
        about = {
            **origin(release, states[0].model),
            "model": states[0].model,
            "mean_of": [{key: record[key] for key in keys} for record in records],
            "weights_digest": tensors_digest(weights),
        }
        write_folder(release, scratch, states[0].spec, weights, about)


def mean(states: list[State]) -> Weights:
    """The mean of each tensor. One checkpoint is in memory at a time, beside the sums."""
    sums: dict[str, NDArray[np.float64]] = {}
    for state in states:
        weights = state.weights()
        if {name: tensor.shape for name, tensor in weights.items()} != tensor_shapes(states[0].spec):
            raise Differs(f"{state.file(ck.WEIGHTS)}: its tensors are not those of {states[0].revision}")
        for name, tensor in weights.items():
            if name in sums:
                sums[name] += tensor
            else:
                sums[name] = tensor.astype(np.float64)
    return {name: (tensor / len(states)).astype(np.float32) for name, tensor in sums.items()}
