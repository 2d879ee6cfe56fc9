"""A capsule: one folder with all that rebuilds a release when indexes and addresses are gone.

    capsule.json          every other file with its SHA-256, the commit, the Python and platform; written last
    thaw.py, README.md    what rebuilds it (`pipeline/build/thaw.py`), and how to start that
    code.bundle           the repository at the commit, with its history
    packages/             what `make setup` installs: the files of `requirements.lock`, and torch
    artefacts/SHA256/NAME what `fetch` and `evaluation_sets` brought from the network

It is made from a project that is built and committed, and appears whole or not at all.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.base.console import note, progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import atomic_writer, list_files, new_folder, sha256_file, write_bytes
from pipeline.base.paths import EVALUATION_SETS, MANIFESTS, PARAMS, RAW
from pipeline.base.yaml import load_yaml
from pipeline.build import thaw
from pipeline.build.git import git, try_git
from pipeline.build.install import pip
from pipeline.formats.canonical import pretty
from pipeline.formats.manifests import EvaluationSets, Fetched, StoredFile, WithFiles, read_manifest
from pipeline.formats.stages import manifest_path

LOCK, PINS, PACKAGES_LOCK = "dvc.lock", "constraints.txt", "requirements.lock"
CHUNK_BYTES = 1 << 20


class Packed(NamedTuple):
    """What a capsule holds."""

    commit: str
    files: int
    bytes: int
    packages: int
    artefacts: int


class _Artefact(NamedTuple):
    """Raw file of a project, and what its manifest says of it."""

    path: Path
    file: StoredFile


def capsule(project: Path, out: Path, torch_index: str | None = None) -> Packed:
    """Write the capsule of the commit that `project` has checked out into the new folder `out`.

    `torch_index` is an index that serves the build of torch, where pip's own does not.
    """
    commit = _require_committed(project)
    artefacts = list(_artefacts(project))
    _require_present(artefacts)
    with new_folder(out) as scratch:
        _copy_artefacts(artefacts, scratch / thaw.ARTEFACTS)
        git(project, "bundle", "create", "--quiet", str((scratch / thaw.CODE).absolute()), "HEAD")
        torch = _download_packages(project, scratch / thaw.PACKAGES, torch_index)
        shutil.copyfile(Path(thaw.__file__), scratch / "thaw.py")
        write_bytes(scratch / "README.md", _readme(commit).encode())
        files = [
            {"bytes": (scratch / path).stat().st_size, "path": path, "sha256": sha256_file(scratch / path)}
            for path in list_files(scratch)
        ]
        python, platform = thaw.here().split()
        about = {"commit": commit, "files": files, "format": thaw.FORMAT, "platform": platform, "python": python}
        write_bytes(scratch / thaw.MANIFEST, pretty(about | {"torch": torch}))
        thaw.read_manifest(scratch / thaw.MANIFEST)  # no name that `thaw` would refuse
        packages = len(list_files(scratch / thaw.PACKAGES))
    return Packed(commit, len(files) + 1, sum(int(file["bytes"]) for file in files), packages, len(artefacts))


def _require_committed(project: Path) -> str:
    """Return the commit of a project whose code, lock and manifests are all in it."""
    if not (project / PARAMS).is_file():
        raise EverystepError(f"{project}: has no {PARAMS}; a capsule is made from a project, in its checkout")
    top = Path(git(project, "rev-parse", "--show-toplevel"))
    if top.resolve() != project.resolve():
        raise EverystepError(f"{project}: not the top of its Git repository, which is {top}; name that folder")
    if changed := git(project, "status", "--porcelain"):
        lines = "\n".join(changed.splitlines()[:10])
        raise EverystepError(f"{project}: a capsule holds a commit; commit or remove what is not in one:\n{lines}")
    for needed in (LOCK, PINS, PACKAGES_LOCK, manifest_path("code").as_posix()):
        if try_git(project, "cat-file", "-e", f"HEAD:{needed}").returncode:
            raise EverystepError(f"{project / needed}: not in the commit; run `make release` and commit what it wrote")
    if git(project, "rev-parse", "--is-shallow-repository") == "true":
        raise EverystepError(f"{project}: a shallow clone; run `git fetch --unshallow`, a capsule holds the history")
    return git(project, "rev-parse", "HEAD")


def _artefacts(project: Path) -> Iterator[_Artefact]:
    """Yield every raw file that the manifests list, in the order of their sources."""
    if (project / manifest_path("rows")).exists():
        raise EverystepError(f"{project}: begins with rows that others published; a capsule cannot hold these yet")
    declared = load_yaml(project / PARAMS).get("sources", {})
    for path in sorted((project / MANIFESTS / "sources").glob("*.json")):
        manifest = read_manifest(Fetched, path)
        if not declared.get(manifest.of, {}).get("sha256"):
            fix = f"write {manifest.files[0].sha256}, build again and commit"
            raise EverystepError(
                f"{project / PARAMS}: sources.{manifest.of}.sha256: missing, a capsule needs it; {fix}"
            )
        yield from _of(manifest, project / RAW / manifest.of)
    if (sets := project / manifest_path("evaluation_sets")).exists():
        yield from _of(read_manifest(EvaluationSets, sets), project / EVALUATION_SETS)


def _of(manifest: WithFiles, folder: Path) -> Iterator[_Artefact]:
    yield from (_Artefact(folder / file.path, file) for file in manifest.files)


def _require_present(artefacts: list[_Artefact]) -> None:
    missing = [str(artefact.path) for artefact in artefacts if not artefact.path.is_file()]
    if missing:
        names = "\n".join(missing[:10])
        raise EverystepError(f"{len(missing)} raw files are missing; run `make release` or `dvc pull` first:\n{names}")


def _copy_artefacts(artefacts: list[_Artefact], folder: Path) -> None:
    total = sum(artefact.file.bytes for artefact in artefacts)
    with progress("capsule: artefacts", total, "bytes") as advance:
        for path, file in artefacts:
            copy = folder / file.sha256 / file.path
            with path.open("rb") as original, atomic_writer(copy) as written:
                while chunk := original.read(CHUNK_BYTES):
                    written.write(chunk)
                    advance(len(chunk), file.path)
            if sha256_file(copy) != file.sha256:
                raise Differs(f"{path}: other bytes than its manifest lists; run `dvc repro`, which fetches it again")


def _download_packages(project: Path, folder: Path, torch_index: str | None) -> str:
    """Download what `make setup` installs; returns the pin of torch."""
    pins = (project / PINS).read_text("utf-8").splitlines()
    torch = next((pin for pin in pins if pin.startswith("torch==")), None)
    if torch is None:
        raise EverystepError(f"{project / PINS}: pins no torch; pin the one that the release was built with")
    places = ["--dest", str(folder)]
    lock = ["--no-deps", "--require-hashes", "--requirement", str(project / PACKAGES_LOCK)]
    index = ["--index-url", torch_index] if torch_index else []
    note(f"downloading the packages of {PACKAGES_LOCK}, and {torch}")
    for arguments in ([*lock, *places], [*index, "--constraint", str(project / PINS), *places, torch]):
        if pip("download", *arguments):
            raise EverystepError(f"pip could not download what {PACKAGES_LOCK} and {PINS} pin; its words are above")
    return torch


def _readme(commit: str) -> str:
    python, platform = thaw.here().split()
    return f"""# A capsule

All that rebuilds one release of Everystep without any network: its code (commit {commit}),
the packages that it runs on, and the corpora that it was made from. It needs Python {python} on {platform}, and Git.

```bash
python{python} thaw.py OUT
```

`thaw.py` first compares every file with `capsule.json`. Then it builds the release in the new folder OUT and says
whether lock and manifests came out as committed. The digest of `capsule.json` is the digest of the whole capsule.
"""
