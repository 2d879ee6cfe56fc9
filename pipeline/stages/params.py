"""`params.yaml`, section by section. A stage asks for its own section and never sees the rest."""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, create_model, model_validator

from pipeline.formats.errors import EverystepError
from pipeline.formats.project import PARAMS
from pipeline.formats.yaml import Section, check, load_yaml
from pipeline.sources.declaration import Source, parse_source

SECTIONS = (
    "sources",
    "evaluation_sets",
    "filter",
    "dedup",
    "tokenizer",
    "mixture",
    "tokenize",
    "evaluate",
    "release",
    "models",
)
OPTIONAL = ("executor",)
"""How a build runs, not what it is: no stage depends on it, and it enters no byte."""
SECTIONS_ON_ROWS = ("rows", "models")
"""Of a release that begins with rows of token ids that others published: nothing is left to clean or to tokenize."""
Chosen = TypeVar("Chosen", bound=Section)
Positive = Annotated[int, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.,-]+$")]


class RayParams(Section):
    """The cluster to connect to (`RAY_ADDRESS` goes before `address`), and what each part asks of it."""

    address: str = "auto"
    cpus: Positive = 1
    memory_gb: Positive = 2


class SlurmParams(Section):
    """Where the jobs go, and what each part asks for. `memory_gb` is per processor, as Slurm counts."""

    partition: Word
    time: Annotated[str, Field(pattern=r"^([0-9]+-)?[0-9]+(:[0-9]{2}){0,2}$")]
    cpus: Positive = 1
    memory_gb: Positive = 2
    qos: Word | None = None


class ExecutorParams(Section):
    """Who runs the parts of a data stage. A bare word, `executor: ray`, is the same as `executor: {name: ray}`."""

    name: Literal["local", "ray", "slurm"] = "local"
    workers: Positive | None = None
    """Parts at a time. Unset: one for each processor of this machine, or as many as the cluster takes."""
    ray: RayParams = RayParams()
    slurm: SlurmParams | None = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, tree: Any) -> Any:
        return {"name": tree} if isinstance(tree, str) else tree


class FillInTheMiddle(Section):
    """The share of training documents whose middle is moved to their end, and the share of these with the suffix
    first."""

    share: Share
    suffix_first_share: Share


class TokenizeParams(Section):
    """Rows of `context + 1` ids; the seed of the order in which training reads them; how many documents of each source
    and split are compared with the reference, beside the longest."""

    context: Positive
    seed: Seed
    checked_documents: Positive
    fill_in_the_middle: FillInTheMiddle | None = None


def load_params(path: Path = PARAMS) -> dict[str, Any]:
    """The whole tree after a check that exactly the known sections stand in it."""
    tree = load_yaml(path)
    known = set(SECTIONS_ON_ROWS if "rows" in tree else SECTIONS)
    unknown, missing = sorted(set(tree) - known - set(OPTIONAL)), sorted(known - set(tree))
    if unknown or missing:
        lines = [f"{path}: {key}: unknown section; remove it or correct its spelling" for key in unknown]
        lines += [f"{path}: {key}: missing; add this section" for key in missing]
        raise EverystepError("\n".join(lines))
    return tree


def source_names(path: Path = PARAMS) -> list[str]:
    """Declared sources, sorted by name: their order in the file means nothing."""
    sources = load_params(path)["sources"]
    if not isinstance(sources, dict) or not sources:
        raise EverystepError(f"{path}: sources: declare at least one source")
    for name in sources:
        if not isinstance(name, str):
            raise EverystepError(f"{path}: sources: {name}: YAML reads this name as no text; write it in quotes")
    return sorted(sources)


def load_source(name: str, path: Path = PARAMS) -> Source:
    """One declared source."""
    names = source_names(path)
    if name not in names:
        raise EverystepError(f"{path}: sources.{name}: not declared; there are {', '.join(names)}")
    return parse_source(name, load_params(path)["sources"][name], str(path))


def model_names(path: Path = PARAMS) -> list[str]:
    """The models of the suite, in the order of the file; each has a recipe of its name."""
    models = load_params(path)["models"]
    valid = isinstance(models, list) and models and all(isinstance(name, str) for name in models)
    if not valid or len(set(models)) != len(models):
        raise EverystepError(f"{path}: models: list each model once, by the name of its recipe")
    return list(models)


def load_section(model: type[Chosen], name: str, path: Path = PARAMS) -> Chosen:
    """The section `name`, checked; an error names `params.yaml: name.key`. An optional one may be missing."""
    located: Any = create_model(model.__name__, __base__=Section, **{name: (model, ...)})  # type: ignore[call-overload]
    section: Chosen = getattr(check(located, {name: load_params(path).get(name, {})}, str(path)), name)
    return section
