"""What is said of a release: in-toto statements with SLSA's provenance, one of the data and one of each model.

A statement is a function of the release and of the commit that its signer names. So a reader writes it again from the
release, and a signed one that differs is a fault; what a reader cannot know is then only what no release can prove
(`docs/audit.md`, Signatures). No clock, no host, no path of a machine: equal releases give equal statements.

The builder is named *unwitnessed*: nobody but the builder saw the build, which is SLSA's Build Level 1 at most.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping

from pipeline.base.errors import EverystepError
from pipeline.base.paths import EVALUATION_SETS, PARAMS, RAW
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, canonical
from pipeline.formats.manifests import Code, EvaluationSets, Fetched, StoredFile, Tokens, Trained, path_of
from pipeline.formats.stages import output_folder
from pipeline.release.release import Release
from pipeline.signing.bundles import STATEMENT

PROVENANCE = "https://slsa.dev/provenance/v1"
DATA, MODEL = "urn:everystep:build:data:1", "urn:everystep:build:model:1"
"""The kinds of builds, with the version of what is said of them."""
BUILDER = "urn:everystep:builder:unwitnessed"
COMMIT, CODE, LOCK, PINS = "commit", "code", "dvc.lock", "constraints.txt"
TENSORS = "tensorsV1"
"""Name in a set of digests of the root of `tensors-v1`, without its prefix."""
Digests = Mapping[str, str]


def data_statement(release: Release, sums: Digests, commit: str | None) -> Json:
    """What is said of the data: sources, parameters, code and lock went in; rows, index, order, tokenizer and the
    records of removals came out. `sums` has the SHA-256 of the bytes of each file."""
    manifest = path_of(Tokens).as_posix()
    return _statement(
        DATA,
        subjects=[_file(path, sums) for path in sorted(sums) if path.startswith("data/")],
        external={"release": release.name, "version": release.version, "params": PARAMS.as_posix()},
        internal={},
        dependencies=[
            *_sources(release),
            *(_file(path, sums) for path in (PARAMS.as_posix(), PINS, LOCK)),
            *_code(release, commit),
        ],
        byproducts=[_file(manifest, sums)],
    )


def model_statement(release: Release, model: str, sums: Digests, commit: str | None) -> Json:
    """What is said of a model: the data (its statement of the same commit), recipe, code and lock went in; its
    checkpoints and its log came out. Of each checkpoint, the digest of the weights is given even if its bytes are not
    in the release."""
    manifest = release.manifest(Trained, model)
    code = release.manifest(Code).stages[manifest.stage].digest
    data = hashlib.sha256(canonical(data_statement(release, sums, commit))).hexdigest()
    return _statement(
        MODEL,
        subjects=list(_came_out(release, manifest, sums)),
        external={
            "release": release.name,
            "version": release.version,
            "model": model,
            "recipe": manifest.parameters.to_json(),
        },
        internal={"numerics": manifest.numerics.to_json()},
        dependencies=[
            {"name": "data", "digest": {"sha256": data}},
            *({"name": path, "digest": {"sha256": digest}} for path, digest in sorted(manifest.inputs.items())),
            *(_file(path, sums) for path in (PINS, LOCK)),
            {"name": f"code of {manifest.stage}", "digest": {"sha256": code}},
            *_code(release, commit),
        ],
        byproducts=[_file(manifest.path.as_posix(), sums)],
    )


def commit_of(statement: Json) -> str | None:
    """The commit that a statement names, whatever else it holds; none if it names none."""
    try:
        named = [one for one in statement["predicate"]["buildDefinition"]["resolvedDependencies"] if _is_commit(one)]
        return checked_commit(named[0]["digest"]["gitCommit"]) if named else None
    except (KeyError, TypeError, IndexError, EverystepError):
        return None


def checked_commit(commit: object) -> str:
    """Return `commit` if it is the full identifier of a commit."""
    if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", commit):
        return commit
    raise EverystepError(f"--commit {commit!r:.80}: write all 40 hex digits, as `git rev-parse HEAD` prints them")


def _is_commit(dependency: Json) -> bool:
    return isinstance(dependency, dict) and dependency.get("name") == COMMIT


def _statement(
    kind: str, *, subjects: list[Json], external: Json, internal: Json, dependencies: Iterable[Json], byproducts: Json
) -> Json:
    return {
        "_type": STATEMENT,
        "subject": subjects,
        "predicateType": PROVENANCE,
        "predicate": {
            "buildDefinition": {
                "buildType": kind,
                "externalParameters": external,
                "internalParameters": internal,
                "resolvedDependencies": [*dependencies],
            },
            "runDetails": {"builder": {"id": BUILDER}, "byproducts": byproducts},
        },
    }


def _file(path: str, sums: Digests) -> Json:
    return {"name": path, "digest": {"sha256": sums[path]}}


def _code(release: Release, commit: str | None) -> Iterator[Json]:
    """The code of all stages by its Software Heritage identifier, which is the identifier of a Git tree; the commit."""
    swhid = release.manifest(Code).swhid
    yield {"name": CODE, "uri": swhid, "digest": {"gitTree": swhid.rpartition(":")[2]}}
    if commit is not None:
        yield {"name": COMMIT, "digest": {"gitCommit": commit}}


def _sources(release: Release) -> Iterator[Json]:
    """The raw files of each source and of the evaluation sets, with the address that was declared for them."""
    for name in release.sources():
        fetched = release.manifest(Fetched, name)
        yield from _raw((RAW / name).as_posix(), fetched.files, fetched.parameters.to_json())
    sets = release.manifest(EvaluationSets)
    yield from _raw(EVALUATION_SETS.as_posix(), sets.files, sets.parameters.to_json())


def _raw(folder: str, files: Iterable[StoredFile], declared: Json) -> Iterator[Json]:
    for file in files:
        yield {"name": f"{folder}/{file.path}", "uri": _address(declared), "digest": {"sha256": file.sha256}}


def _address(declared: Json) -> str:
    """Where a source is: as a package URL, as the Hub writes it, or as it was declared."""
    if declared.get("kind") == "package":
        name = re.sub(r"[-_.]+", "-", declared["package"]).lower()
        return f"pkg:pypi/{name}@{declared['version']}"
    if declared.get("kind") == "huggingface":
        return f"hf://datasets/{declared['repository']}@{declared['revision']}"
    return str(declared.get("url"))


def _came_out(release: Release, manifest: Trained, sums: Digests) -> Iterator[Json]:
    """Every file of a model, and the weights of each checkpoint, in the release or not."""
    folder = output_folder(manifest.stage, manifest.of).as_posix()
    weights = {f"{folder}/{entry.revision}/{ck.WEIGHTS}": entry.weights_digest for entry in manifest.checkpoints}
    for path in sorted({*weights, *(path for path in sums if path.startswith(f"{folder}/"))}):
        digests = {"sha256": sums[path]} if path in sums else {}
        if path in weights:
            digests[TENSORS] = weights[path].rpartition(":")[2]
        yield {"name": path, "digest": digests}
