"""A checkpoint as one side of a comparison: a state of a release, or safetensors in a folder, here or elsewhere.

Of a state every byte is compared with its digest before it is used, and nothing is read where the digests of both sides
agree. Of a folder, which promises nothing, the numbers are what is compared; of one elsewhere only the headers move,
and of the tensors those that both sides have in one shape.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.import_model import ABOUT, restore
from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import read_small, safe_join
from pipeline.base.paths import cache_folder
from pipeline.compare.difference import Difference, differing
from pipeline.compare.tensors import AT_ONCE, Raw, TensorDifference, Tensors, compare_tensors
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, parse
from pipeline.formats.digests import DTYPES
from pipeline.formats.model import ModelSpec
from pipeline.formats.tensors import NUMPY_NAMES, TensorFile, TensorInfo
from pipeline.release.mirror import Window, fetch_small, window_on
from pipeline.release.release import State, Virtual
from pipeline.stores.store import Missing, Store

INDEX = "model.safetensors.index.json"
FIRST_BYTES = 1 << 14
"""What is read first of a file elsewhere: its header, unless it is longer."""
GAP = 1 << 20
"""Bytes that are brought along rather than asked around."""
TOLD = ("model", "step", "tokens", "applied_updates", "learning_rate", "loss", "numerics")
"""Keys of a record that are compared; the others are digests, or follow from these."""


class FarTensors(Tensors, Protocol):
    """Tensors that may be elsewhere."""

    def bring(self, names: Collection[str]) -> None:
        """Bring these here, so that they can be read."""


class CheckpointSide(ABC):
    """One checkpoint."""

    def __init__(self, title: str) -> None:
        self.title = title

    @property
    def weights_digest(self) -> str | None:
        """The digest of its weights that a release promises."""
        return None

    @property
    def moments_digest(self) -> str | None:
        """The same of its moments."""
        return None

    @property
    def about(self) -> Mapping[str, Json]:
        """What is said of it: its config, and of its record what `TOLD` lists."""
        return {}

    @property
    def is_own_form(self) -> bool:
        """Whether its tensors have the names of our trainer."""
        return False

    @contextmanager
    def weights(self, own_form: bool) -> Iterator[FarTensors]:
        """Its weights; with `own_form`, under the names of our trainer, if they can be brought into that form."""
        with self._opened(self.weight_files()) as tensors:
            yield tensors

    @contextmanager
    def moments(self) -> Iterator[FarTensors | None]:
        """The moments of its optimizer, if it has them."""
        yield None

    @abstractmethod
    def weight_files(self) -> list[str]:
        """The files that hold its weights."""

    @abstractmethod
    def _open(self, name: str, closing: ExitStack) -> "_File":
        """One of its files."""

    @contextmanager
    def _opened(self, names: Sequence[str]) -> Iterator[FarTensors]:
        with ExitStack() as closing:
            yield _Files([self._open(name, closing) for name in names])


class StateSide(CheckpointSide):
    """A state of a release; a virtual one has to be rebuilt before."""

    def __init__(self, address: str, state: State) -> None:
        super().__init__(f"{state.model} {state.revision} of {address}")
        self.state = state

    @property
    def weights_digest(self) -> str | None:
        if isinstance(self.state, Virtual):
            return self.state.logged.weights_digest
        return self.state.entry.weights_digest

    @property
    def moments_digest(self) -> str | None:
        return self.state.record.optimizer_digest

    @property
    def about(self) -> Mapping[str, Json]:
        return {"config": self.state.config, **_told(self.state.record.to_json())}

    @property
    def is_own_form(self) -> bool:
        return True

    @contextmanager
    def moments(self) -> Iterator[FarTensors | None]:
        with self._opened([ck.OPTIMIZER]) as tensors:
            yield tensors

    def weight_files(self) -> list[str]:
        return [ck.WEIGHTS]

    def _open(self, name: str, closing: ExitStack) -> "_File":
        return _File(closing.enter_context(TensorFile(self.state.file(name))))


class FilesSide(CheckpointSide):
    """A folder with safetensors of whatever origin, in one of three forms: the trainer's own (with a `record.json`),
    the one that `pull` and `publish` write (with an `everystep.json`), or that of others."""

    @property
    def about(self) -> Mapping[str, Json]:
        config = self.json(ck.CONFIG)
        said = self.json(ABOUT) or self.json(ck.RECORD) or {}
        return _told(said) | ({} if config is None else {"config": config})

    @property
    def is_own_form(self) -> bool:
        return self.json(ABOUT) is None and self.json(ck.RECORD) is not None

    @contextmanager
    def weights(self, own_form: bool) -> Iterator[FarTensors]:
        about = (self.json(ABOUT) or {}) if own_form else {}
        with self._opened(self.weight_files()) as tensors:
            if "description" in about:
                spec = ModelSpec.from_json(about["description"], f"{self.title}/{ABOUT}: description")
                tensors.bring(tensors.entries)
                yield _Arrays(restore(spec, {name: _array(tensors, name) for name in tensors.entries}))
            else:
                yield tensors

    @abstractmethod
    def json(self, name: str) -> Json:
        """A small file of the folder as an object; null if there is none."""


class FolderSide(FilesSide):
    """A folder of this machine, or a single file; links are followed."""

    def __init__(self, folder: Path, file: str | None = None) -> None:
        super().__init__(str(folder / file if file else folder))
        self._folder, self._file = folder, file

    @contextmanager
    def moments(self) -> Iterator[FarTensors | None]:
        if self._file or not (self._folder / ck.OPTIMIZER).is_file():
            yield None
            return
        with self._opened([ck.OPTIMIZER]) as tensors:
            yield tensors

    def weight_files(self) -> list[str]:
        if self._file:
            return [self._file]
        names = sorted(path.name for path in self._folder.iterdir() if path.suffix == ".safetensors")
        return weight_files(self.json(INDEX), names, str(self._folder))

    def json(self, name: str) -> Json:
        path = self._folder / name
        return _object(read_small(path), str(path)) if path.is_file() and not self._file else None

    def _open(self, name: str, closing: ExitStack) -> "_File":
        path = safe_join(self._folder, name, follow_links=True)
        return _File(closing.enter_context(TensorFile(path, any_dtype=True)))


class StoreSide(FilesSide):
    """A folder in a store."""

    def __init__(self, store: Store) -> None:
        super().__init__(store.address)
        self._store = store
        self._listed = store.list()
        self._trees: dict[str, Json] = {}

    @property
    def sha256(self) -> dict[str, str] | None:
        """File of weights → its SHA-256 as the store says it; null if it does not say all."""
        listed = {name: (self._listed or {}).get(name) for name in self.weight_files()}
        known = {name: file.sha256 for name, file in listed.items() if file and file.sha256}
        return known if known.keys() == listed.keys() else None

    def weight_files(self) -> list[str]:
        listed = [ck.WEIGHTS] if self._listed is None else sorted(self._listed)
        names = [name for name in listed if name.endswith(".safetensors") and "/" not in name]
        return weight_files(self.json(INDEX), names, self.title)

    def json(self, name: str) -> Json:
        if name not in self._trees:
            self._trees[name] = self._fetched(name)
        return self._trees[name]

    def _fetched(self, name: str) -> Json:
        if self._listed is not None and name not in self._listed:
            return None
        try:
            content = fetch_small(self._store, name)
        except Missing:
            return None
        return _object(content, f"{self._store.address}/{name}")

    def _open(self, name: str, closing: ExitStack) -> "_File":
        window = closing.enter_context(window_on(self._store, name, cache_folder()))
        window.need(0, min(FIRST_BYTES, window.size))
        with window.path.open("rb") as file:
            header = 8 + int.from_bytes(file.read(8), "little")
        if FIRST_BYTES < header <= window.size:
            window.need(FIRST_BYTES, header)
        return _FarFile(window, closing)


def weight_files(index: Json, names: Sequence[str], where: str) -> list[str]:
    """The files with the weights of a folder that has these files in safetensors, and perhaps an index of tensors."""
    if index is not None:
        listed = index.get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
            raise EverystepError(f"{where}/{INDEX}: weight_map: expected tensors with the names of their files")
        return sorted({safe_join(Path(), name).as_posix() for name in listed.values()})
    own = [name for name in names if name != ck.OPTIMIZER]
    if ck.WEIGHTS in own:
        return [ck.WEIGHTS]
    if len(own) != 1:
        found = f"several, without {INDEX}: {', '.join(own[:5])}" if own else "none; files to unpickle are not read"
        raise EverystepError(f"{where}: weights in safetensors are expected, found {found}")
    return own


@dataclass
class CheckpointComparison:
    """What differs between two checkpoints."""

    keys: list[Difference] = field(default_factory=list)
    """Keys of config and record."""
    tensors: list[TensorDifference] = field(default_factory=list)
    """Weights that differ."""
    moments: list[TensorDifference] = field(default_factory=list)
    """Moments that differ, if they were compared one by one."""
    notes: list[str] = field(default_factory=list)
    """What was not compared."""
    num_tensors: int | None = None
    """Tensors of A that were looked at; null if the digests were enough."""
    why_unread: str = ""
    """Why they were enough."""
    other_moments: bool = False
    """Whether the digests of the moments differ."""


def compare_checkpoints(a: CheckpointSide, b: CheckpointSide, with_moments: bool = False) -> CheckpointComparison:
    """Compare two checkpoints; the moments tensor by tensor only if it is asked for."""
    found = CheckpointComparison()
    _compare_about(a, b, found)
    if a.weights_digest and a.weights_digest == b.weights_digest:
        found.why_unread = "the weights have one digest, and were not read"
    elif isinstance(a, StoreSide) and isinstance(b, StoreSide) and a.sha256 and a.sha256 == b.sha256:
        found.why_unread = "the files of weights have one SHA-256, as both stores say, and were not read"
    else:
        own = a.is_own_form or b.is_own_form
        with a.weights(own) as left, b.weights(own) as right:
            found.num_tensors = len(left.entries)
            found.tensors = _compared(left, right)
    _compare_moments(a, b, found, with_moments)
    return found


def _compare_about(a: CheckpointSide, b: CheckpointSide, found: CheckpointComparison) -> None:
    said = dict(a.about), dict(b.about)
    if a.is_own_form != b.is_own_form:  # a config in the form of the Hub says the same in other words
        for about in said:
            about.pop("config", None)
    common = said[0].keys() & said[1].keys()
    left, right = ({key: value for key, value in about.items() if key in common} for about in said)
    found.keys = list(differing("key", left, right))
    if "config" not in common:
        found.notes.append("configs were not compared: one side has none in the form of the other")


def _compare_moments(a: CheckpointSide, b: CheckpointSide, found: CheckpointComparison, one_by_one: bool) -> None:
    digests = a.moments_digest, b.moments_digest
    if None not in digests:
        found.other_moments = digests[0] != digests[1]
        if not found.other_moments or not one_by_one:
            return
    if not one_by_one:
        return
    with a.moments() as left, b.moments() as right:
        if left is None or right is None:
            found.notes.append("moments were not compared: one side has none")
            return
        found.moments = _compared(left, right)
        found.other_moments = bool(found.moments)


def _compared(left: FarTensors, right: FarTensors) -> list[TensorDifference]:
    common = left.entries.keys() & right.entries.keys()
    alike = {name for name in common if left.entries[name].shape == right.entries[name].shape}
    for side in (left, right):
        side.bring(alike)
    total = sum(left.entries[name].end - left.entries[name].begin for name in alike)
    with progress("compare", total, "bytes", quiet=total < 1 << 28) as advance:
        return list(compare_tensors(left, right, advance))


def _told(record: Mapping[str, Any]) -> dict[str, Json]:
    return {key: record[key] for key in TOLD if key in record}


def _object(content: bytes, where: str) -> Json:
    tree = parse(content, where)
    if not isinstance(tree, dict):
        raise EverystepError(f"{where}: not a JSON object")
    return tree


class _File:
    """Tensors of one file of this machine."""

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        self.entries = file.entries

    def bring(self, names: Collection[str]) -> None:
        pass

    def pieces(self, name: str, numbers: int) -> Iterator[Raw]:
        yield from self._file.pieces(name, numbers)


class _FarFile(_File):
    """Tensors of a file elsewhere, whose header is here."""

    def __init__(self, window: Window, closing: ExitStack) -> None:
        super().__init__(closing.enter_context(TensorFile(window.path, any_dtype=True)))
        self._window, self._closing = window, closing

    def bring(self, names: Collection[str]) -> None:
        """Ask for as few ranges as the tensors leave, and open the file again: what was read of it ahead is old."""
        places = sorted((entry.begin, entry.end) for name, entry in self.entries.items() if name in names)
        while places:
            begin, end = places.pop(0)
            while places and places[0][0] <= end + GAP:
                end = max(end, places.pop(0)[1])
            self._window.need(begin, end)
        self._file = self._closing.enter_context(TensorFile(self._window.path, any_dtype=True))


class _Files:
    """Tensors of several files."""

    def __init__(self, files: Sequence[_File]) -> None:
        self._files = files
        self._holders = {name: file for file in files for name in file.entries}
        self.entries: Mapping[str, TensorInfo] = {name: file.entries[name] for name, file in self._holders.items()}

    def bring(self, names: Collection[str]) -> None:
        for file in self._files:
            file.bring(names)

    def pieces(self, name: str, numbers: int) -> Iterator[Raw]:
        yield from self._holders[name].pieces(name, numbers)


def _array(tensors: FarTensors, name: str) -> NDArray[np.generic]:
    """A tensor in memory, of a dtype that has a digest."""
    entry = tensors.entries[name]
    if entry.dtype not in NUMPY_NAMES:
        raise EverystepError(f"{name}: {entry.dtype}; what `everystep pull` writes is in {', '.join(NUMPY_NAMES)}")
    content = b"".join(piece.tobytes() for piece in tensors.pieces(name, AT_ONCE))
    return np.frombuffer(content, np.dtype(NUMPY_NAMES[entry.dtype]).newbyteorder("<")).reshape(entry.shape)


class _Arrays:
    """Tensors in memory."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self.entries: Mapping[str, TensorInfo] = {
            name: TensorInfo(DTYPES[array.dtype.name], array.shape, 0, array.nbytes) for name, array in arrays.items()
        }

    def bring(self, names: Collection[str]) -> None:
        pass

    def pieces(self, name: str, numbers: int) -> Iterator[Raw]:
        flat = np.ascontiguousarray(self._arrays[name]).reshape(-1)
        for start in range(0, flat.size, numbers):
            yield flat[start : start + numbers].view(np.uint8)
