"""Fetch the evaluation sets that must not occur in training documents: the pinned artefact, byte for byte.

Reads the world and `evaluation_sets.artefact` of `params.yaml`; writes `data/evaluation_sets` and
`manifests/evaluation_sets.json`.
"""

from typing import Annotated

from pydantic import Field

from pipeline.base.console import progress, total_of
from pipeline.base.files import fresh_folder
from pipeline.base.params import Positive, load_section
from pipeline.base.paths import EVALUATION_SETS, WORK
from pipeline.base.yaml import Section
from pipeline.formats.current import take_basis, write_manifest
from pipeline.formats.manifests import EvaluationSets
from pipeline.sources.declaration import Artefact, Text
from pipeline.sources.fetch import fetch


class EvaluationSet(Section):
    """Set of items: rows of `.arrow` streams or lines of `.jsonl`, also `.gz`, in the artefact."""

    members: Text
    """Shell pattern of the files or archive members; `*` also crosses folders."""
    texts: Annotated[list[Text], Field(min_length=1)]
    """Columns whose texts are searched for, each by itself: a string or each string of a list; `a.b` is field b of
    column a."""
    id: Text | None = None
    """Column that names an item. None: its number in the set, from 0."""


class EvaluationParams(Section):
    """Artefact of the evaluation sets, words in an n-gram, and the sets."""

    artefact: Artefact
    words: Positive
    sets: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")], EvaluationSet], Field(min_length=1)]


def evaluation_sets() -> None:
    """Fetch the artefact that holds the evaluation sets."""
    params = load_section(EvaluationParams, "evaluation_sets")
    basis = take_basis(sections=["evaluation_sets.artefact"])
    folder = fresh_folder(EVALUATION_SETS)
    partial = WORK / "fetch" / "evaluation_sets"
    with progress("evaluation_sets", None, "bytes") as advance:
        files = fetch("evaluation_sets", params.artefact, folder, partial, total_of(advance))
    write_manifest(
        EvaluationSets,
        None,
        basis,
        parameters=params.artefact.model_dump(),
        outputs={},
        files=files,
    )
