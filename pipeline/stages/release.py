"""Assemble the release: one folder that holds all that reading, tracing and replaying it needs.

Reads the manifests and outputs of every stage before it; writes `release/` (see `pipeline.formats.release`)
and `manifests/release.json`. Large files are linked, not copied. Nothing enters before the gate has passed.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import atomic_writer, fresh_folder, list_files, sha256_file, write_bytes
from pipeline.base.params import (
    OPTIONAL,
    SECTION_OF_FORGETTING,
    SECTION_OF_FORKS,
    SECTIONS,
    load_params,
    model_names,
    source_names,
)
from pipeline.base.paths import (
    DEDUPLICATED,
    DOCUMENTS,
    FILTERED,
    PARAMS,
    RECIPES,
    RELEASE,
    REMOVALS_FILE,
    REPLACED_FILE,
    RESULTS,
    RUNS,
    SCORES,
    SEARCH,
    TOKENIZER,
    TOKENS,
)
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import Json, pretty
from pipeline.formats.checkpoints import Record
from pipeline.formats.current import read_all_current, read_current, take_basis, write_manifest
from pipeline.formats.manifests import (
    KINDS,
    Coverage,
    Evaluated,
    Forgetting,
    Manifest,
    Parent,
    Released,
    Scored,
    Searchable,
    TasksMade,
    Tokens,
    Trained,
    path_of,
)
from pipeline.formats.release import (
    FORMAT,
    REVISIONS,
    ROOT,
    SUMS,
    ListedFile,
    Root,
    content_digest,
    contents_digest,
    is_listed,
    kind_of,
    revision_line,
)
from pipeline.formats.stages import manifest_path, stages_of_model, stages_per
from pipeline.formats.suite import require_one_suite
from pipeline.release.ancestors import MADE_AGAIN
from pipeline.release.coverage import count
from pipeline.release.disclosures.evidence import described, gather_evidence
from pipeline.release.gate import check_model, too_far
from pipeline.release.papers import PAPERS
from pipeline.release.release import Release
from pipeline.release.report.data import data_files
from pipeline.release.words import ReleaseParams, check_words

LOCK = Path("dvc.lock")
REMOTE_CODE = Path("trainer/remote/modeling_everystep_openelm.py")
COPIED = [Path("constraints.txt"), Path("LICENSE"), REMOTE_CODE]
PER_SOURCE = stages_per("source")
ONCE = [name for name in stages_per("release") if name != "release"]
OF_SECTION: dict[str, type[Manifest]] = {SECTION_OF_FORKS: Parent, SECTION_OF_FORGETTING: Forgetting}
"""The manifest that goes with a section that only some projects have."""
BUILT = ("data", "runs", "results", "scores")
COPY_SUFFIXES = (".jsonl", ".csv", ".json", ".yaml", ".md")


def release() -> None:
    """Assemble the release of the suite."""
    sources, models = source_names(), model_names()
    params = check_words(load_params(), sources, str(PARAMS)).release
    own = [name for name in (SECTION_OF_FORKS, SECTION_OF_FORGETTING) if name in load_params()]
    is_fork = SECTION_OF_FORKS in own
    manifests = _manifests(sources, models, is_fork) + [path_of(OF_SECTION[name]) for name in own]
    basis = take_basis(manifests, [*SECTIONS, *own])
    trained = read_all_current(Trained, models)
    require_one_suite({name: manifest.parameters.to_json() for name, manifest in trained.items()})
    _require_own_rows(trained)
    read_all_current(Evaluated, models)
    if not is_fork:
        read_all_current(Scored, models)
    read_current(Searchable)
    for stage in PER_SOURCE:
        read_all_current(KINDS[stage], sources)
    project = Release.open(Path())
    with progress("release: gate", len(models), "models") as advance:
        records: list[Record] = []
        for name in models:
            records += check_model(project, name)
            if moved := [*too_far(project, name)]:
                raise Differs("\n".join(moved))
            advance(1)
    folder = fresh_folder(RELEASE)
    kept = [Path(path) for path in read_current(Parent).promises()] if is_fork else []
    for path in [*COPIED, *manifests, *kept, *_data_files(sources), *_model_files(models, is_fork)]:
        _place(path, folder / path)
    # As data: a comment is no parameter, so DVC would not build the release again for a changed one.
    # How it was run is no part of it.
    params_tree = {name: section for name, section in load_params().items() if name not in OPTIONAL}
    write_bytes(folder / PARAMS, pretty(params_tree))
    lock = pretty(lock_before_release(sources, models, load_yaml(LOCK)))
    write_bytes(folder / LOCK, lock)
    read = count(project)
    inputs = [path_of(Tokens), *(path_of(Trained, name) for name in models)]
    counted = take_basis(inputs, root=folder)
    write_manifest(Coverage, None, counted, parameters={}, outputs={}, root=folder, **read.to_json())
    write_bytes(folder / REVISIONS, b"".join(map(revision_line, records)))
    for path, pieces in data_files(project):
        _write_pieces(folder / path, pieces)
    files = _listed(folder)
    sums = {path: sha256_file(folder / path) for path in described(project)}
    evidence = gather_evidence(project, read, sums, contents_digest(files))
    for name, render in PAPERS.items():
        write_bytes(folder / name, render(evidence))
        files[name] = _digested(folder, name)
    _write_root(folder, params, files)
    told = evidence.to_json()
    write_manifest(
        Released,
        None,
        basis,
        parameters=params.model_dump(exclude_unset=True),
        outputs={},
        root_sha256=sha256_file(folder / ROOT),
        sums_sha256=sha256_file(folder / SUMS),
        lock_sha256=hashlib.sha256(lock).hexdigest(),
        files=len(list_files(folder)),
        **{key: told[key] for key in ("rows", "models", "licenses")},
    )


def _require_own_rows(trained: dict[str, Trained]) -> None:
    """A release tells which documents were read; of rows that others made it knows none."""
    for name, manifest in trained.items():
        if (layout := manifest.parameters.data.layout) != "everystep":
            raise EverystepError(
                f"{RECIPES}/{name}.yaml: data.layout: {layout}; a release holds the rows that its models read, so only "
                "models on rows in the layout everystep can be released; `everystep replay .` works"
            )


def _manifests(sources: list[str], models: list[str], is_fork: bool) -> list[Path]:
    per_source = [manifest_path(stage, name) for stage in PER_SOURCE for name in sources]
    per_model = [manifest_path(stage, name) for stage in stages_of_model(is_fork) for name in models]
    return [*per_source, *map(manifest_path, ONCE), *per_model]


def _data_files(sources: list[str]) -> list[Path]:
    """Rows, indexes, order, tokenizer, every stage's removals, what was replaced, and minimal pairs; never the texts of
    documents or of stock tasks."""
    whole = [TOKENS, SEARCH, TOKENIZER.parent]
    files = [folder / file for folder in whole for file in list_files(folder)]
    removals = [stage / name / REMOVALS_FILE for stage in (DOCUMENTS, FILTERED) for name in sources]
    replaced = [FILTERED / name / REPLACED_FILE for name in sources]
    asked = [Path(path) for path in read_current(TasksMade).promises()]
    return [*files, *removals, DEDUPLICATED / REMOVALS_FILE, *replaced, *asked]


def _model_files(models: list[str], is_fork: bool) -> list[Path]:
    folders = [kind / name for name in models for kind in (RUNS, RESULTS, *[SCORES] * (not is_fork))]
    recipes = [RECIPES / f"{name}.yaml" for name in models]
    return [*recipes, *(folder / file for folder in folders for file in list_files(folder))]


def _place(source: Path, target: Path) -> None:
    """A hard link where the file system allows one. Files that people or tools edit in place are copied: a link
    would make them one file with DVC's cache."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not source.is_file():
        raise EverystepError(f"{source}: no such file; run `dvc repro` to build it")
    if source.parts[0] not in BUILT or source.name.endswith(COPY_SUFFIXES):
        _copy(source, target)
        return
    try:
        os.link(source, target)
    except OSError:
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as content, atomic_writer(target) as file:
        shutil.copyfileobj(content, file)


def _write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    with atomic_writer(path) as file:
        for piece in pieces:
            file.write(piece)


def lock_before_release(sources: list[str], models: list[str], lock: dict[str, Json]) -> Json:
    """The lock's entries of the stages before this one, by name (JSON is YAML, so DVC's tools read it). In a fork one
    stage takes the place of those that make rows.

    That of `code` stays out: it has the digest of all code, and what no stage loads is no part of the release.
    """
    names = [f"{stage}@{of}" for stage in PER_SOURCE for of in sources]
    names += [name for name in ONCE if name != "code"]
    if is_fork := "parent" in lock["stages"]:
        names = ["parent", *(name for name in MADE_AGAIN if name in lock["stages"])]
    names += [f"{stage}@{of}" for stage in stages_of_model(is_fork) for of in models]
    return {"schema": "2.0", "stages": {name: lock["stages"][name] for name in sorted(names)}}


def _listed(folder: Path) -> dict[str, ListedFile]:
    """Each file that the root manifest lists, by content."""
    listed = [path for path in list_files(folder) if is_listed(path)]
    files: dict[str, ListedFile] = {}
    with progress("release: digests", len(listed), "files") as advance:
        for path in listed:
            files[path] = _digested(folder, path)
            advance(1)
    return files


def _digested(folder: Path, path: str) -> ListedFile:
    kind = kind_of(path)
    return ListedFile(kind=kind, digest=content_digest(folder / path, kind))


def _write_root(folder: Path, params: ReleaseParams, files: dict[str, ListedFile]) -> None:
    """`release.json` by content, then `SHA256SUMS` over the bytes as stored, the root manifest included."""
    root = Root(format=FORMAT, name=params.name, version=params.version, files=files)
    write_bytes(folder / ROOT, pretty(root.to_json()))
    sums = [f"{sha256_file(folder / path)}  {path}\n" for path in list_files(folder)]
    write_bytes(folder / SUMS, "".join(sums).encode())
