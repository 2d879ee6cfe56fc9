"""Compare two builds from the top down: digests, then stages, then what is inside the first results that differ.

Of two releases only their root manifests are read where all digests agree, and a table, shard or checkpoint only where
its own digests differ. The lock is read where it differs.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from pipeline.base.errors import well_shaped
from pipeline.base.paths import MANIFESTS, PARAMS, RECIPES, SPLITS, TOKENIZER, TOKENS
from pipeline.compare.builds import (
    CODE,
    LOCK,
    PINS,
    Build,
    LockBuild,
    ProjectBuild,
    ReleaseBuild,
    files_of_both,
    place_of,
    stage_of,
)
from pipeline.compare.checkpoints import StateSide, compare_checkpoints
from pipeline.compare.difference import CAUSES, Difference, Findings, differing, only_in
from pipeline.compare.documents import DocumentCounts, compare_documents, index_path
from pipeline.compare.rows import compare_rows
from pipeline.compare.stages import StageChange, code_differences, stage_changes
from pipeline.compare.tensors import TensorDifference
from pipeline.compare.training import Begun, compare_results, compare_training, forked
from pipeline.formats.canonical import Json, parse
from pipeline.formats.checkpoints import WEIGHTS
from pipeline.formats.manifests import FORMAT, Tokens, path_of
from pipeline.formats.release import REVISIONS
from pipeline.formats.stages import BY_NAME, manifest_path
from pipeline.release.papers import PAPERS
from pipeline.release.release import Stored
from pipeline.release.report.data import FOLDER as REPORT_DATA

EXPLAINED = (LOCK, REVISIONS, PARAMS.as_posix(), PINS, *PAPERS, REPORT_DATA.as_posix())
"""Files of a release that follow from what is compared in other ways."""


@dataclass
class BuildComparison:
    """What differs between two builds."""

    findings: Findings
    stages: list[StageChange] = field(default_factory=list)
    """Every stage that came out differently, in the order of the pipeline."""
    documents: list[DocumentCounts] = field(default_factory=list)
    """Documents that differ, by source and licence."""
    tensors: list[TensorDifference] = field(default_factory=list)
    """Tensors of the first stored state that differs."""
    fork: Begun | None = None
    """If one side goes on from a state of the other, which."""
    files: int = 0
    """Files of both releases whose digests agree."""
    basis: str = ""
    """On what the answer rests."""


def compare_builds(a: Build, b: Build, most: int = 10, metadata: bool = False) -> BuildComparison:
    """What differs between two builds; of each kind the first `most` are kept, and at least one.

    With `metadata`, no rows, tables or tensors are read.
    """
    found = BuildComparison(Findings(max(most, 1)))
    with well_shaped(f"{a.address} or {b.address}"):
        if _are_releases(a, b) and _same_files(a, b, found):
            return found
        found.basis = _basis(a, b)
        found.findings.add(code_differences(a, b))
        found.stages = list(stage_changes(a, b))
        found.fork = forked(a, b)
        tokens = path_of(Tokens).as_posix()
        if a.manifests.get(tokens) and a.manifests[tokens] == b.manifests.get(tokens):
            found.findings.agree.append("both have the same documents and rows")
        for change in found.stages:
            _inside(a, b, change, found, metadata)
        _add_lock(a, b, found)
        if isinstance(a, ProjectBuild) and isinstance(b, ProjectBuild):
            found.findings.add(_other_manifests(a, b))
        _add_files(a, b, found)
    return found


def _are_releases(a: Build, b: Build) -> bool:
    return isinstance(a, ReleaseBuild) and isinstance(b, ReleaseBuild)


def _same_files(a: Build, b: Build, found: BuildComparison) -> bool:
    """Whether both releases have the same name, version and files by their root manifests; the files are counted."""
    left, right = a.release, b.release
    for key in ("name", "version"):
        values = getattr(left, key), getattr(right, key)
        if values[0] != values[1]:
            found.findings.add([Difference(kind="release", where=key, a=values[0], b=values[1], stage="release")])
    found.files = sum(left.files.get(path) == file for path, file in right.files.items())
    found.basis = "by the digests in both root manifests; the files themselves were not read"
    return left.files == right.files


def _basis(a: Build, b: Build) -> str:
    if isinstance(a, LockBuild) or isinstance(b, LockBuild):
        return "by the locks alone"
    read = "only what differs was read, and each file of a release compared with its digest"
    return f"by the digests in {'root manifests' if _are_releases(a, b) else 'manifests and locks'}; {read}"


def _inside(a: Build, b: Build, change: StageChange, found: BuildComparison, metadata: bool) -> None:
    """Count a stage with its reasons, and look inside what it made."""
    findings, (name, _, of) = found.findings, change.stage.partition("@")
    findings.add(reason for reason in change.reasons if reason.kind in CAUSES)
    if change.is_cause:
        only = change.reasons[0].only_in if change.reasons and change.reasons[0].kind == "stage" else None
        why = change.stage if only else f"{change.stage}: {change.why}"
        findings.add([Difference(kind="stage", where=why, only_in=only, stage=change.stage), *change.result])
    else:
        findings.follows("stage")
        for result in change.result:
            findings.follows(result.kind)
    path = manifest_path(name, of or None).as_posix() if not _is_unknown(change.stage) else ""
    if isinstance(a, LockBuild) or isinstance(b, LockBuild) or not {path} <= a.manifests.keys() & b.manifests.keys():
        return
    trees = a.tree(path), b.tree(path)
    if None in trees:
        return
    if name == "tokenizer":
        _tokenizer(a, b, findings)
    elif name == "tokenize":
        _tokens(a, b, trees, found, metadata)
    elif name == "train":
        _training(a, b, of, trees, found, metadata)
    elif name == "evaluate":
        compare_results(of, trees, findings)


def _is_unknown(stage: str) -> bool:
    return place_of(stage)[0] == place_of("?")[0]


def _tokenizer(a: Build, b: Build, findings: Findings) -> None:
    """Keys of `tokenizer.json`, most of which are the vocabulary and the merges."""
    path = TOKENIZER.as_posix()
    for files in files_of_both(a, b, [path], findings):
        left, right = (parse(file.read_bytes(), file) for file in files)
        for key in differing("token", left, right, stage="tokenizer"):
            where = f"{path}: {key.where}"
            is_long = isinstance(key.a or key.b, list | dict)
            findings.add([replace(key, where=where, a=None, b=None) if is_long else replace(key, where=where)])


def _tokens(a: Build, b: Build, trees: tuple[Json, Json], found: BuildComparison, metadata: bool) -> None:
    digests = [
        {name: [shard["sha256"] for shard in shards] for name, shards in tree["outputs"].items()} for tree in trees
    ]
    indexes = [{split: each[f"{split}_index"] for split in SPLITS} for each in digests]
    other_rows = any(digests[0][split] != digests[1][split] for split in SPLITS)
    if metadata:
        if indexes[0] != indexes[1] or other_rows:
            found.findings.notes.append("documents and rows differ, and were not read")
        return
    indexed = [index_path(split) for split in SPLITS]
    for build, tree in zip((a, b), trees, strict=True):
        shards = [f"{TOKENS}/{shard['path']}" for split in SPLITS for shard in tree["outputs"][split]]
        missing = [path for path in (*indexed, *shards) if not build.has(path)]
        if missing:
            found.findings.notes.append(f"{build.address} has no {missing[0]}, so rows were not compared")
            return
    left, right = a.release, b.release
    if indexes[0] != indexes[1]:
        found.documents = compare_documents(left, right, found.findings)
    if other_rows:
        compare_rows(left, right, trees, found.findings)


def _training(a: Build, b: Build, model: str, trees: tuple[Json, Json], found: BuildComparison, metadata: bool) -> None:
    first = compare_training(a, b, model, trees, found.findings)
    if first is None or found.tensors or metadata:
        return
    if other := next((tree["format"] for tree in trees if tree["format"] != FORMAT), None):
        found.findings.notes.append(f"a side has manifests of format {other}, so tensors were not compared")
        return
    states = [build.release.states(model)[first] for build in (a, b)]
    for build, state in zip((a, b), states, strict=True):
        if not build.has(f"{state.folder}/{WEIGHTS}"):
            found.findings.notes.append(f"{build.address} has no {state.folder}, so its tensors were not compared")
            return
    _tensors(states, found)


def _tensors(states: list[Stored], found: BuildComparison) -> None:
    left, right = (StateSide(state.release.address, state) for state in states)
    compared = compare_checkpoints(left, right)
    where = f"{states[0].model} {states[0].revision}"
    found.tensors = compared.tensors
    stage = f"train@{states[0].model}"
    differences = [Difference(kind="tensor", where=f"{where}: {told(each)}", stage=stage) for each in compared.tensors]
    found.findings.add(differences)


def told(tensor: TensorDifference) -> str:
    """One tensor that differs, in words."""
    if tensor.a is None or tensor.b is None:
        return f"{tensor.name}: only in {'A' if tensor.b is None else 'B'} ({tensor.a or tensor.b})"
    if tensor.numbers is None or not tensor.differ:
        return f"{tensor.name}: {tensor.a} -> {tensor.b}"
    share = f"{tensor.differ:,} of {tensor.numbers:,} numbers differ"
    return f"{tensor.name}: {share}, first at {tensor.first_at}: {pair(tensor)}"


def pair(tensor: TensorDifference) -> str:
    """The first number that differs, in A and B; where both print alike, their bits."""
    if tensor.first is None or tensor.first_bits is None:
        return ""
    values = [f"{value:.7g}" if isinstance(value, float) else value for value in tensor.first]
    if values[0] == values[1]:
        values = [f"{value} (bits {bits})" for value, bits in zip(values, tensor.first_bits, strict=True)]
    return " -> ".join(values)


def _add_lock(a: Build, b: Build, found: BuildComparison) -> None:
    """Entries of the locks that differ in stages that came out alike: commands, and files stored in other bytes."""
    if a.lock_sha256 == b.lock_sha256 or not (a.lock and b.lock):
        return
    changed = {change.stage for change in found.stages}
    for stage in sorted(a.lock.keys() & b.lock.keys(), key=place_of):
        if stage in changed:
            continue
        keys = list(differing("lock", _by_path(a.lock[stage]), _by_path(b.lock[stage]), stage=stage))
        inherited = tuple(f"{key}." for key in (f"params.{CODE}", *(["deps"] if stage != "code" else [])))
        own = [replace(key, where=f"{stage}: {key.where}") for key in keys if not key.where.startswith(inherited)]
        found.findings.add(own)
        found.findings.follows("lock", 1 if keys and not own else 0)


def _by_path(entry: Json) -> Json:
    """An entry of a lock whose lists of files are mappings by path."""
    lists = {key: {each["path"]: each for each in entry[key]} for key in ("deps", "outs") if key in entry}
    return {**entry, **lists}


def _other_manifests(a: Build, b: Build) -> Iterator[Difference]:
    """Files below `manifests/` of two projects that no stage writes."""
    for path in sorted(path for path in {*a.manifests, *b.manifests} if stage_of(path) is None):
        if a.manifests.get(path) != b.manifests.get(path):
            yield Difference(kind="file", where=path, only_in=only_in(path in a.manifests, path in b.manifests))


def _add_files(a: Build, b: Build, found: BuildComparison) -> None:
    """What else differs in two releases: sections of `params.yaml` that no stage before the release reads, and files.

    The files of a stage that differs follow from it, and the papers from all.
    """
    if not _are_releases(a, b):
        return
    left, right = a.release.files, b.release.files
    findings = found.findings
    paths = [path for path in sorted(left.keys() | right.keys()) if left.get(path) != right.get(path)]
    if PARAMS.as_posix() in paths:
        findings.add(differing("params", a.params(), b.params(), stage="release"))
    changed = {change.stage for change in found.stages} | ({"code", *EXPLAINED} if findings else set())
    for path in paths:
        if maker_of(path) in changed:
            findings.follows("file")
        else:
            findings.add([Difference(kind="file", where=path, only_in=only_in(path in left, path in right))])


def maker_of(path: str) -> str:
    """The stage that writes a file of a release, as `dvc.lock` names it; of the data of the explorer their folder, and
    of a file that nothing writes, itself."""
    parts = path.split("/")
    if path.startswith(f"{REPORT_DATA}/"):
        return REPORT_DATA.as_posix()
    if parts[0] == MANIFESTS.name:
        return stage_of(path) or path
    if parts[0] == RECIPES.name:
        return f"train@{parts[1].removesuffix('.yaml')}"
    for stage in BY_NAME.values():
        if stage.folder and stage.name != "release" and path.startswith(f"{stage.folder}/"):
            of = path.removeprefix(f"{stage.folder}/").partition("/")[0]
            return stage.name if stage.per == "release" else f"{stage.name}@{of}"
    return path
