"""Tasks of evaluation: items as a model is asked them, a line each, in `data/tasks/TASK.jsonl.zst`.

An item has choices. Each is a context and a continuation, to whose tokens a model gives a log-likelihood after the
context; the texts are those of the harness, character by character. In a partial evaluation (WinoGrande) the contexts
differ and the continuation is the same. A task of one choice (LAMBADA) asks whether its continuation is the greedy one.
`docs/reference/tasks.md` says what each task is; how many items are left out, and why, is in the manifest.
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple, Self

import numpy as np
from pydantic import Field, model_validator

from pipeline.base.errors import EverystepError
from pipeline.formats.canonical import Json, canonical
from pipeline.formats.documents import id_hashes
from pipeline.formats.lines import Shard, encode_line, promised_lines, write_lines
from pipeline.formats.typed import Count, Counts, Sha256, Typed

MAX_CHOICES = 100
DIGITS = 6
"""Decimal digits of chance and scores."""
TextIds = Callable[[Sequence[str]], Sequence[Sequence[int]]]
"""Token ids of each of several texts, without an end token."""


class Choice(Typed):
    """A context, and a continuation whose likelihood is asked for."""

    context: str
    """What the model reads; it has a character that is no space."""
    continuation: str
    """What follows, with the delimiter of the task before it."""

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not self.context.strip() or not self.continuation.strip():
            raise ValueError("context and continuation need a character that is no space")
        return self


class Item(Typed):
    """One question."""

    id: Annotated[str, Field(min_length=1)]
    """Its name in the data, or its place there, counted from 0."""
    choices: Annotated[list[Choice], Field(min_length=1, max_length=MAX_CHOICES)]
    """What is compared, in the order of the data."""
    gold: Annotated[int, Field(ge=0)]
    """Place of the right choice."""

    @model_validator(mode="after")
    def _has_gold(self) -> Self:
        if self.gold >= len(self.choices):
            raise ValueError(f"gold is {self.gold}, but there are {len(self.choices)} choices")
        return self


class Stock(Typed):
    """The definition of a task in the harness."""

    task: str
    """Its name there."""
    files: dict[str, Sha256]
    """Path of each file that defines it, below `lm_eval/tasks` → SHA-256."""


class Task(Typed):
    """What a manifest says of a task."""

    stock: Stock | None
    """The definition in the harness; null for minimal pairs, which are ours."""
    definition: dict[str, Json]
    """How an item is made."""
    definition_sha256: Sha256
    """SHA-256 of the canonical JSON of the definition."""
    data_sha256: Sha256
    """SHA-256 of the lines of all items, in the order of the data, before any is chosen."""
    metrics: Annotated[list[str], Field(min_length=1)]
    """Metrics by the names of the harness: `acc`, `acc_norm`, `perplexity`."""
    delimiter: str
    """What a continuation begins with before the text of the choice, whose characters divide in `acc_norm`."""
    items: Annotated[int, Field(ge=1)]
    """Items that are asked."""
    found: Count
    """Items in the data, those included that are not asked."""
    left_out: Counts
    """Reason → items that are not asked; `not_chosen` if nothing is wrong with them."""
    chance: Annotated[float, Field(ge=0, le=1)]
    """Mean accuracy of guessing; 0 for one choice."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if self.found != self.items + sum(self.left_out.values()):
            raise ValueError(f"found is {self.found}, but {self.items} are asked and {self.left_out} left out")
        if self.definition_sha256 != hashlib.sha256(canonical(self.definition)).hexdigest():
            raise ValueError("definition_sha256: not that of the definition")
        return self


class Prompt(NamedTuple):
    """A choice as token ids."""

    context: list[int]
    continuation: list[int]


def ask(
    name: str,
    items: Sequence[Item],
    most: int,
    left_out: Mapping[str, int],
    *,
    definition: dict[str, Json],
    metrics: Sequence[str] = ("acc",),
    delimiter: str = "",
    stock: Stock | None = None,
) -> tuple[list[Item], Task]:
    """Choose at most `most` items, those of the lowest hashes, in their order; return them with what is said of them.

    No item is an error: what would be asked is nothing.
    """
    if not items:
        told = ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items())) or "none found"
        raise EverystepError(f"task {name}: no item to ask ({told}); correct its data, or leave the task out")
    hashes = np.array(id_hashes((item.id for item in items), f"task {name}"), dtype=np.uint64)
    asked = [items[place] for place in sorted(np.argsort(hashes, kind="stable")[:most].tolist())]
    not_chosen = {"not_chosen": len(items) - len(asked)} if len(items) > len(asked) else {}
    task = Task(
        stock=stock,
        definition=definition,
        definition_sha256=hashlib.sha256(canonical(definition)).hexdigest(),
        data_sha256=hashlib.sha256(b"".join(map(item_line, items))).hexdigest(),
        metrics=[*metrics],
        delimiter=delimiter,
        items=len(asked),
        found=len(items) + sum(left_out.values()),
        left_out={**left_out, **not_chosen},
        chance=round(math.fsum(1 / len(item.choices) for item in asked if len(item.choices) > 1) / len(asked), DIGITS),
    )
    return asked, task


def item_line(item: Item) -> bytes:
    """The line of an item."""
    return encode_line(item.to_json())


def write_task(folder: Path, name: str, items: Iterable[Item]) -> Shard:
    """Write the items of a task into `folder`."""
    return write_lines(folder / task_file(name), map(item_line, items), task_file(name))


def read_task(folder: Path, shard: Shard) -> Iterator[Item]:
    """Yield the items of a task in `folder`; after the last, `Differs` is raised unless they are what was promised."""
    for number, line in enumerate(promised_lines(folder, shard), 1):
        yield Item.parse(line, f"{folder / shard.path}:{number}")


def task_file(name: str) -> str:
    """The name of the file of a task."""
    return f"{name}.jsonl.zst"


def prompts(choices: Sequence[Choice], ids_of: TextIds) -> list[Prompt]:
    """The token ids of each choice, split as the harness splits them for causal models.

    Spaces at the end of a context go to the continuation. Context and continuation are encoded together; the
    continuation has the ids after as many as the context has by itself.
    """
    ends = [len(choice.context.rstrip()) for choice in choices]
    wholes = ids_of([choice.context + choice.continuation for choice in choices])
    contexts = ids_of([choice.context[:end] for choice, end in zip(choices, ends, strict=True)])
    return [Prompt(list(context), list(whole[len(context) :])) for whole, context in zip(wholes, contexts, strict=True)]
