"""A project as a release: its own manifests promise what a root manifest would.

So a builder looks at what was built before anything is released, through the same checks, and so does an auditor of a
training on rows that others published, which has no release. What has not been built is not promised.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files, safe_join, sha256_file
from pipeline.base.paths import MANIFESTS, RECIPES, RUNS
from pipeline.formats import checkpoints as ck
from pipeline.formats.manifests import Checkpoint, Trained, read_any_manifest
from pipeline.formats.release import ListedFile, kind_of
from pipeline.formats.stages import manifest_path


def promised_by(
    project: Path, follow_links: bool = False, manifests: Sequence[Path] | None = None
) -> dict[str, ListedFile]:
    """Every file that these manifests of a project promise, or all of them, with the manifests themselves."""
    if manifests is None:
        manifests = [MANIFESTS / path for path in list_files(project / MANIFESTS) if path.endswith(".json")]
    if not manifests:
        raise EverystepError(f"{project}: neither a release nor a project that has built anything (`dvc repro`)")
    promised: dict[str, str] = {}
    for path in manifests:
        if path == manifest_path("release"):
            continue
        file = safe_join(project, path.as_posix(), follow_links)
        promised[path.as_posix()] = sha256_file(file)
        manifest = read_any_manifest(file)
        if manifest.path != path:
            raise EverystepError(f"{project / path}: is the manifest of {manifest.stage} of {manifest.of}")
        promised |= manifest.promises(everything=True)
        if isinstance(manifest, Trained):
            promised |= dict(_training(project, manifest, follow_links))
    return {path: ListedFile(kind=kind_of(path), digest=digest) for path, digest in promised.items()}


def _training(project: Path, manifest: Trained, follow_links: bool) -> Iterator[tuple[str, str]]:
    """The recipe, and the files of the checkpoints that are there; a record has to say what the manifest says."""
    recipe = (RECIPES / f"{manifest.of}.yaml").as_posix()
    if recipe in manifest.inputs:
        yield recipe, manifest.inputs[recipe]
    for entry in manifest.checkpoints:
        state = RUNS / manifest.of / entry.revision
        folder = safe_join(project, state.as_posix(), follow_links)
        if not folder.is_dir():
            continue
        record = ck.read_record(folder)
        if record.model != manifest.of or Checkpoint.of_record(record) != entry:
            raise Differs(f"{folder}: not the checkpoint that {manifest.path} promises; run `dvc repro`")
        yield (state / ck.WEIGHTS).as_posix(), record.weights_digest
        yield (state / ck.OPTIMIZER).as_posix(), record.optimizer_digest
        for name in (ck.RECORD, ck.CONFIG):
            yield (state / name).as_posix(), sha256_file(folder / name)
