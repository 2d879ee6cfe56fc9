"""The steps of cleaning by name: what `params.yaml` lists in `filter.steps` becomes blocks, in that order."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.base.yaml import Section
from pipeline.blocks.block import Block
from pipeline.blocks.contamination import EvaluationIndex, contamination
from pipeline.blocks.encoding import repaired
from pipeline.blocks.language import Language, language
from pipeline.blocks.normalize import normalized
from pipeline.blocks.personal_data import without_personal_data
from pipeline.blocks.quality import (
    C4,
    FineWeb,
    GopherQuality,
    GopherRepetition,
    c4,
    fineweb,
    gopher_quality,
    gopher_repetition,
)

Step = Literal[
    "encoding",
    "normalize",
    "c4",
    "gopher_quality",
    "gopher_repetition",
    "fineweb",
    "language",
    "personal_data",
    "contamination",
]
WITH_RULES = ("c4", "gopher_quality", "gopher_repetition", "fineweb", "language")


class Steps(Section):
    """Which steps run, in which order, by which rules. Rules of a step that is not listed are checked and not used."""

    steps: Annotated[list[Step], Field(min_length=1)]
    c4: C4 | None = None
    gopher_quality: GopherQuality | None = None
    gopher_repetition: GopherRepetition | None = None
    fineweb: FineWeb | None = None
    language: Language | None = None

    @model_validator(mode="after")
    def _complete(self) -> "Steps":
        for step in self.steps:
            if self.steps.count(step) > 1:
                raise ValueError(f"steps: {step} stands twice; a step runs once")
            if step in WITH_RULES and getattr(self, step) is None:
                raise ValueError(f"{step}: missing; add its rules, or take it out of `steps`")
        return self


def make_blocks(params: Steps, languages: list[str], index: EvaluationIndex | None) -> list[tuple[Step, Block]]:
    """A block for each step. `languages` are those of the source; `index` is needed for `contamination` alone."""
    return [(step, _make(step, params, languages, index)) for step in params.steps]


def _make(step: Step, params: Steps, languages: list[str], index: EvaluationIndex | None) -> Block:
    match step:
        case "encoding":
            return repaired
        case "normalize":
            return normalized
        case "personal_data":
            return without_personal_data
        case "contamination":
            assert index is not None
            return contamination(index)
        case "language":
            assert params.language is not None
            return language(params.language, languages)
        case "c4":
            assert params.c4 is not None
            return c4(params.c4)
        case "gopher_quality":
            assert params.gopher_quality is not None
            return gopher_quality(params.gopher_quality)
        case "gopher_repetition":
            assert params.gopher_repetition is not None
            return gopher_repetition(params.gopher_repetition)
        case "fineweb":
            assert params.fineweb is not None
            return fineweb(params.fineweb)
