"""The stages: the one table of their names, in the order of the data, and of what each writes.

Manifests that are no stage's own are in the table `COUNTED`: `coverage`, which a release counts from the others, and
`forgotten`, the certificate of a release that has forgotten documents.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.base.files import plain_name
from pipeline.base.paths import (
    DEDUPLICATED,
    DOCUMENTS,
    EVALUATION_NGRAMS,
    EVALUATION_SETS,
    FILTERED,
    MANIFESTS,
    PARENT,
    PUBLISHED_ROWS,
    RAW,
    RELEASE,
    RESULTS,
    RUNS,
    SCORES,
    SEARCH,
    TASKS,
    TOKENIZER,
    TOKENS,
)

Per = Literal["release", "source", "model"]


class Stage(NamedTuple):
    """One stage of `dvc.yaml`, or a manifest that belongs to none."""

    name: str
    per: Per
    """What it runs once for: the release, each source, or each model."""
    manifest: str
    """Its file below `manifests/`; for a stage that runs per source or model, its folder there."""
    folder: Path | None
    """Where its output is; for a stage that runs per source or model, the folder of all these."""


STAGES = (
    Stage("code", "release", "code", None),
    Stage("fetch", "source", "sources", RAW),
    Stage("extract", "source", "documents", DOCUMENTS),
    Stage("evaluation_sets", "release", "evaluation_sets", EVALUATION_SETS),
    Stage("evaluation_ngrams", "release", "evaluation_ngrams", EVALUATION_NGRAMS),
    Stage("filter", "source", "filtered", FILTERED),
    Stage("dedup", "release", "deduplicated", DEDUPLICATED),
    Stage("tokenizer", "release", "tokenizer", TOKENIZER.parent),
    Stage("tokenize", "release", "tokens", TOKENS),
    Stage("search", "release", "search", SEARCH),
    Stage("tasks", "release", "tasks", TASKS),
    Stage("train", "model", "models", RUNS),
    Stage("evaluate", "model", "evaluations", RESULTS),
    Stage("score", "model", "scores", SCORES),
    Stage("release", "release", "release", RELEASE),
)
ON_ROWS = (Stage("rows", "release", "rows", PUBLISHED_ROWS),)
"""Where a release begins with rows of token ids that others published, this takes the place of all before `train`."""
OF_FORKS = (Stage("parent", "release", "parent", PARENT),)
"""Where a training goes on from a state of another release, this brings it, and the rows with what is known of them."""
COUNTED = (Stage("coverage", "release", "coverage", None), Stage("forgotten", "release", "forgotten", None))
BY_NAME = {stage.name: stage for stage in (*STAGES, *ON_ROWS, *OF_FORKS, *COUNTED)}
DATA_STAGES = tuple(stage.name for stage in STAGES[1 : [stage.name for stage in STAGES].index("train")])
"""What makes rows from corpora, in the order of the data."""


def stages_per(per: Per) -> list[str]:
    """The names of the stages that run once for each `per`, in the order of the data."""
    return [stage.name for stage in STAGES if stage.per == per]


def stages_of_model(is_fork: bool) -> list[str]:
    """The stages that run for each model. A fork has no items of stock tasks, so no stage scores its models."""
    return [name for name in stages_per("model") if not (is_fork and name == "score")]


def manifest_path(name: str, of: str | None = None) -> Path:
    """Where the manifest of a stage is: `manifests/tokens.json`; of a source or model `manifests/models/NAME.json`."""
    if name not in BY_NAME:
        raise EverystepError(f"{name!r} is not a stage; there are {', '.join(BY_NAME)}")
    stage = BY_NAME[name]
    if (of is None) != (stage.per == "release"):
        what = f"runs for each {stage.per}; name one" if of is None else f"runs once, not for {of!r}"
        raise EverystepError(f"stage {name}: {what}")
    return MANIFESTS / (f"{stage.manifest}.json" if of is None else f"{stage.manifest}/{plain_name(of, name)}.json")


def output_folder(name: str, of: str | None = None) -> Path:
    """Where the outputs of a stage are: `data/tokens`, `runs/MODEL`."""
    folder = BY_NAME[name].folder
    if folder is None:
        raise EverystepError(f"{name} has no outputs")
    return folder if of is None else folder / plain_name(of, name)
