"""Steps of cleaning by name: what `filter.steps` lists in `params.yaml` becomes blocks, in that order.

A new step is a new line of `STEPS`.
"""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field, create_model, model_validator

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


class StepKind(NamedTuple):
    """Model of the rules of a step, None if it has none, and the function that makes its block: from these rules, the
    languages of the source, and the index of the evaluation sets."""

    rules: type[Section] | None
    make: Callable[[Any, list[str], Any], Block]


STEPS: dict[str, StepKind] = {
    "encoding": StepKind(None, lambda rules, languages, index: repaired),
    "normalize": StepKind(None, lambda rules, languages, index: normalized),
    "c4": StepKind(C4, lambda rules, languages, index: c4(rules)),
    "gopher_quality": StepKind(GopherQuality, lambda rules, languages, index: gopher_quality(rules)),
    "gopher_repetition": StepKind(GopherRepetition, lambda rules, languages, index: gopher_repetition(rules)),
    "fineweb": StepKind(FineWeb, lambda rules, languages, index: fineweb(rules)),
    "language": StepKind(Language, lambda rules, languages, index: language(rules, languages)),
    "personal_data": StepKind(None, lambda rules, languages, index: without_personal_data),
    "contamination": StepKind(None, lambda rules, languages, index: contamination(index)),
}


def _known(step: str) -> str:
    if step not in STEPS:
        raise ValueError(f"{step!r} is not a step; choose from {', '.join(STEPS)}")
    return step


_Rules = create_model(  # type: ignore[call-overload]
    "_Rules", __base__=Section, **{name: (kind.rules | None, None) for name, kind in STEPS.items() if kind.rules}
)


class Steps(_Rules):  # a field for the rules of each step
    """Steps to run, in order, and their rules. Rules of a step that is not listed are checked but not used."""

    steps: Annotated[list[Annotated[str, AfterValidator(_known)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _complete(self) -> "Steps":
        for step in self.steps:
            if self.steps.count(step) > 1:
                raise ValueError(f"steps: {step} is listed twice; list it once")
            if STEPS[step].rules and getattr(self, step) is None:
                raise ValueError(f"{step}: missing; add its rules, or remove it from `steps`")
        return self


def make_blocks(params: Steps, languages: list[str], index: EvaluationIndex | None) -> list[tuple[str, Block]]:
    """Make a block for each step. `languages` are those of the source; only `contamination` needs `index`."""
    return [(step, STEPS[step].make(getattr(params, step, None), languages, index)) for step in params.steps]
