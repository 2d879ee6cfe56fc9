"""What the trainer reads: rows in one of three layouts, checked before they are used, and who reads which when.

    everystep   our own rows and their manifest, in the published order (docs/formats.md, 6 and 8)
    llm360      chunks train_000.jsonl, train_001.jsonl ...; chunk after chunk, each in a keyed order of its own
    mobilellm   folders 1 to N of one .jsonl each, read by 8 ranks a folder as MobileLLM's trainer reads them

A layout is a list of files and one pure function, `row_numbers`; rows are numbered through the files in their order.
"""

import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.base.files import safe_join, sha256_file
from pipeline.formats.canonical import Json
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Tokens, read_manifest
from pipeline.formats.model import ModelSpec
from pipeline.formats.order import permute, rows_of_step
from pipeline.formats.rows import Row
from pipeline.formats.stages import manifest_path
from trainer.checked import PlainRows, check_rows, wait_for_rows
from trainer.recipe import Recipe
from trainer.vouched import VouchedRows

RANKS = 8
"""MobileLLM's loader deals the lines of a node to 8 ranks, however many there are."""


@dataclass(frozen=True, kw_only=True)
class TrainingData(ABC):
    """The rows of one run. Made by `training_data`."""

    folder: Path
    shards: tuple[Shard, ...]
    width: int
    vocabulary: int
    seed: int
    global_batch: int
    micro_batch: int

    @abstractmethod
    def row_numbers(self, step: int, number: int) -> NDArray[np.int64]:
        """Which rows micro-batch `number` of the step from state `step` to `step + 1` reads, in their order."""

    @abstractmethod
    def open(self) -> Sequence[Row]:
        """The rows by number."""

    def micro_batch_rows(self, rows: Sequence[Row], step: int, number: int) -> NDArray[np.int64]:
        """Rows of one micro-batch, shape (micro_batch, width)."""
        return np.stack([rows[row] for row in self.row_numbers(step, number).tolist()])

    def identity(self) -> Json:
        """What the fingerprint of a run holds of its data: the digest of every file."""
        return [shard.to_json() for shard in self.shards]

    def inputs(self) -> dict[str, str]:
        """Files that vouch for the rows, with their SHA-256, for the manifest of a run: here, the rows themselves."""
        return {(self.folder / shard.path).as_posix(): shard.sha256 for shard in self.shards}

    def counts(self) -> dict[str, Json]:
        """What the manifest of a run says of its rows."""
        return {}


@dataclass(frozen=True, kw_only=True)
class EverystepData(TrainingData):
    """Our rows: a step reads the next `global_batch` samples of the order, micro-batch after micro-batch.

    `memory` is the folder in which checked shards are remembered (`trainer.vouched`).
    """

    memory: Path | None = None

    def row_numbers(self, step: int, number: int) -> NDArray[np.int64]:
        return self._row_numbers(step)[number * self.micro_batch : (number + 1) * self.micro_batch]

    def micro_batch_rows(self, rows: Sequence[Row], step: int, number: int) -> NDArray[np.int64]:
        assert isinstance(rows, VouchedRows)
        rows.check(self.row_numbers(step, number).tolist())
        return super().micro_batch_rows(rows, step, number)

    def open(self) -> VouchedRows:
        return VouchedRows(self.folder, self.shards, self.width, self.vocabulary, self.memory)

    def shards_of_steps(self, start: int, stop: int) -> list[int]:
        """The shards that the steps from state `start` to state `stop` read, by their place in the list."""
        ends = np.cumsum([shard.lines for shard in self.shards])
        needed = np.zeros(len(self.shards), dtype=bool)
        for step in range(start, stop):
            needed[np.searchsorted(ends, self._row_numbers(step), side="right")] = True
            if needed.all():
                break
        return np.flatnonzero(needed).tolist()

    def _row_numbers(self, step: int) -> NDArray[np.int64]:
        return rows_of_step(step, self.global_batch, self._num_rows, self.seed)

    @cached_property
    def _num_rows(self) -> int:
        return sum(shard.lines for shard in self.shards)

    def inputs(self) -> dict[str, str]:
        path = manifest_path("tokenize")
        return {path.as_posix(): sha256_file(path)}


@dataclass(frozen=True, kw_only=True)
class PlainData(TrainingData):
    """Rows in plain files that others made."""

    cache: Path

    def open(self) -> PlainRows:
        return PlainRows(self.folder, self.shards, self.width, self.vocabulary, self.cache)


class Llm360Data(PlainData):
    """Chunk after chunk. Within chunk c (from 0) the order is the permutation of (seed, c): a function, where
    MobiLlama's depends on when the job was last restarted. Rows of a chunk that fill no step are dropped."""

    def row_numbers(self, step: int, number: int) -> NDArray[np.int64]:
        ends = list(accumulate(self.steps_of_chunks()))
        chunk = bisect_right(ends, step)
        if chunk == len(ends):
            raise EverystepError(f"{self.folder}: holds {ends[-1]} steps; there is no step {step}")
        num_rows = self.shards[chunk].lines
        first_step = ends[chunk - 1] if chunk else 0
        first = (step - first_step) * self.global_batch + number * self.micro_batch
        positions = np.arange(first, first + self.micro_batch, dtype=np.uint64)
        first_row = sum(shard.lines for shard in self.shards[:chunk])
        return first_row + permute(positions, num_rows, self.seed, chunk).astype(np.int64)

    def steps_of_chunks(self) -> list[int]:
        return [shard.lines // self.global_batch for shard in self.shards]

    def counts(self) -> dict[str, Json]:
        rows = sum(shard.lines for shard in self.shards)
        return {"rows": rows, "dropped_rows": rows - sum(self.steps_of_chunks()) * self.global_batch}


class MobilellmData(PlainData):
    """Line n of a folder is for rank n mod 8 of it. A rank takes its next `micro_batch` lines for each step, and begins
    again with its first one at the end of the file. Nothing is shuffled. Micro-batches are those of the ranks in order.
    """

    def row_numbers(self, step: int, number: int) -> NDArray[np.int64]:
        node, rank = divmod(number, RANKS)
        num_lines = len(range(rank, self.shards[node].lines, RANKS))
        turns = np.arange(step * self.micro_batch, (step + 1) * self.micro_batch, dtype=np.int64) % num_lines
        first_row = sum(shard.lines for shard in self.shards[:node])
        return first_row + rank + RANKS * turns


@dataclass(frozen=True, kw_only=True)
class Checking:
    """How rows are checked: what is known of them stands in `folder`, which is ours, never that of what is audited.

    `waits`: another process checks, and this one waits for what it finds. `parse` is for rows that nobody vouches for.
    """

    folder: Path
    waits: bool = False
    parse: bool = True


def training_data(root: Path, recipe: Recipe, spec: ModelSpec, checking: Checking) -> TrainingData:
    """The data a recipe declares, if it is the data that is there.

    Our own rows are checked when they are first read (`trainer.vouched`), those of others now (`trainer.checked`).
    """
    if recipe.data.layout == "everystep":
        return _everystep(root, recipe, spec, checking.folder)
    return {"llm360": _llm360, "mobilellm": _mobilellm}[recipe.data.layout](
        root / recipe.data.folder, recipe, spec, checking
    )


def _everystep(root: Path, recipe: Recipe, spec: ModelSpec, memory: Path) -> TrainingData:
    path = root / manifest_path("tokenize")
    manifest = read_manifest(Tokens, path)
    where = f"recipes/{recipe.name}.yaml"
    if manifest.width != recipe.data.width:
        raise EverystepError(
            f"{where}: data.width: {recipe.data.width} ids are declared, the rows of {path} have {manifest.width}"
        )
    if manifest.vocabulary > spec.vocabulary:
        raise EverystepError(
            f"{where}: model.vocabulary: {spec.vocabulary} is smaller than the tokenizer's {manifest.vocabulary}"
        )
    if manifest.parameters.seed != recipe.data.seed:
        raise EverystepError(
            f"{where}: data.seed: {recipe.data.seed} is not the seed of the published order, "
            f"{manifest.parameters.seed} (params.yaml: tokenize.seed)"
        )
    folder, shards = root / recipe.data.folder, manifest.shards("train")
    if missing := _missing(folder, shards):
        raise EverystepError(f"{folder / missing.path}: no such file; {path} lists it as a shard of rows")
    vocabulary = manifest.vocabulary
    return EverystepData(folder=folder, shards=tuple(shards), vocabulary=vocabulary, memory=memory, **_reading(recipe))


def _missing(folder: Path, shards: Sequence[Shard]) -> Shard | None:
    """The first shard that is not there. Each folder is listed once, and no file is looked at."""
    listed: dict[str, set[str]] = {}
    for shard in shards:
        parent, _, name = shard.path.rpartition("/")
        if parent not in listed:
            where = safe_join(folder, parent) if parent else folder
            listed[parent] = {path.name for path in where.iterdir()} if where.is_dir() else set()
        if name not in listed[parent]:
            return shard
    return None


def _llm360(folder: Path, recipe: Recipe, spec: ModelSpec, checking: Checking) -> TrainingData:
    chunks = _numbered(folder, r"train_([0-9]+)\.jsonl(\.[a-z0-9]+)?", first=0, example="train_000.jsonl")
    for chunk in chunks:
        if chunk.suffix != ".jsonl":
            raise EverystepError(f"{chunk}: rows are read by their place in a plain file; decompress it first")
    rule, _, number = recipe.checkpoints.partition(" ")
    where = f"recipes/{recipe.name}.yaml"
    if rule == "chunks" and int(number) != len(chunks):
        raise EverystepError(f"{where}: checkpoints: {recipe.checkpoints!r}, but {folder} holds {len(chunks)} chunks")
    found = _check(recipe, folder, [chunk.name for chunk in chunks], spec.vocabulary, checking)
    data = Llm360Data(
        folder=folder, shards=found, vocabulary=spec.vocabulary, cache=checking.folder, **_reading(recipe)
    )
    steps = recipe.schedule.steps
    for shard, in_chunk in zip(found, data.steps_of_chunks(), strict=True):
        if rule == "chunks" and in_chunk != steps // len(chunks):
            raise EverystepError(
                f"{where}: schedule.steps: {steps} steps over {len(chunks)} chunks are {steps // len(chunks)} a chunk, "
                f"but the {shard.lines} rows of {folder / shard.path} make {in_chunk} steps of {data.global_batch}"
            )
    if steps > sum(data.steps_of_chunks()):
        raise EverystepError(
            f"{where}: schedule.steps: {steps}, but the chunks in {folder} hold {sum(data.steps_of_chunks())} steps of "
            f"{recipe.data.global_batch} rows, and each chunk is read once"
        )
    return data


def _mobilellm(folder: Path, recipe: Recipe, spec: ModelSpec, checking: Checking) -> TrainingData:
    nodes = _numbered(folder, "([0-9]+)", first=1, example="1/, one folder for each node of 8 ranks")
    files = [_only_file(node) for node in nodes]
    ranks = RANKS * len(nodes)
    if recipe.data.global_batch != ranks * recipe.data.micro_batch:
        raise EverystepError(
            f"recipes/{recipe.name}.yaml: data.global_batch: {recipe.data.global_batch} is declared; "
            f"{len(nodes)} folders of {RANKS} ranks that read micro_batch = {recipe.data.micro_batch} rows each make "
            f"{ranks * recipe.data.micro_batch}"
        )
    names = [file.relative_to(folder).as_posix() for file in files]
    found = _check(recipe, folder, names, spec.vocabulary, checking)
    for shard in found:
        if shard.lines < RANKS:
            raise EverystepError(f"{folder / shard.path}: {shard.lines} rows; each of {RANKS} ranks needs one")
    return MobilellmData(
        folder=folder, shards=found, vocabulary=spec.vocabulary, cache=checking.folder, **_reading(recipe)
    )


def _reading(recipe: Recipe) -> dict[str, int]:
    data = recipe.data
    return {
        "width": data.width,
        "seed": data.seed,
        "global_batch": data.global_batch,
        "micro_batch": data.micro_batch,
    }


def _check(recipe: Recipe, folder: Path, names: list[str], vocabulary: int, checking: Checking) -> tuple[Shard, ...]:
    width, cache = recipe.data.width, checking.folder
    if checking.waits:
        return wait_for_rows(folder, names, width, vocabulary, cache)
    title = f"{recipe.name}: rows of {recipe.data.folder}"
    return check_rows(folder, names, width, vocabulary, cache, title, checking.parse)


def _numbered(folder: Path, pattern: str, first: int, example: str) -> list[Path]:
    """What lies in `folder` under a name with a number, in the order of the numbers, which run on from `first`."""
    if not folder.is_dir():
        raise EverystepError(f"{folder}: no such folder; data.folder of the recipe names it")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        parts = re.fullmatch(pattern, path.name)
        if not parts:
            continue
        number = int(parts[1])
        if number in found:
            raise EverystepError(f"{folder}: {found[number].name} and {path.name} have the same number; keep one")
        found[number] = path
    if not found:
        raise EverystepError(f"{folder}: holds none of the layout's files; the first is {example}")
    for number in range(first, first + len(found)):
        if number not in found:
            raise EverystepError(
                f"{folder}: number {number} is missing; there are {', '.join(map(str, sorted(found)))}"
            )
    return [found[number] for number in sorted(found)]


def _only_file(node: Path) -> Path:
    """MobileLLM's loader takes the first of an unsorted listing; which one that is, nobody can say."""
    found = sorted(node.glob("*.jsonl"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise EverystepError(f"{node}: exactly one .jsonl file belongs in it, found {names}")
    return found[0]
