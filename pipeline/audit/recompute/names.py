"""Names: the release lists the files that a release has, under names that no file system takes for one another."""

import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.base.paths import MANIFESTS, PARAMS, RECIPES
from pipeline.formats.release import REVISIONS, ROOT, SUMS
from pipeline.formats.stages import COUNTED, OF_FORKS, STAGES
from pipeline.release.code import is_code
from pipeline.release.papers import PAPERS
from pipeline.release.release import Release
from pipeline.release.report.data import data_paths

ALONE = {"LICENSE", "constraints.txt", "dvc.lock", PARAMS.as_posix(), REVISIONS, *PAPERS}
BELOW = ("data/", "runs/", "results/", "scores/")
"""Folders whose files manifests promise (`pipeline.audit.chain`)."""


def name_faults(release: Release) -> Iterator[str]:
    """Each path that a release has no place for, is not in Unicode's form C, or equals another but for case."""
    stages = [stage for stage in (*STAGES, *COUNTED, *OF_FORKS) if stage.name != "release"]
    folders = {f"{MANIFESTS}/{stage.manifest}" for stage in stages if stage.per != "release"}
    known = ALONE | {f"{MANIFESTS}/{stage.manifest}.json" for stage in stages if stage.per == "release"}
    known |= {f"{RECIPES}/{model}.yaml" for model in release.models()}
    known |= {path.as_posix() for path in data_paths(release.models())}
    for path in sorted(release.files):
        if not (path in known or path.startswith(BELOW) or is_code(path) or str(PurePosixPath(path).parent) in folders):
            yield f"{path}: a release has no such file"
        if unicodedata.normalize("NFC", path) != path:
            yield f"{path!a}: is not in Unicode's form C"
    seen: dict[str, str] = {}
    parts = [part for path in (ROOT, SUMS, *release.files) for part in (path, *map(str, PurePosixPath(path).parents))]
    for path in sorted({*parts}):
        folded = unicodedata.normalize("NFC", path.casefold())
        if other := seen.get(folded):
            yield f"{path!a}: differs from {other!a} in case or Unicode form alone"
        seen[folded] = path
