"""Sections of `params.yaml`. A stage asks for its own section and never sees the rest."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, create_model

from pipeline.base.errors import EverystepError
from pipeline.base.files import plain_name
from pipeline.base.paths import PARAMS
from pipeline.base.yaml import Section, check, load_yaml

SECTIONS = (
    "sources",
    "descriptions",
    "evaluation_sets",
    "filter",
    "dedup",
    "tokenizer",
    "mixture",
    "tokenize",
    "tasks",
    "evaluate",
    "score",
    "release",
    "models",
)
OPTIONAL = ("executor", "parent_address")
"""Sections that say how a build runs, not what it builds: no stage depends on them, and they change no byte."""
SECTION_OF_FORKS, SECTION_OF_FORGETTING = "parent", "forget"
"""The section that only a project has whose training goes on from a state of another release, and the one that it has
besides if it goes on without some documents."""
SECTIONS_ON_ROWS = ("rows", "descriptions", "models")
"""Sections of a release that begins with published rows of token ids: nothing is left to clean or to tokenize."""
Chosen = TypeVar("Chosen", bound=Section)
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]


def load_params(path: Path = PARAMS) -> dict[str, Any]:
    """Read the whole tree, and check that it has exactly the known sections."""
    tree = load_yaml(path)
    known = set(SECTIONS_ON_ROWS if "rows" in tree else SECTIONS) | ({SECTION_OF_FORKS} & set(tree))
    known |= {SECTION_OF_FORGETTING} & set(tree) if SECTION_OF_FORKS in tree else set()
    unknown, missing = sorted(set(tree) - known - set(OPTIONAL)), sorted(known - set(tree))
    if unknown or missing:
        lines = [f"{path}: {key}: unknown section; remove it or correct its spelling" for key in unknown]
        lines += [f"{path}: {key}: missing; add this section" for key in missing]
        raise EverystepError("\n".join(lines))
    return tree


def source_names(path: Path = PARAMS) -> list[str]:
    """List the declared sources, sorted by name: their order in the file means nothing."""
    sources = load_params(path)["sources"]
    if not isinstance(sources, dict) or not sources:
        raise EverystepError(f"{path}: sources: declare at least one source")
    return sorted(plain_name(name, f"{path}: sources") for name in sources)


def model_names(path: Path = PARAMS) -> list[str]:
    """List the models of the suite in the order of the file; each has a recipe of its name."""
    models = load_params(path)["models"]
    if not isinstance(models, list) or not models:
        raise EverystepError(f"{path}: models: list at least one model, by the name of its recipe")
    names = [plain_name(name, f"{path}: models") for name in models]
    if len(set(names)) != len(names):
        raise EverystepError(f"{path}: models: list each model once")
    return names


def load_section(model: type[Chosen], name: str, path: Path = PARAMS) -> Chosen:
    """Read and check the section `name`; an error names `params.yaml: name.key`. An optional one may be missing."""
    located: Any = create_model(model.__name__, __base__=Section, **{name: (model, ...)})  # type: ignore[call-overload]
    section: Chosen = getattr(check(located, {name: load_params(path).get(name, {})}, str(path)), name)
    return section
