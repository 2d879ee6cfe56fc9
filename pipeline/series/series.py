"""The nouns: a file as a place describes it, a checkpoint, a series of them, and all that is at one address."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from pipeline.series.names import family

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".npz", ".h5", ".msgpack", ".gguf", ".distcp")
NOT_WEIGHTS = ("optim", "training_args", "scheduler", "rng_state", "random_state", "scaler", "trainer_state")
IDENTITY = ("sha256:", "git:", "md5:", "tensors-v1:")
"""Digests of content: files whose digests differ are different. An `etag:` only says that equal ones are equal."""


class File(NamedTuple):
    """A file as its place describes it, unread."""

    bytes: int | None
    digest: str | None
    """Kind and value: a digest of the content (`IDENTITY`), or `etag:` and what an object store calls it."""


@dataclass(frozen=True)
class Checkpoint:
    """What is published under one name."""

    name: str
    """A branch of the Hub, else a path below the address: unique there."""
    step: int | None
    """Null for `main`."""
    files: Mapping[str, File]
    """By path, relative to the checkpoint."""
    tokens: float | None = None
    """As its name says."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """What its own record says, if it has one that we know: `applied_updates`, `state_digest`, `parent`."""
    is_listed: bool = True
    """Whether all its files are known."""

    def weights(self) -> dict[str, dict[str, File]]:
        """Its files of weights, by the family of their shards."""
        found: dict[str, dict[str, File]] = {}
        for path, file in sorted(self.files.items()):
            if is_weights(path):
                found.setdefault(family(path), {})[path] = file
        return found


@dataclass(frozen=True)
class Series:
    """Checkpoints of one training, ascending by step."""

    title: str
    """What their names have in common, `#` for the numbers."""
    checkpoints: tuple[Checkpoint, ...]

    @property
    def steps(self) -> list[int]:
        return sorted({checkpoint.step for checkpoint in self.checkpoints if checkpoint.step is not None})


class Unseen(NamedTuple):
    """Something that could not be looked at, and is therefore not cleared."""

    name: str
    why: str
    is_gone: bool
    """Whether the answer was that there is nothing: 404 or 410."""


class Place(Protocol):
    """Where checkpoints are."""

    def read(self, name: str, path: str, start: int, stop: int | None) -> bytes:
        """Bytes of one file of a checkpoint; `Missing` if there is none, another `EverystepError` if it is refused."""

    def command(self, name: str, path: str) -> str:
        """A shell command by which anybody sees which bytes are there."""


@dataclass(frozen=True)
class Collection:
    """All that is at one address."""

    address: str
    place: Place
    series: tuple[Series, ...]
    main: Checkpoint | None = None
    """What is served to those who name no revision."""
    unseen: tuple[Unseen, ...] = ()
    limits: tuple[str, ...] = ()
    """What was not compared, and why."""

    def checkpoints(self) -> Iterator[Checkpoint]:
        for series in self.series:
            yield from series.checkpoints

    def longest(self) -> Series:
        """The series with the most checkpoints: `main` is compared with it."""
        return max(self.series, key=lambda series: len(series.checkpoints))


def is_weights(path: str) -> bool:
    """Whether a file holds weights, by its name."""
    name = path.rpartition("/")[2].lower()
    return name.endswith(WEIGHTS) and not any(part in name for part in NOT_WEIGHTS)


def into_series(checkpoints: Mapping[str, list[Checkpoint]]) -> tuple[Series, ...]:
    """Sort the checkpoints of each template into a series, in the order of the templates."""
    return tuple(
        Series(title, tuple(sorted(found, key=lambda one: (one.step or 0, one.name))))
        for title, found in sorted(checkpoints.items())
    )
