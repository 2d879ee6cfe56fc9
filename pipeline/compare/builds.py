"""A build as one side of a comparison: a release at any address, a project, or a `dvc.lock` alone.

What is asked for is read when it is asked for, and every manifest of a release is compared with its digest. Manifests
are taken as trees, not as models, so that releases whose manifests have other versions can still be compared.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files, read_small, safe_join, sha256_file
from pipeline.base.paths import MANIFESTS, PARAMS
from pipeline.base.yaml import load_yaml
from pipeline.compare.difference import Findings
from pipeline.formats.canonical import Json, parse
from pipeline.formats.stages import BY_NAME, manifest_path
from pipeline.release.release import Release

LOCK, PINS, CODE = "dvc.lock", "constraints.txt", manifest_path("code").as_posix()
NOT_IN_RELEASES, NOT_IN_PROJECTS = ("release",), ("coverage",)
"""Stages whose manifests a release, and a project, do not have. The lock of a release lacks that stage too."""
OF_MANIFESTS = {stage.manifest: stage.name for stage in BY_NAME.values()}
ORDER = ("code", "parent", "rows", *(name for name in BY_NAME if name not in ("code", "parent", "rows")))
"""The stages in the order of the pipeline."""


def stage_of(path: str) -> str | None:
    """The stage that writes a manifest, as `dvc.lock` names it: `filter@plays` for `manifests/filtered/plays.json`."""
    parts = path.removeprefix(f"{MANIFESTS}/").removesuffix(".json").split("/")
    name = OF_MANIFESTS.get(parts[0])
    if name is None or len(parts) > 2 or (BY_NAME[name].per == "release") != (len(parts) == 1):
        return None
    return "@".join([name, *parts[1:]])


def place_of(stage: str) -> tuple[int, str]:
    """The place of a stage of `dvc.lock` in the pipeline: causes before effects, what we do not know last."""
    name = stage.partition("@")[0]
    return ORDER.index(name) if name in ORDER else len(ORDER), stage


class Build:
    """What a pipeline built, or the lock that says so."""

    def __init__(self, address: str, title: str) -> None:
        self.address = address
        self.title = title
        self.manifests: Mapping[str, str] = {}
        """Path of each manifest → SHA-256 of its bytes."""

    @property
    def lacks(self) -> tuple[str, ...]:
        """Stages that a side of this kind never has."""
        return NOT_IN_PROJECTS

    @property
    def release(self) -> Release:
        """What opens its files."""
        raise EverystepError(f"{self.address}: a lock alone has no files")

    @property
    def lock(self) -> Mapping[str, Any]:
        """The entries of its lock by stage; none if it has no lock."""
        return {}

    @property
    def lock_sha256(self) -> str | None:
        """SHA-256 of its lock."""
        return None

    def has(self, path: str) -> bool:
        """Whether it promises a file and, if it is a project, has it."""
        return False

    def file(self, path: str) -> Path | None:
        """One of its files, verified; null if it does not promise it, or is a project that has not brought it."""
        return None

    def read(self, path: str) -> bytes:
        """The bytes of a manifest, of `constraints.txt` or of another small file."""
        raise EverystepError(f"{self.address}: a lock alone has no {path}")

    def tree(self, path: str) -> Json:
        """A manifest; null if there is none, or if it is not a JSON object."""
        if path not in self.manifests:
            return None
        content = self.read(path)
        try:
            tree = parse(content, f"{self.address}/{path}")
        except EverystepError:
            return None
        return tree if isinstance(tree, dict) else None

    @cached_property
    def code(self) -> Mapping[str, Any]:
        """The manifest of the code; empty if there is none."""
        return self.tree(CODE) or {}

    def params(self) -> Mapping[str, Any]:
        """Its `params.yaml`; empty if there is none."""
        return {}


class LockBuild(Build):
    """A `dvc.lock` without what it locks."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), "a lock")
        self._path = path
        self._lock = read_lock(path)

    @property
    def lacks(self) -> tuple[str, ...]:
        return NOT_IN_PROJECTS if "release" in self.lock else (*NOT_IN_RELEASES, *NOT_IN_PROJECTS)

    @property
    def lock(self) -> Mapping[str, Any]:
        return self._lock

    @property
    def lock_sha256(self) -> str | None:
        return sha256_file(self._path)


class ReleaseBuild(Build):
    """A release."""

    def __init__(self, address: str, release: Release) -> None:
        super().__init__(address, f"the release {release.name} {release.version}")
        self._release = release
        self.manifests = {path: file.digest for path, file in release.files.items() if stage_of(path)}

    @property
    def lacks(self) -> tuple[str, ...]:
        return NOT_IN_RELEASES

    @property
    def release(self) -> Release:
        return self._release

    @cached_property
    def lock(self) -> Mapping[str, Any]:
        return _stages(parse(self._release.read(LOCK), LOCK), f"{self.address}/{LOCK}")

    @property
    def lock_sha256(self) -> str | None:
        return self._release.files[LOCK].digest if LOCK in self._release.files else None

    def has(self, path: str) -> bool:
        return path in self._release.files

    def file(self, path: str) -> Path | None:
        return self._release.file(path) if self.has(path) else None

    def read(self, path: str) -> bytes:
        return self._release.read(path)

    def params(self) -> Mapping[str, Any]:
        return self._release.params()


class ProjectBuild(Build):
    """A project that has built something."""

    def __init__(self, address: str, folder: Path, follow_links: bool = False) -> None:
        super().__init__(address, "a project")
        self._folder, self._follow_links = folder, follow_links
        paths = [f"{MANIFESTS}/{path}" for path in list_files(folder / MANIFESTS)]
        self.manifests = {path: sha256_file(self._place(path)) for path in paths}

    @cached_property
    def release(self) -> Release:
        return Release.open(self._folder, self._follow_links)

    @cached_property
    def lock(self) -> Mapping[str, Any]:
        return read_lock(self._folder / LOCK) if (self._folder / LOCK).is_file() else {}

    @property
    def lock_sha256(self) -> str | None:
        path = self._folder / LOCK
        return sha256_file(path) if path.is_file() else None

    def has(self, path: str) -> bool:
        return self._place(path).is_file() and path in self.release.files

    def file(self, path: str) -> Path | None:
        return self.release.file(path) if self.has(path) else None

    def read(self, path: str) -> bytes:
        return read_small(self._place(path))

    def params(self) -> Mapping[str, Any]:
        path = self._folder / PARAMS
        return load_yaml(path) if path.is_file() else {}

    def _place(self, path: str) -> Path:
        return safe_join(self._folder, path, self._follow_links)


def files_of_both(a: Build, b: Build, paths: Sequence[str], findings: Findings) -> list[tuple[Path, Path]]:
    """These files of both sides, verified; none, and a note, if a side lacks one."""
    found = []
    for path in paths:
        left, right = a.file(path), b.file(path)
        if left is None or right is None:
            lacking = a if left is None else b
            findings.notes.append(f"{lacking.address} has no {path}, so it was not compared")
            return []
        found.append((left, right))
    return found


def read_lock(path: Path) -> Mapping[str, Any]:
    """The entries of a `dvc.lock` by stage."""
    return _stages(load_yaml(path), str(path))


def _stages(tree: Json, where: str) -> Mapping[str, Any]:
    stages = tree.get("stages") if isinstance(tree, dict) else None
    if not isinstance(stages, dict) or not all(isinstance(entry, dict) for entry in stages.values()):
        raise EverystepError(f"{where}: not a lock of DVC: it has no mapping `stages`; run `dvc repro`")
    return stages
