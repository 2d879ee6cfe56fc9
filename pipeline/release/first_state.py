"""The first state of a training: the weights at step 0 are what recipe and seed give, and nothing has moved yet.

A replay begins with a state that it must believe. This one it need not: other weights at step 0, pretrained ones
perhaps, would give a training that replays to the bit and was never described.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.formats import checkpoints as ck
from pipeline.formats.families import build_spec
from pipeline.formats.initial import initial_tensors
from pipeline.formats.model import tensor_shapes
from pipeline.formats.tensors import TensorFile
from pipeline.release.release import Release


def first_state_faults(release: Release, name: str) -> Iterator[str]:
    """Compare the state at step 0 of one model, if it has one, a tensor at a time."""
    recipe, states = release.model(name).parameters, release.states(name)
    if recipe.begun_at or recipe.parent or 0 not in states:
        return
    spec, folder = build_spec(recipe.model, f"recipes/{name}.yaml"), states[0].folder
    with TensorFile(states[0].file(ck.WEIGHTS)) as weights, TensorFile(states[0].file(ck.OPTIMIZER)) as moments:
        if weights.shapes() != tensor_shapes(spec):
            yield f"{folder}/{ck.WEIGHTS}: its tensors are not those that recipes/{name}.yaml describes"
            return
        for tensor, expected in initial_tensors(spec, recipe.seed):
            found = weights.read(tensor)
            if different := int(np.count_nonzero(found.view(np.uint32) != expected.view(np.uint32))):
                yield (
                    f"{folder}/{ck.WEIGHTS}: {tensor}: {different:,} of {expected.size:,} numbers are not what seed "
                    f"{recipe.seed} and the initialization of recipes/{name}.yaml give"
                )
                return
        for moment in sorted(moments.entries):
            if np.count_nonzero(moments.read(moment)):
                yield f"{folder}/{ck.OPTIMIZER}: {moment}: is not zero, and no step has been taken"
                return
