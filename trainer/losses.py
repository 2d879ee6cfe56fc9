"""The losses of a learning record: every target of some rows, at some checkpoints of one model.

Micro-batches have a declared size, and each is computed whole by one process, so the bits are the same for any number
of processes. A process takes its run of micro-batches through all checkpoints.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.paths import RECIPES
from pipeline.formats import checkpoints as ck
from pipeline.formats.losses import NAME, write_losses
from pipeline.formats.manifests import Evaluated
from pipeline.formats.model import ModelSpec
from pipeline.release.release import Release, State
from pipeline.release.targets import targets_of_release
from trainer.launch import default_processes, launch
from trainer.recipe import load_recipe

if TYPE_CHECKING:
    from trainer.parallel import World

Losses = NDArray[np.float32]


def losses(release: Release, model: str, states: Sequence[State], out: Path) -> int:
    """Write the losses of a model at `states`, which have their bytes, on the targets of its record in the release;
    return the number of targets. May restart this program, to enter the numerics class of the model."""
    release.file(f"recipes/{model}.yaml")
    recipe, spec = load_recipe(model, release.folder)
    micro_batch = release.manifest(Evaluated, model).parameters.micro_batch
    folders = [state.file(ck.WEIGHTS).parent for state in states]
    targets = targets_of_release(release, model)
    processes = default_processes(recipe.data.num_leaves)
    found: Losses = launch(compute_losses, processes, recipe.numerics, model, spec, folders, targets.rows, micro_batch)
    columns = {state.revision: column.ravel() for state, column in zip(states, found, strict=True)}
    return write_losses(out, NAME, targets.keys, columns).lines


def compute_losses(
    world: "World", name: str, spec: ModelSpec, checkpoints: Sequence[Path], rows: NDArray[np.int64], micro_batch: int
) -> Losses:
    """Compute the loss of each target at each checkpoint, shape (checkpoints, rows, width - 1)."""
    import torch

    from trainer.model import Decoder, load_tensors

    model = Decoder(spec).to(world.device)
    context = rows.shape[1] - 1
    share = -(-len(rows) // (micro_batch * world.size)) * micro_batch
    mine = torch.from_numpy(rows[world.rank * share : (world.rank + 1) * share]).to(world.device)
    found = np.empty((len(checkpoints), len(rows), context), dtype=np.float32)
    gathered = torch.empty(world.size * share, context, device=world.device)
    with progress(f"losses of {name}", len(checkpoints), "checkpoints", quiet=world.rank != 0) as advance:
        for number, checkpoint in enumerate(checkpoints):
            weights: Any = ck.read_verified(checkpoint, ck.WEIGHTS)
            load_tensors(model, weights)
            owned = torch.zeros(share, context, device=world.device)
            for start in range(0, len(mine), micro_batch):
                batch = mine[start : start + micro_batch]
                owned[start : start + len(batch)] = model.losses(batch)
            world.gather(owned, gathered)
            found[number] = gathered[: len(rows)].cpu().numpy()
            _require_finite(checkpoint, found[number])
            advance(1)
    return found


def _require_finite(checkpoint: Path, losses: Losses) -> None:
    if np.isfinite(losses).all():
        return
    about = ck.read_record(checkpoint)
    raise EverystepError(
        f"{checkpoint}: a loss of it is {losses[~np.isfinite(losses)][0]}: {about.model} had diverged at step "
        f"{about.step}, though the training loss was still finite; a lower schedule.peak in "
        f"{RECIPES}/{about.model}.yaml helps most"
    )
