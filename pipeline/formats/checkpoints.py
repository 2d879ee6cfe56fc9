"""Checkpoints: their names, their schedule and their files. No pickle anywhere.

A checkpoint is a folder `step{N}-tokens{M}` (step in at least six digits) with

    model.safetensors      the unique weights, fp32, each shared tensor once
    optimizer.safetensors  first and second moment of each weight
    config.json            the description of the model, generated from the instantiated model
    record.json            step, tokens, learning rate, applied updates, loss, digests, parent

A container is written in one canonical form (tensors in the order of their names, one metadata key), so
equal tensors give equal files; still, the digest of record is that of the tensors.
"""

import re
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import TEMPORARY_SUFFIX, atomic_writer, read_small, write_bytes
from pipeline.formats.bounds import MAX_CHECKPOINTS, MAX_STEPS
from pipeline.formats.canonical import Json, canonical, parse, pretty
from pipeline.formats.digests import dtype_name, little_endian, tensors_digest
from pipeline.formats.tensors import METADATA, TensorFile
from pipeline.formats.typed import Count, TensorsDigest, Typed

FORMAT: Literal["everystep/checkpoint/1"] = "everystep/checkpoint/1"
WEIGHTS, OPTIMIZER, CONFIG, RECORD = "model.safetensors", "optimizer.safetensors", "config.json", "record.json"
Tensors = Mapping[str, NDArray[np.generic]]


class Numerics(Typed):
    """Settings and libraries that decide the bits of a training, besides its data, code and recipe."""

    model_config = ConfigDict(protected_namespaces=())

    name: str = Field(alias="class")
    """Numerics class: `portable` or `native`."""
    capability: str
    """Instruction set that torch reports; in the class `native` with the model of the processor or GPU."""
    torch: str
    """Version of torch with its local build tag."""
    products: str
    """Libraries that compute matrix products, with their versions."""
    dtype: str
    """Number format of the computation."""
    compiled: bool
    """Whether torch compiled the model."""
    threads: Count
    """Threads of a process."""
    shards: Annotated[int, Field(ge=2)] = 1
    """Processes over which weights, gradients and moments were sharded; missing where each process had all weights."""


class Record(Typed):
    """Published facts about a state."""

    format: Literal["everystep/checkpoint/1"]
    """Version of this form."""
    model: str
    """Name of the model."""
    revision: str
    """Name of the checkpoint, from its step and tokens."""
    step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Updates so far."""
    tokens: Count
    """Tokens read so far."""
    applied_updates: Count
    """Updates that changed weights, so that a legitimate repeat can be told from a wrong upload."""
    learning_rate: float | None
    """Rate of the update that led here; null at step 0."""
    loss: float | None
    """Loss of its batch before the update; null at step 0."""
    weights_digest: TensorsDigest
    """Digest of the weights."""
    optimizer_digest: TensorsDigest
    """Digest of the optimizer's moments."""
    state_digest: TensorsDigest
    """Digest of weights, moments and step."""
    parent: TensorsDigest | None
    """State digest of the last stored state before it; null for the first."""
    storage: Literal["stored", "virtual"]
    """`stored`: one of the schedule, whose bytes were kept. `virtual`: rebuilt from one of these."""
    nearest_stored_step: Annotated[int, Field(ge=0, le=MAX_STEPS)]
    """Step of the last stored state at or before it."""
    digest_interval: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    """Steps from one digest of all weights in the log to the next."""
    numerics: Numerics
    """What decides its bits besides data, code and recipe."""

    @model_validator(mode="after")
    def _says_where_it_comes_from(self) -> Self:
        nearest, step = self.nearest_stored_step, self.step
        if nearest > step or (nearest == step) != (self.storage == "stored"):
            raise ValueError(f"nearest_stored_step {nearest} does not fit a {self.storage} state at step {step}")
        return self


def revision(step: int, tokens: int) -> str:
    """Name a checkpoint, such as `step000064-tokens131072`."""
    return f"step{step:06d}-tokens{tokens}"


def schedule(rule: str, num_steps: int) -> list[int]:
    """List the steps that are published, ascending, always with 0 and the last.

    `pythia N`: 0, 1, 2, 4 ... 512, then every N (Biderman et al. 2023, section 2.1). `every N`. `chunks K`: one after
    each of K equal parts of the data, as LLM360 publishes them.
    """
    parts = re.fullmatch(r"(pythia|every|chunks) ([1-9][0-9]{0,17})", rule)
    if not parts:
        raise EverystepError(f"checkpoints: {rule!r} is not a schedule; write `pythia N`, `every N` or `chunks K`")
    every, rest = divmod(num_steps, int(parts[2])) if parts[1] == "chunks" else (int(parts[2]), 0)
    if rest or not every:
        raise EverystepError(
            f"checkpoints: {rule!r} is not a schedule for {num_steps} steps: "
            f"they do not divide into {parts[2]} equal chunks"
        )
    if num_steps // every > MAX_CHECKPOINTS:
        raise EverystepError(
            f"checkpoints: {rule!r} publishes {num_steps // every} of {num_steps} steps; at most {MAX_CHECKPOINTS}"
        )
    steps = set(range(0, num_steps + 1, every)) | {0, num_steps}
    if parts[1] == "pythia":
        steps |= {2**i for i in range(10)}
    return sorted(step for step in steps if step <= num_steps)


def state_digest(weights: str, optimizer: str, step: int) -> str:
    """Digest a whole state: the two tensor digests and the step, by the same versioned rule."""
    parts = {"optimizer": optimizer, "step": str(step), "weights": weights}
    return tensors_digest({name: np.frombuffer(part.encode(), dtype=np.uint8) for name, part in parts.items()})


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file in canonical form."""
    with atomic_writer(path) as file:
        _write_canonical(file, tensors)


def read_tensors(path: Path) -> dict[str, NDArray[np.generic]]:
    """Read the tensors of a safetensors file; damage is an error that names the file."""
    with TensorFile(path) as file:
        return {name: file.read(name) for name in file.entries}


def is_canonical(path: Path) -> bool:
    """Tell whether a safetensors file has the bytes that `write_tensors` writes for its tensors."""
    with TensorFile(path) as tensors, path.open("rb") as file:
        entries = {name: (entry.dtype, entry.shape, entry.end - entry.begin) for name, entry in tensors.entries.items()}
        header = _header(entries)
        return file.read(len(header)) == header


def begin(final: Path) -> Path:
    """Make an empty scratch folder next to `final`; fill it, then `rename` it to `final`."""
    partial = final.with_name(f".{final.name}{TEMPORARY_SUFFIX}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def find_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """List (step, folder) of every complete checkpoint in `folder`, ascending."""
    found = [path for path in folder.glob("step*-tokens*") if (path / RECORD).is_file()]
    return sorted((read_record(path).step, path) for path in found)


def write_record(folder: Path, record: Record) -> None:
    write_bytes(folder / RECORD, pretty(record.to_json()))


def read_record(folder: Path) -> Record:
    """Read the record of a checkpoint, in exactly this version of the format."""
    path = folder / RECORD
    if not path.is_file():
        raise EverystepError(f"{path}: no such file; is {folder} a checkpoint?")
    return parse_record(read_small(path), path)


def parse_record(content: bytes, path: Path) -> Record:
    """Parse a record from `content`, the bytes of the file `path`."""
    tree = parse(content, path)
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise EverystepError(f"{path}: not a record of format {FORMAT}")
    return Record.from_json(tree, path)


def read_verified(folder: Path, name: str) -> dict[str, NDArray[np.generic]]:
    """Read weights or moments of a checkpoint, and compare their digest with the record's."""
    return read_promised(folder / name, promised_digest(read_record(folder), name))


def read_promised(path: Path, promised: str) -> dict[str, NDArray[np.generic]]:
    """Read the tensors of a file, whose digest must be `promised`."""
    tensors = read_tensors(path)
    require_promised(path, promised, tensors_digest(tensors))
    return tensors


def promised_digest(record: Record, name: str) -> str:
    """Return the digest that a record promises for its weights or moments."""
    return {WEIGHTS: record.weights_digest, OPTIMIZER: record.optimizer_digest}[name]


def require_promised(path: Path, promised: str, found: str) -> None:
    """Refuse tensors of a file whose digest is not that of the record."""
    if found != promised:
        raise Differs(f"{path}: the record promises {promised}, the tensors give {found}")


def _write_canonical(file: IO[bytes], tensors: Tensors) -> None:
    file.write(_header({name: (dtype_name(name, each), each.shape, each.nbytes) for name, each in tensors.items()}))
    for name in sorted(tensors):
        file.write(little_endian(tensors[name]))


def _header(tensors: Mapping[str, tuple[str, tuple[int, ...], int]]) -> bytes:
    """Write what comes before the bytes of tensors of these dtypes, shapes and sizes."""
    header: dict[str, Json] = {METADATA: {"format": "pt"}}
    offset = 0
    for name in sorted(tensors):
        dtype, shape, size = tensors[name]
        if name in header:
            raise EverystepError(f"tensor {name}: the safetensors format reserves this name")
        header[name] = {"data_offsets": [offset, offset + size], "dtype": dtype, "shape": list(shape)}
        offset += size
    encoded = canonical(header)
    encoded += b" " * (-len(encoded) % 8)
    return struct.pack("<Q", len(encoded)) + encoded
