"""The chain of manifests: each is in its own place, was built from those beside it, and promises what is there.

Read after `verify` has found each file to be the promised one. The checkpoints of a model go through the gate again,
and `revisions.jsonl` must list exactly them. A model that was trained on from a state of another release is followed to
its first ancestor.
"""

from collections.abc import Iterator, Mapping

from pipeline.audit.bases import missing_bases
from pipeline.base.errors import EverystepError
from pipeline.base.paths import MANIFESTS
from pipeline.formats import checkpoints as ck
from pipeline.formats.manifests import Manifest, Parent, Trained, parse_any_manifest
from pipeline.formats.release import REVISIONS, ROOT, revision_line
from pipeline.formats.stages import output_folder
from pipeline.release.ancestors import ancestors, foreign_manifests
from pipeline.release.gate import check_model
from pipeline.release.release import Release

PROMISED_BELOW = ("data/", "runs/", "results/", "scores/")
CHECKPOINT_FILES = (ck.WEIGHTS, ck.OPTIMIZER, ck.CONFIG, ck.RECORD)


def chain_faults(release: Release, stored: Mapping[str, str], tensors: bool = True) -> list[str]:
    """Each fault in the chain. `stored` has the SHA-256 of every file of the release.

    Without `tensors`, weights and moments are not read, and what only they show is not looked for.
    """
    promised: set[str] = set()
    records: list[ck.Record] = []
    faults: list[str] = []
    for path in sorted(path for path in release.files if path.startswith(f"{MANIFESTS}/")):
        try:
            manifest = parse_any_manifest(release.read(path), release.folder / path)
            if manifest.path.as_posix() != path:  # it would hide the one whose place it has
                raise EverystepError(f"is the manifest of another place, {manifest.path}")
            faults += _inputs(path, manifest, stored)
            faults += missing_bases(release, manifest)
            promises = manifest.promises()
            faults += _outputs(release, path, promises)
            promised |= promises.keys()
            if isinstance(manifest, Parent):
                faults += foreign_manifests(release)
            if isinstance(manifest, Trained):
                list(ancestors(release, manifest.of))  # each is compared before the next is looked for
                found = check_model(release, manifest.of, tensors)
                folder = output_folder("train", manifest.of).as_posix()
                promised |= {f"{folder}/{record.revision}/{file}" for record in found for file in CHECKPOINT_FILES}
                records += found
        except (EverystepError, OSError) as error:
            faults.append(f"{path}: {error}")
    if faults:
        return faults
    tables = {path.removesuffix("jsonl") + "csv" for path in promised if path.endswith(".jsonl")}
    below = {path for path in release.files if path.startswith(PROMISED_BELOW)}
    unpromised = [f"{path}: no manifest promises it" for path in sorted(below - promised - tables)]
    return [*unpromised, *_revisions(release, records)]


def _inputs(path: str, manifest: Manifest, stored: Mapping[str, str]) -> Iterator[str]:
    for name, digest in manifest.inputs.items():
        if stored.get(name) != digest:
            yield f"{path}: was built from another {name} than the one in the release"


def _outputs(release: Release, path: str, promises: dict[str, str]) -> Iterator[str]:
    for name, digest in promises.items():
        if name not in release.files or release.files[name].digest != digest:
            yield f"{path}: promises {name} with another digest than {ROOT}"


def _revisions(release: Release, records: list[ck.Record]) -> Iterator[str]:
    if REVISIONS not in release.files:
        yield f"{REVISIONS}: missing"
    elif sorted(release.read(REVISIONS).splitlines(keepends=True)) != sorted(map(revision_line, records)):
        yield f"{REVISIONS}: does not list exactly the checkpoints of the release"
