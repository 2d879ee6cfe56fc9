"""The stage `evaluate`: validation loss and bits per byte of every checkpoint of one model.

Reads `runs/MODEL`, the validation rows and the tokenizer; writes `results/MODEL/evaluation.jsonl` and `.csv`
and `manifests/evaluations/MODEL.json`. The rows are the first of the held-out split, the same for every model.

    loss = nats / targets        bits per byte = nats / ln 2 / bytes of text of the targets

The second does not depend on the tokenizer, so it compares across releases (Gao et al. 2020, section 3.1).
"""

import hashlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import fresh_folder, safe_join, sha256_file, write_bytes
from pipeline.base.paths import PARAMS, RECIPES, RESULTS, RUNS, TOKENIZER, TOKENS
from pipeline.base.yaml import Section, check, load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import canonical
from pipeline.formats.current import read_current, take_basis, write_manifest
from pipeline.formats.lines import Shard
from pipeline.formats.log import as_csv
from pipeline.formats.manifests import Checkpoint, Evaluated, Result, TokenizerTrained, Tokens, Trained
from pipeline.formats.model import ModelSpec
from pipeline.formats.stages import manifest_path
from pipeline.formats.vocabulary import token_bytes
from trainer.launch import default_processes, launch
from trainer.recipe import load_recipe
from trainer.verified_rows import VerifiedRows

if TYPE_CHECKING:
    from trainer.parallel import World

JSONL, CSV = "evaluation.jsonl", "evaluation.csv"
LN_2 = 0.6931471805599453


class EvaluateParams(Section):
    """Number of validation rows on which every checkpoint is measured, and how many at a time."""

    rows: Annotated[int, Field(gt=0)]
    micro_batch: Annotated[int, Field(gt=0)]


class _Params(Section, extra="ignore"):
    evaluate: EvaluateParams


def evaluate(name: str) -> None:
    """Evaluate every checkpoint of the model `name`."""
    recipe, spec = load_recipe(name)
    params = check(_Params, load_yaml(PARAMS), str(PARAMS)).evaluate
    inputs = [manifest_path("train", name), manifest_path("tokenize"), manifest_path("tokenizer")]
    basis = take_basis(inputs, ["evaluate"])
    tokens = read_current(Tokens)
    read_current(TokenizerTrained).check_file(TOKENIZER)
    rows = validation_rows(tokens, params.rows, TOKENS)
    checkpoints = [_promised(RUNS / name, entry) for entry in read_current(Trained, name).checkpoints]
    processes = default_processes(recipe.data.num_leaves)
    nats = launch(sum_nats, processes, recipe.numerics, name, spec, checkpoints, rows, params.micro_batch)
    targets = rows[:, 1:]
    num_bytes = int(token_bytes(TOKENIZER)[targets].sum())
    results = [
        result_of(checkpoint, total, targets.size, num_bytes)
        for checkpoint, total in zip(checkpoints, nats, strict=True)
    ]
    folder = fresh_folder(RESULTS / name)
    content = b"".join(canonical(result.to_json()) + b"\n" for result in results)
    write_bytes(folder / JSONL, content)
    write_bytes(folder / CSV, as_csv([result.to_json() for result in results]))
    sha256 = hashlib.sha256(content).hexdigest()
    shard = Shard(path=JSONL, lines=len(results), bytes=len(content), sha256=sha256)
    write_manifest(
        Evaluated,
        name,
        basis,
        parameters=params.model_dump(),
        outputs={"evaluation": [shard]},
        tokenizer_sha256=sha256_file(TOKENIZER),
        targets=targets.size,
        bytes=num_bytes,
        results=[result.to_json() for result in results],
        loss=results[-1].loss,  # again, outside of a list: `dvc metrics` reads no lists
        bits_per_byte=results[-1].bits_per_byte,
    )


def _promised(folder: Path, entry: Checkpoint) -> Path:
    """Return the folder of a checkpoint that the model's manifest lists, after comparing its record."""
    path = safe_join(folder, entry.revision)
    if Checkpoint.of_record(ck.read_record(path)) != entry:
        raise Differs(f"{path}: not the checkpoint that the manifest of the model lists; run `dvc repro`")
    return path


def validation_rows(tokens: Tokens, num_rows: int, folder: Path) -> NDArray[np.int64]:
    """Read the first `num_rows` held-out rows (or all, if fewer), shape (rows, width), from verified shards."""
    rows = VerifiedRows(folder, tokens.shards("validation"), tokens.width, tokens.vocabulary)
    numbers = range(min(num_rows, len(rows)))
    rows.check(numbers)
    return np.stack([rows[number] for number in numbers])


def sum_nats(
    world: "World", name: str, spec: ModelSpec, checkpoints: list[Path], rows: NDArray[np.int64], micro_batch: int
) -> list[float]:
    """Sum the nats of each checkpoint; process r measures the checkpoints r, r + size ..."""
    import torch

    from trainer.model import Decoder, load_tensors

    model = Decoder(spec).to(world.device)
    share = -(-len(checkpoints) // world.size)
    mine = [math.nan] * share
    with progress(f"evaluate {name}", len(checkpoints), "checkpoints", quiet=world.rank != 0) as advance:
        for turn, checkpoint in enumerate(checkpoints[world.rank :: world.size]):
            weights: Any = ck.read_verified(checkpoint, ck.WEIGHTS)
            load_tensors(model, weights)
            with torch.no_grad():
                parts = [rows[i : i + micro_batch] for i in range(0, len(rows), micro_batch)]
                batches = [torch.from_numpy(part).to(world.device) for part in parts]
                mine[turn] = math.fsum(float(model.loss(batch)) * batch[:, 1:].numel() for batch in batches)
            advance(world.size)
    gathered = world.gather_floats(mine)
    return [gathered[i % world.size * share + i // world.size] for i in range(len(checkpoints))]


def result_of(checkpoint: Path, nats: float, num_targets: int, num_bytes: int) -> Result:
    record = ck.read_record(checkpoint)
    if not math.isfinite(nats):
        raise EverystepError(
            f"{checkpoint}: its validation loss is {nats / num_targets}: {record.model} had diverged at step "
            f"{record.step}, though the training loss was still finite; a lower schedule.peak in "
            f"{RECIPES}/{record.model}.yaml helps most"
        )
    return Result(
        revision=record.revision,
        step=record.step,
        tokens=record.tokens,
        loss=nats / num_targets,
        bits_per_byte=nats / LN_2 / num_bytes,
    )
