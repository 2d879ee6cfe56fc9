"""Items for a reader of a release, or of any model: stock tasks from the pinned artefact, pairs from the release.

The artefact is what `params.yaml` pins for the stage `evaluation_sets`. It is read from a folder, or fetched once into
the cache, and its digest is compared before it is read.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.base.console import progress, total_of
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files, new_folder, sha256_file
from pipeline.base.paths import PARAMS, TASKS, cache_folder
from pipeline.base.suggest import did_you_mean
from pipeline.base.yaml import check
from pipeline.formats.manifests import TasksMade, path_of
from pipeline.formats.tasks import Item, Task, read_task
from pipeline.release.release import Release
from pipeline.sources.declaration import Artefact
from pipeline.sources.fetch import fetch
from pipeline.stages.evaluation_sets import EvaluationParams
from pipeline.stages.tasks.definitions import STOCK
from pipeline.stages.tasks.stage import stock_asked

Made = dict[str, tuple[list[Item], Task]]


def items_again(
    names: Sequence[str], most: int | None, params: dict[str, Any], release: Release | None, folder: Path | None
) -> Made:
    """Name → items and facts of each task: at most `most` items, or those of the release.

    `params` is the tree of a `params.yaml`, `folder` one that holds the artefact.
    """
    made = _made(release)
    known = [*STOCK, *(name for name in (made.tasks if made else ()) if name not in STOCK)]
    for name in names:
        if name not in known:
            raise EverystepError(
                f"--tasks {name}: no such task; there are {', '.join(known)}{did_you_mean(name, known)}"
            )
    artefact = _artefact(params, folder) if any(name in STOCK for name in names) else Path()
    found: Made = {}
    for name in names:
        declared = made.tasks.get(name) if made else None
        if name in STOCK:
            number = most or (declared.items if declared else params["tasks"]["stock"]["items"])
            found[name] = stock_asked(name, artefact, number)
        elif release and made and declared:
            shard = made.shard_of(name)
            items = list(read_task(release.file(TASKS / shard.path).parent, shard))[:most]
            found[name] = items, declared
    return found


def _made(release: Release | None) -> TasksMade | None:
    """What the release says of its tasks; a fork has none."""
    has_tasks = release is not None and path_of(TasksMade).as_posix() in release.files
    return release.manifest(TasksMade) if release and has_tasks else None


def _artefact(params: dict[str, Any], folder: Path | None) -> Path:
    """A folder that holds the artefact that `params` pins, and nothing else."""
    if "evaluation_sets" not in params:
        raise EverystepError(
            f"{PARAMS}: evaluation_sets: missing, and so is the pin of the items; name another release"
        )
    artefact = check(EvaluationParams, params["evaluation_sets"], f"{PARAMS}: evaluation_sets").artefact
    place = folder or cache_folder() / "artefacts" / artefact.sha256
    if folder is None and not place.is_dir():
        _fetch(artefact, place)
    files = list_files(place) if place.is_dir() else []
    if len(files) != 1:
        raise EverystepError(f"{place}: expected one file, the artefact of `evaluation_sets`, found {len(files)}")
    if sha256_file(place / files[0]) != artefact.sha256:
        raise Differs(f"{place / files[0]}: not the artefact that `evaluation_sets` of {PARAMS} pins")
    return place


def _fetch(artefact: Artefact, place: Path) -> None:
    partial = place.with_name(f"{place.name}.partial")
    with progress("items", None, "bytes") as advance, new_folder(place) as scratch:
        fetch("evaluation_sets", artefact, scratch, partial, total_of(advance))
    shutil.rmtree(partial, ignore_errors=True)
