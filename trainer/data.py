"""What the trainer eats: the rows of a folder in the published order, checked before the first step."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.formats.canonical import Json
from pipeline.formats.errors import EverystepError
from pipeline.formats.lines import Shard, check_shard
from pipeline.formats.manifests import manifest_path, read_manifest, shards_of
from pipeline.formats.order import rows_of_step
from pipeline.formats.rows import Rows
from trainer.description import ModelSpec
from trainer.recipe import Recipe


@dataclass(frozen=True)
class TrainingData:
    """The training rows below `folder`, and who reads which when."""

    folder: Path
    shards: list[Shard]
    width: int
    vocabulary: int
    seed: int
    global_batch: int
    micro_batch: int

    def open(self) -> Rows:
        return Rows(self.folder, self.shards, self.width, self.vocabulary)

    def check(self) -> None:
        """Digest every shard: rows that differ from the manifest are refused before training starts."""
        for shard in self.shards:
            check_shard(self.folder, shard)

    def micro_batch_rows(self, rows: Rows, step: int, number: int) -> NDArray[np.int64]:
        """Rows of one micro-batch of the step from state `step` to `step + 1`, shape (micro_batch, width)."""
        numbers = rows_of_step(step, self.global_batch, len(rows), self.seed)
        chosen = numbers[number * self.micro_batch : (number + 1) * self.micro_batch]
        return np.stack([rows[int(row)] for row in chosen])

    def identity(self) -> Json:
        """What the fingerprint of a run holds of its data."""
        return [shard.to_json() for shard in self.shards]


def training_data(root: Path, recipe: Recipe, spec: ModelSpec) -> TrainingData:
    """The data a recipe declares, if it is the data that is there."""
    path = root / manifest_path("tokenize")
    manifest = read_manifest(path, "tokenize")
    where = f"recipes/{recipe.name}.yaml"
    if manifest["width"] != recipe.data.width:
        raise EverystepError(
            f"{where}: data.width: {recipe.data.width} ids are declared, the rows of {path} have {manifest['width']}"
        )
    if manifest["vocabulary"] > spec.vocabulary:
        raise EverystepError(
            f"{where}: model.vocabulary: {spec.vocabulary} is smaller than the tokenizer's {manifest['vocabulary']}"
        )
    if manifest["parameters"]["seed"] != recipe.data.seed:
        raise EverystepError(
            f"{where}: data.seed: {recipe.data.seed} is not the seed of the published order, "
            f"{manifest['parameters']['seed']} (params.yaml: tokenize.seed)"
        )
    return TrainingData(
        folder=root / recipe.data.folder,
        shards=shards_of(manifest, "train"),
        width=manifest["width"],
        vocabulary=manifest["vocabulary"],
        seed=recipe.data.seed,
        global_batch=recipe.data.global_batch,
        micro_batch=recipe.data.micro_batch,
    )
