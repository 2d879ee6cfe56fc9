"""Training data: rows in three layouts, checked before they are used, and which step reads which row.

    everystep   our own rows and their manifest, in the published order (docs/formats.md, 6 and 8)
    llm360      chunks train_000.jsonl, train_001.jsonl ...; one after another, each in a keyed order of its own
    mobilellm   folders 1 to N with one .jsonl each, read by 8 ranks a folder, as MobileLLM's trainer does

A layout is a list of files and one pure function, `row_numbers`: (step, micro-batch) -> row numbers. Rows are numbered
through the files in their order.
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

from pipeline.base.console import note
from pipeline.base.errors import EverystepError
from pipeline.base.files import safe_join, sha256_file
from pipeline.formats.canonical import Json
from pipeline.formats.forgotten import Forgotten, read_forgotten
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Tokens, read_manifest
from pipeline.formats.model import ModelSpec
from pipeline.formats.order import first_sample, permute, rows_of_samples
from pipeline.formats.rows import Row
from pipeline.formats.stages import manifest_path
from trainer.plain_rows import PlainRows, check_rows, wait_for_rows
from trainer.recipe import DataSection, ParentSection, Recipe
from trainer.verified_rows import VerifiedRows

RANKS = 8
"""Ranks among which MobileLLM's loader deals the lines of a node, however many GPUs the node has."""


@dataclass(frozen=True, kw_only=True)
class TrainingData(ABC):
    """Rows of one run, made by `training_data`. `section` says how many are read at a time, and in which order;
    `parent`, if the training goes on from another one, where in that order it begins."""

    folder: Path
    shards: tuple[Shard, ...]
    vocabulary: int
    section: DataSection
    parent: ParentSection | None = None

    @abstractmethod
    def row_numbers(self, step: int, number: int) -> NDArray[np.int64]:
        """Number the rows that micro-batch `number` of the step from state `step` to `step + 1` reads, in order."""

    @abstractmethod
    def open(self) -> Sequence[Row]:
        """Open the rows, to be read by number."""

    def sample(self, step: int) -> int:
        """Number the first sample that the step from state `step` reads."""
        begun_at, begun_with = (self.parent.step, self.parent.first_sample) if self.parent else (0, 0)
        return first_sample(step, self.section.global_batch, begun_at, begun_with)

    def micro_batch_rows(self, rows: Sequence[Row], step: int, number: int) -> NDArray[np.int64]:
        """Read the rows of one micro-batch, shape (micro_batch, width)."""
        return np.stack([rows[row] for row in self.row_numbers(step, number).tolist()])

    def forgotten_ids(self, step: int, number: int) -> NDArray[np.bool_] | None:
        """Mark the forgotten ids of one micro-batch, shape (micro_batch, width); None if it has none."""
        return None

    def identity(self) -> Json:
        """Return what the fingerprint of a run covers of its data: the digest of every file."""
        return [shard.to_json() for shard in self.shards]

    def inputs(self) -> dict[str, str]:
        """Return the inputs that the manifest of a run names, with their SHA-256: here, the files of rows."""
        return {(self.folder / shard.path).as_posix(): shard.sha256 for shard in self.shards}

    def counts(self) -> dict[str, Json]:
        """Return what else the manifest of a run says about its rows."""
        return {}


@dataclass(frozen=True, kw_only=True)
class EverystepData(TrainingData):
    """Our own rows: a step reads the next `global_batch` samples of the order, one micro-batch after another.

    `memory` is the folder that remembers verified shards (`trainer.verified_rows`). `forgotten` are spans that the
    training does not see, whether or not they are still in the rows: `replace(data, forgotten=...)` is the data of the
    same training without them.
    """

    memory: Path | None = None
    forgotten: Forgotten | None = None

    def row_numbers(self, step: int, number: int) -> NDArray[np.int64]:
        first = self.sample(step) + number * self.section.micro_batch
        return rows_of_samples(first, first + self.section.micro_batch, self._num_rows, self.section.seed)

    def micro_batch_rows(self, rows: Sequence[Row], step: int, number: int) -> NDArray[np.int64]:
        assert isinstance(rows, VerifiedRows)
        rows.check(self.row_numbers(step, number).tolist())
        read = super().micro_batch_rows(rows, step, number)
        marks = self.forgotten_ids(step, number)
        if self.forgotten is not None and marks is not None:
            read[marks] = self.forgotten.filler
        return read

    def forgotten_ids(self, step: int, number: int) -> NDArray[np.bool_] | None:
        numbers = self.row_numbers(step, number)
        if self.forgotten is None or not self.forgotten.touches(numbers):
            return None
        return self.forgotten.marks(numbers.tolist(), self.section.width)

    def identity(self) -> Json:
        shards: Json = super().identity()
        return shards if self.forgotten is None else {"rows": shards, "forgotten": self.forgotten.identity()}

    def open(self) -> VerifiedRows:
        return VerifiedRows(self.folder, self.shards, self.section.width, self.vocabulary, self.memory)

    def shards_of_steps(self, start: int, stop: int) -> list[int]:
        """Return the indices of the shards that the steps from state `start` to state `stop` read."""
        ends = np.cumsum([shard.lines for shard in self.shards])
        needed = np.zeros(len(self.shards), dtype=bool)
        for step in range(start, stop):
            first, stop_at = self.sample(step), self.sample(step + 1)
            rows = rows_of_samples(first, stop_at, self._num_rows, self.section.seed)
            needed[np.searchsorted(ends, rows, side="right")] = True
            if needed.all():
                break
        return np.flatnonzero(needed).tolist()

    @cached_property
    def _num_rows(self) -> int:
        return sum(shard.lines for shard in self.shards)

    def inputs(self) -> dict[str, str]:
        path = manifest_path("tokenize")
        return {path.as_posix(): sha256_file(path)}


@dataclass(frozen=True, kw_only=True)
class PlainData(TrainingData):
    """Rows of others, in plain files."""

    cache: Path

    def turn(self, step: int) -> int:
        """Number the step from state `step` among those that the rows hold."""
        return self.sample(step) // self.section.global_batch

    def open(self) -> PlainRows:
        return PlainRows(self.folder, self.shards, self.section.width, self.vocabulary, self.cache)


class Llm360Data(PlainData):
    """Rows in chunks, read one after another. Within chunk c (from 0) the order is the permutation of (seed, c);
    MobiLlama's own order depends on when the job was last restarted. Rows of a chunk that fill no step are dropped."""

    def row_numbers(self, step: int, number: int) -> NDArray[np.int64]:
        step = self.turn(step)
        ends = list(accumulate(self.steps_of_chunks()))
        chunk = bisect_right(ends, step)
        if chunk == len(ends):
            raise EverystepError(f"{self.folder}: holds {ends[-1]} steps; there is no step {step}")
        num_rows = self.shards[chunk].lines
        first_step = ends[chunk - 1] if chunk else 0
        first = (step - first_step) * self.section.global_batch + number * self.section.micro_batch
        positions = np.arange(first, first + self.section.micro_batch, dtype=np.uint64)
        first_row = sum(shard.lines for shard in self.shards[:chunk])
        return first_row + permute(positions, num_rows, self.section.seed, chunk).astype(np.int64)

    def steps_of_chunks(self) -> list[int]:
        return [shard.lines // self.section.global_batch for shard in self.shards]

    def counts(self) -> dict[str, Json]:
        rows = sum(shard.lines for shard in self.shards)
        return {"rows": rows, "dropped_rows": rows - sum(self.steps_of_chunks()) * self.section.global_batch}


class MobilellmData(PlainData):
    """Rows in one file a node. Line n belongs to rank n mod 8 of its node. For each step a rank takes its next
    `micro_batch` lines, and starts over at the end of the file. Nothing is shuffled. The micro-batches of a step are
    those of the ranks, in order."""

    def row_numbers(self, step: int, number: int) -> NDArray[np.int64]:
        node, rank = divmod(number, RANKS)
        num_lines = len(range(rank, self.shards[node].lines, RANKS))
        first = self.turn(step) * self.section.micro_batch
        turns = np.arange(first, first + self.section.micro_batch, dtype=np.int64) % num_lines
        first_row = sum(shard.lines for shard in self.shards[:node])
        return first_row + rank + RANKS * turns


@dataclass(frozen=True, kw_only=True)
class Checking:
    """Instructions for checking rows. Results are kept in `folder`, which is ours, never part of what is audited.

    `waits`: another process checks, and this one waits for its results. `parse`: each line of others' rows is parsed,
    because no manifest promises its digest.
    """

    folder: Path
    waits: bool = False
    parse: bool = True


def training_data(root: Path, recipe: Recipe, spec: ModelSpec, checking: Checking) -> TrainingData:
    """Return the data that a recipe declares, once it is found to match the files that are there.

    Our own rows are verified when they are first read (`trainer.verified_rows`), those of others now
    (`trainer.plain_rows`).
    """
    if recipe.data.layout == "everystep":
        return _everystep(root, recipe, spec, checking.folder)
    data = {"llm360": _llm360, "mobilellm": _mobilellm}[recipe.data.layout](
        root / recipe.data.folder, recipe, spec, checking
    )
    if spec.end_token is not None and not checking.waits:
        _warn_if_nothing_ends(data, recipe, spec.end_token)
    return data


def _everystep(root: Path, recipe: Recipe, spec: ModelSpec, memory: Path) -> TrainingData:
    path = root / manifest_path("tokenize")
    data = own_rows(root, recipe, spec, read_manifest(Tokens, path), memory)
    if missing := _missing(data.folder, data.shards):
        raise EverystepError(f"{data.folder / missing.path}: no such file; {path} lists it as a shard of rows")
    return data


def own_rows(root: Path, recipe: Recipe, spec: ModelSpec, manifest: Tokens, memory: Path | None) -> EverystepData:
    """Return our own rows as `manifest` lists them, if it fits the recipe. No shard needs to be there yet."""
    path = root / manifest_path("tokenize")
    where = f"recipes/{recipe.name}.yaml"
    if manifest.width != recipe.data.width:
        raise EverystepError(
            f"{where}: data.width: {recipe.data.width} ids are declared, the rows of {path} have {manifest.width}"
        )
    if manifest.vocabulary > spec.vocabulary:
        raise EverystepError(
            f"{where}: model.vocabulary: {spec.vocabulary} is smaller than the tokenizer's {manifest.vocabulary}"
        )
    if spec.end_token not in (None, manifest.end_token):
        raise EverystepError(
            f"{where}: model.end_token: {spec.end_token} is declared; the tokenizer's is {manifest.end_token}"
        )
    folder = root / recipe.data.folder
    return EverystepData(
        folder=folder,
        shards=tuple(manifest.shards("train")),
        vocabulary=manifest.vocabulary,
        section=recipe.data,
        parent=recipe.parent,
        memory=memory,
        forgotten=read_forgotten(folder, manifest),
    )


def _warn_if_nothing_ends(data: TrainingData, recipe: Recipe, end_token: int) -> None:
    """Look for the end token in the first step's rows: no manifest of published rows says which id it is."""
    rows, numbers = data.open(), range(recipe.data.num_micro_batches)
    if not any((data.micro_batch_rows(rows, recipe.begun_at, number) == end_token).any() for number in numbers):
        note(
            f"note: recipes/{recipe.name}.yaml: model.end_token: no row of the first step has the id {end_token}, so "
            "attention is cut nowhere in it; look up which id ends a document in these rows"
        )


def _missing(folder: Path, shards: Sequence[Shard]) -> Shard | None:
    """Return the first shard whose file is missing. Each folder is listed once, and no file is opened."""
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
            raise EverystepError(f"{chunk}: rows are read by their offset in a plain file; decompress it first")
    rule, _, number = recipe.checkpoints.partition(" ")
    where = f"recipes/{recipe.name}.yaml"
    if rule == "chunks" and int(number) != len(chunks):
        raise EverystepError(f"{where}: checkpoints: {recipe.checkpoints!r}, but {folder} holds {len(chunks)} chunks")
    found = _check(recipe, folder, [chunk.name for chunk in chunks], spec.vocabulary, checking)
    data = Llm360Data(
        folder=folder,
        shards=found,
        vocabulary=spec.vocabulary,
        section=recipe.data,
        parent=recipe.parent,
        cache=checking.folder,
    )
    steps, global_batch = data.turn(recipe.schedule.steps), recipe.data.global_batch
    for shard, in_chunk in zip(found, data.steps_of_chunks(), strict=True):
        if rule == "chunks" and in_chunk != steps // len(chunks):
            raise EverystepError(
                f"{where}: schedule.steps: {steps} steps over {len(chunks)} chunks are {steps // len(chunks)} a chunk, "
                f"but the {shard.lines} rows of {folder / shard.path} make {in_chunk} steps of {global_batch}"
            )
    if steps > sum(data.steps_of_chunks()):
        raise EverystepError(
            f"{where}: schedule.steps: {steps}, but the chunks in {folder} hold {sum(data.steps_of_chunks())} steps of "
            f"{global_batch} rows, and each chunk is read once"
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
        folder=folder,
        shards=found,
        vocabulary=spec.vocabulary,
        section=recipe.data,
        parent=recipe.parent,
        cache=checking.folder,
    )


def _check(recipe: Recipe, folder: Path, names: list[str], vocabulary: int, checking: Checking) -> tuple[Shard, ...]:
    width, cache = recipe.data.width, checking.folder
    if checking.waits:
        return wait_for_rows(folder, names, width, vocabulary, cache)
    title = f"{recipe.name}: rows of {recipe.data.folder}"
    return check_rows(folder, names, width, vocabulary, cache, title, checking.parse)


def _numbered(folder: Path, pattern: str, first: int, example: str) -> list[Path]:
    """List what has a numbered name in `folder`, by number. The numbers must run from `first` without a gap."""
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
        raise EverystepError(f"{folder}: holds none of the layout's files; the first would be {example}")
    for number in range(first, first + len(found)):
        if number not in found:
            raise EverystepError(
                f"{folder}: number {number} is missing; there are {', '.join(map(str, sorted(found)))}"
            )
    return [found[number] for number in sorted(found)]


def _only_file(node: Path) -> Path:
    """Return the only .jsonl file of a node. Of several, MobileLLM's loader takes whichever is listed first."""
    found = sorted(node.glob("*.jsonl"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise EverystepError(f"{node}: exactly one .jsonl file belongs in it, found {names}")
    return found[0]
