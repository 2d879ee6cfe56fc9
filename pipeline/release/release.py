"""A release, or a project that has built something, opened for reading.

Every file that it hands out was compared with what the release promises, once.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import read_small, safe_join
from pipeline.base.paths import PARAMS, RUNS
from pipeline.base.suggest import did_you_mean
from pipeline.base.yaml import load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.canonical import Json, parse
from pipeline.formats.index_groups import Window
from pipeline.formats.manifests import Checkpoint, Fetched, M, Trained, parse_manifest, path_of
from pipeline.formats.model import ModelSpec
from pipeline.formats.release import ROOT, SUMS, ListedFile, content_digest, parse_root, release_root
from pipeline.release import rebuilt
from pipeline.release.code import refuse_foreign_code
from pipeline.release.mirror import Mirror, mirror_of
from pipeline.release.project import promised_by
from pipeline.release.rungs import UNVOUCHED, Rung, pinned_root, require_root, voucher
from pipeline.stores.address import is_remote, open_store
from pipeline.stores.store import Store

LISTED = 20
"""Steps that an error lists at most."""
Weights = dict[str, NDArray[np.float32]]


class Release:
    """A release, or a project that has built something, opened for reading."""

    def __init__(
        self,
        folder: Path,
        name: str,
        version: str | None,
        files: Mapping[str, ListedFile],
        follow_links: bool = False,
        mirror: Mirror | None = None,
        pinned: bool = False,
    ) -> None:
        self.folder = folder
        """Where it is, or where its files come to; `file` is the way to what it holds."""
        self.mirror = mirror
        """What brings its files here; null if it is a folder of this machine."""
        self.name = name
        self.version = version
        """Null for a project."""
        self.files = files
        """Every file that is promised, by its path."""
        self.follow_links = follow_links
        self.pinned = pinned
        """Whether the reader named the SHA-256 of the root manifest."""
        self._verified: set[str] = set()
        self._manifests: dict[Path, Any] = {}

    @classmethod
    def open(cls, address: str | Path, follow_links: bool = False) -> Self:
        """The release at an address (`pipeline.stores.address`); in a folder without one, the project there, as its own
        manifests promise it. An address may end with the SHA-256 of the root manifest (`pipeline.release.rungs`)."""
        place, sha256 = pinned_root(address)
        if is_remote(place):
            return cls.mirrored(open_store(place), sha256)
        folder = Path(place.removeprefix("file://"))
        if (folder / ROOT).exists() or (folder / ROOT).is_symlink():
            content = release_root(folder, follow_links)
            require_root(content, sha256, place)
            root = parse_root(content, folder / ROOT)
            return cls(folder, root.name, root.version, root.files, follow_links, pinned=sha256 is not None)
        if sha256 is not None:
            raise EverystepError(f"{place}: has no {ROOT}, so it cannot have the SHA-256 {sha256}")
        return cls(folder, folder.resolve().name, None, promised_by(folder, follow_links), follow_links)

    @classmethod
    def mirrored(cls, store: Store, sha256: str | None = None) -> Self:
        """The release in a store. Its files come to this machine when they are asked for. `sha256` is that of its root
        manifest, if the reader named it."""
        mirror = mirror_of(store)
        require_root(mirror.root, sha256, store.address)
        root = parse_root(mirror.root, mirror.folder / ROOT)
        return cls(mirror.folder, root.name, root.version, root.files, mirror=mirror, pinned=sha256 is not None)

    @property
    def address(self) -> str:
        """Where it is, for a person."""
        return self.mirror.store.address if self.mirror else str(self.folder)

    def standing(self, rung: Rung) -> str:
        """On which rung an answer from this release stands, and who vouches for the root manifest, in one line."""
        if self.version is None:
            return f"{rung.title}: bytes that the manifests of this project promise"
        root = release_root(self.folder, self.follow_links)
        known = voucher(self.folder, root, self.pinned, self.mirror is None)
        return f"{rung.title}; {f'{ROOT} is vouched for by {known}' if known else UNVOUCHED}"

    def trust(self, paths: set[str]) -> None:
        """Take these files as verified: `verify` has just compared them."""
        self._verified |= paths

    def file(self, path: str | Path) -> Path:
        """The local path of one file, after its content was found to be what is promised.

        Code is refused unless it is that of this installation, and a link unless links are followed.
        """
        name = _name(path)
        file = self.place(name)
        if name not in self._verified:
            if not self._is_promised(file, name):
                raise self._differs(file)
            refuse_foreign_code(name, self.files[name].digest)
            self._verified.add(name)
        return file

    def read(self, path: str | Path) -> bytes:
        """The bytes of a small file; what is returned is what was compared."""
        name = _name(path)
        file = self.place(name)
        content = read_small(file)
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != self.files[name].digest and self.mirror:
            self._is_promised(file, name)
            content = read_small(file)
            sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != self.files[name].digest:
            raise self._differs(file)
        refuse_foreign_code(name, sha256)
        return content

    @contextmanager
    def window(self, path: str | Path, size: int | None = None) -> Iterator[Window]:
        """One file for a reader who needs some of its bytes, and compares what it read itself. `size` in bytes, where
        it is promised: then no store is asked for it."""
        name = _name(path)
        if self.mirror and name in self.files and not (self.folder / name).is_file():
            with self.mirror.window(name, size) as window:
                yield window
        else:
            yield _Here(self.place(name))

    def manifest(self, kind: type[M], of: str | None = None) -> M:
        """The manifest of this kind, of a source or model where there is one for each."""
        path = path_of(kind, of)
        if path not in self._manifests:
            self._manifests[path] = parse_manifest(kind, self.read(path), self.folder / path)
        manifest: M = self._manifests[path]
        if manifest.path != path:
            raise Differs(f"{self.folder / path}: is the manifest of {manifest.of}")
        return manifest

    def names(self, kind: type[M]) -> list[str]:
        """The sources or models that have a manifest of this kind, sorted."""
        folder = f"{path_of(kind, 'any').parent.as_posix()}/"
        inside = [path.removeprefix(folder) for path in self.files if path.startswith(folder)]
        return sorted(path.removesuffix(".json") for path in inside if path.endswith(".json") and "/" not in path)

    def sources(self) -> list[str]:
        """Its sources, sorted."""
        return self.names(Fetched)

    def models(self) -> list[str]:
        """Its trained models, sorted."""
        return self.names(Trained)

    def model(self, name: str) -> Trained:
        """The manifest of a model; for an unknown name, the error lists those there are."""
        names = self.models()
        if not names:
            raise EverystepError(
                f"{self.folder}: neither a release nor a project that has trained a model (`dvc repro`)"
            )
        if name not in names:
            raise EverystepError(
                f"--model {name}: not in this release, which has {', '.join(names)}{did_you_mean(name, names)}"
            )
        return self.manifest(Trained, name)

    def params(self) -> dict[str, Any]:
        """Its `params.yaml`."""
        return load_yaml(self.file(PARAMS) if self.version is not None else self.folder / PARAMS)

    def states(self, model: str) -> dict[int, "Stored"]:
        """The stored states of a model by step, ascending."""
        trained = self.model(model)
        return {entry.step: Stored(self, model, entry) for entry in sorted(trained.checkpoints, key=lambda c: c.step)}

    def state(self, model: str, step: int) -> "State":
        """One state, stored or virtual; for an unknown step, the error says which there are."""
        return self.states_at(model, [step])[step]

    def states_at(self, model: str, steps: Iterable[int]) -> dict[int, "State"]:
        """Several states, stored or virtual, by step, in the given order; the log is read once at most."""
        stored, wanted = self.states(model), list(dict.fromkeys(steps))
        virtual = {step for step in wanted if step not in stored}
        for step in sorted(virtual):
            if not self.model(model).is_virtual(step):
                raise EverystepError(_unknown(self.model(model), step))
        path = RUNS / model / log.JSONL
        entries = {e.step: e for e in log.read(self.file(path)) if e.step in virtual} if virtual else {}
        for step in sorted(virtual):
            if step not in entries or entries[step].weights_digest is None:
                raise Differs(f"{self.folder / path}: has no digest of the weights at step {step}")
        return {
            step: stored[step]
            if step in stored
            else Virtual(self, model, entries[step], stored[max(other for other in stored if other < step)])
            for step in wanted
        }

    def sizes(self) -> dict[str, int] | None:
        """Bytes of each promised file that is there, the two lists included; null if its store cannot list."""
        names = (ROOT, SUMS, *self.files)
        if self.mirror:
            listed = self.mirror.store.list()
            return None if listed is None else {name: listed[name].bytes for name in names if name in listed}
        places = {name: safe_join(self.folder, name, self.follow_links) for name in names}
        return {name: place.stat().st_size for name, place in places.items() if place.is_file()}

    def _is_promised(self, file: Path, name: str) -> bool:
        """Compare a file with its promise. One that was damaged in the cache is fetched again."""
        promised = self.files[name]
        if self.mirror and name in self.mirror.brought:
            return True
        try:
            if content_digest(file, promised.kind) == promised.digest:
                return True
        except EverystepError:
            if not self.mirror:
                raise
        if self.mirror:
            self.mirror.drop(name)
            self.mirror.fetch(name, promised)
        return self.mirror is not None

    def place(self, path: str | Path) -> Path:
        """The local path of one file that a reader compares itself; `file` compares it."""
        name = _name(path)
        file = safe_join(self.folder, name, self.follow_links)
        if name not in self.files:
            raise EverystepError(f"{file}: the release does not hold this file")
        if self.mirror:
            return self.mirror.fetch(name, self.files[name])
        if not file.is_file():
            fix = "run `dvc pull` or `dvc repro`" if self.version is None else "fetch the release again"
            raise EverystepError(f"{file}: no such file, though it is promised; {fix}")
        return file

    def _differs(self, file: Path) -> Differs:
        promised = f"{ROOT} promises; fetch the release again"
        if self.version is None:
            promised = "the manifests of this project promise; run `dvc repro`"
        return Differs(f"{file}: its content is not what {promised}")


class _Here:
    """A window on a file that is on this machine as a whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size

    def need(self, start: int, stop: int) -> None:
        pass


class State(ABC):
    """A state of a model in a release, `Stored` or `Virtual`; every file of it was compared before it is handed out."""

    def __init__(self, release: Release, model: str, step: int, tokens: int) -> None:
        self.release = release
        self.model = model
        self.step = step
        self.tokens = tokens
        self.revision = ck.revision(step, tokens)

    @abstractmethod
    def file(self, name: str) -> Path:
        """The verified local path of one of its files."""

    @property
    @abstractmethod
    def record(self) -> ck.Record:
        """Its record."""

    @property
    @abstractmethod
    def entry(self) -> Checkpoint:
        """What the manifest of the model says of it, or would say."""

    @property
    @abstractmethod
    def config(self) -> Json:
        """The description of the model as JSON."""

    @cached_property
    def spec(self) -> ModelSpec:
        """The description of the model."""
        return ModelSpec.from_json(self.config, str(self.file(ck.CONFIG)))

    def weights(self) -> Weights:
        """The weights as float32; what was read is compared with the digest in the record."""
        tensors = ck.read_promised(self.file(ck.WEIGHTS), self.record.weights_digest)
        return {name: np.asarray(tensor, dtype=np.float32) for name, tensor in tensors.items()}


class Stored(State):
    """A state whose bytes are in the release."""

    def __init__(self, release: Release, model: str, entry: Checkpoint) -> None:
        super().__init__(release, model, entry.step, entry.tokens)
        if entry.revision != self.revision:
            where = release.folder / path_of(Trained, model)
            raise Differs(f"{where}: gives step {entry.step} the revision {entry.revision!r}")
        self._entry = entry
        self.folder = (RUNS / model / entry.revision).as_posix()
        """Its place in the release."""

    @property
    def entry(self) -> Checkpoint:
        """What the manifest of the model says of it."""
        return self._entry

    def file(self, name: str) -> Path:
        """The verified local path of one of its files."""
        return self.release.file(f"{self.folder}/{name}")

    @cached_property
    def record(self) -> ck.Record:
        """Its record, which says what the manifest of the model says."""
        path = f"{self.folder}/{ck.RECORD}"
        record = ck.parse_record(self.release.read(path), self.release.folder / path)
        if record.model != self.model or Checkpoint.of_record(record) != self.entry:
            raise Differs(
                f"{self.release.folder / self.folder}: holds {record.model} {record.revision}, or another state"
            )
        return record

    @cached_property
    def config(self) -> Json:
        """The description of the model as JSON."""
        path = f"{self.folder}/{ck.CONFIG}"
        return parse(self.release.read(path), str(self.release.folder / path))


class Virtual(State):
    """A state of which the release has the digest of the weights, in its log, and the stored state before it.

    Its bytes come back by replay (`trainer.rebuild`), into the cache of this user. Until they are there,
    `is_rebuilt` is false, and what needs them raises an error.
    """

    def __init__(self, release: Release, model: str, logged: log.Entry, nearest: Stored) -> None:
        super().__init__(release, model, logged.step, logged.tokens)
        self.logged = logged
        """Its line of the log."""
        self.nearest = nearest
        """The last stored state before it."""
        manifest = release.files[path_of(Trained, model).as_posix()].digest
        self.place = rebuilt.place(model, manifest, self.revision)
        """Where its bytes are, once it is rebuilt."""
        self.damage: Exception | None = None
        """What is wrong with the bytes in the cache, once `is_rebuilt` has found it."""
        self._proved: ck.Record | None = None

    def is_rebuilt(self) -> bool:
        """Whether its bytes are in the cache, and are the right ones: all of them are compared, once."""
        if self._proved is None and self.place.is_dir():
            try:
                self._proved = rebuilt.check(self.place, self.logged, self.nearest.record, self.config)
            except (EverystepError, OSError) as error:
                self.damage = error
        return self._proved is not None

    def file(self, name: str) -> Path:
        """The verified local path of one of its files."""
        self._require_rebuilt()
        return self.place / name

    @property
    def record(self) -> ck.Record:
        """Its record, as it was written when the state was rebuilt."""
        return self._require_rebuilt()

    @property
    def entry(self) -> Checkpoint:
        """What a manifest would say of it."""
        return Checkpoint.of_record(self.record)

    @property
    def config(self) -> Json:
        """The description of the model as JSON, that of every state of the model."""
        return self.release.model(self.model).model

    def _require_rebuilt(self) -> ck.Record:
        if not self.is_rebuilt() or self._proved is None:
            raise EverystepError(
                f"{self.place}: step {self.step} of {self.model} is virtual, and "
                f"{'is not rebuilt yet' if self.damage is None else f'what was rebuilt is damaged: {self.damage}'}; "
                f"`everystep pull --model {self.model} --step {self.step}` rebuilds it"
            )
        return self._proved


def _unknown(trained: Trained, step: int) -> str:
    """An error about a step that has no state: the nearest, the stored ones, and which are virtual."""
    known = trained.stored_steps
    near = [*[other for other in known if other < step][-1:], *[other for other in known if other > step][:1]]
    listed = known if len(known) <= LISTED else [*known[: LISTED // 2], "...", *known[-LISTED // 2 :]]
    every = trained.parameters.digest_every
    return (
        f"step {step}: no checkpoint of {trained.of} there; the nearest are {', '.join(map(str, near))}; "
        f"stored are {', '.join(map(str, listed))}; the others {'' if every == 1 else f'that {every} divides '}"
        f"up to {trained.parameters.schedule.steps} are virtual"
    )


def _name(path: str | Path) -> str:
    return path if isinstance(path, str) else path.as_posix()
