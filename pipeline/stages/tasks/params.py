"""The section `tasks` of `params.yaml`."""

from typing import Annotated

from pydantic import AfterValidator, Field

from pipeline.base.params import Positive
from pipeline.base.suggest import did_you_mean
from pipeline.base.yaml import Section
from pipeline.blocks.pairs import RULES
from pipeline.stages.tasks.definitions import STOCK


def _known_task(name: str) -> str:
    if name not in STOCK:
        raise ValueError(f"{name!r} is no task; there are {', '.join(STOCK)}{did_you_mean(name, STOCK)}")
    return name


def _known_rule(name: str) -> str:
    if name not in RULES:
        raise ValueError(f"{name!r} is no rule of pairs; there are {', '.join(RULES)}{did_you_mean(name, RULES)}")
    return name


def _each_once(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("list each once")
    return names


Task = Annotated[str, AfterValidator(_known_task)]
Rule = Annotated[str, AfterValidator(_known_rule)]


class StockParams(Section):
    """Stock tasks, and how many items of each are asked."""

    items: Positive
    names: Annotated[list[Task], AfterValidator(_each_once)]


class PairsParams(Section):
    """How many minimal pairs of each rule are asked, the characters of a context and the words of a continuation, and
    from the documents of which sources each rule makes them."""

    items: Positive
    characters: Positive
    words: Annotated[int, Field(ge=3)]
    sources: dict[Rule, Annotated[list[str], Field(min_length=1), AfterValidator(_each_once)]]


class CountingParams(Section):
    """Tokens of the longest run that is counted, and the training rows in which, the first of the order."""

    order: Annotated[int, Field(ge=1, le=9)]
    rows: Positive


class TasksParams(Section):
    """What models are asked, and what counting is compared with them."""

    stock: StockParams
    pairs: PairsParams
    counting: CountingParams
