"""Items from the rows of an artefact, by a definition; a row that has none is counted with a reason.

| reason | what is wrong |
|---|---|
| `no_text` | a column is missing or holds no text |
| `other_form` | what should be around the context, or the mark in it, is missing |
| `no_context` | the context, or what follows it, is blank |
| `no_choices` | too few choices or too many |
| `no_gold` | the right choice is not one of them |
| `repeated_id` | another item has the same id |
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.formats.tasks import Choice, Item
from pipeline.sources.items import rows_of
from pipeline.sources.rows import as_text, column
from pipeline.stages.tasks.definitions import Definition

COLUMN = re.compile(r"\{([\w.]+)\}")


class _NoItem(Exception):  # noqa: N818  # a signal, not an error
    """Reason why a row is no item."""


def items_of(folder: Path, definition: Definition) -> tuple[list[Item], dict[str, int]]:
    """Every item of the artefact in `folder`, in the order of its rows, and reason → rows that are none.

    Rows that give the same item under the same id, such as one for each answer, are one.
    """
    items: dict[str, Item] = {}
    left_out: Counter[str] = Counter()
    for number, row in enumerate(rows_of(folder, definition.members)):
        try:
            item = item_of(row, number, definition)
        except _NoItem as reason:
            left_out[str(reason)] += 1
            continue
        if items.setdefault(item.id, item) != item:
            left_out["repeated_id"] += 1
    return [*items.values()], dict(sorted(left_out.items()))


def item_of(row: Any, number: int, definition: Definition) -> Item:
    """Make the item in a row, the one with this number."""
    context = _cleaned(_filled(definition.context, row, definition), definition)
    choices = [_cleaned(text, definition) for text in _choices(row, definition)]
    least, most = definition.num_choices
    if not least <= len(choices) <= most:
        raise _NoItem("no_choices")
    before, after = definition.without
    if not context.startswith(before) or not context.endswith(after) or len(context) < len(before) + len(after):
        raise _NoItem("other_form")
    context = context[len(before) : len(context) - len(after)]
    if definition.partial is None:
        told = [(context, choice) for choice in choices]
    else:
        start, mark, rest = context.partition(definition.partial)
        if not mark:
            raise _NoItem("other_form")
        told = [(start + choice, rest.strip()) for choice in choices]
    if not all(text.strip() for pair in told for text in pair):
        raise _NoItem("no_context" if choices else "no_choices")
    return Item(
        id=str(number) if definition.id is None else as_text(column(row, definition.id)),
        choices=[Choice(context=text, continuation=definition.delimiter + choice) for text, choice in told],
        gold=_gold(row, len(choices), definition),
    )


def _choices(row: Any, definition: Definition) -> list[str]:
    found: list[str] = []
    for template in definition.choices:
        whole = COLUMN.fullmatch(template)
        value = column(row, whole[1]) if whole else None
        found += map(_text, value) if isinstance(value, list) else [_filled(template, row, definition)]
    return found


def _gold(row: Any, num_choices: int, definition: Definition) -> int:
    if isinstance(definition.gold, int):
        return definition.gold
    answers = definition.answers or tuple(map(str, range(num_choices)))
    told = as_text(column(row, definition.gold)).strip()
    if told not in answers[:num_choices]:
        raise _NoItem("no_gold")
    return answers.index(told)


def _filled(template: str, row: Any, definition: Definition) -> str:
    def value(match: re.Match[str]) -> str:
        text = _text(column(row, match[1]))
        if match[1] in definition.left_stripped:
            text = text.lstrip()
        return text.capitalize() if match[1] in definition.capitalized else text

    return COLUMN.sub(value, template)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _NoItem("no_text")
    return value


def _cleaned(text: str, definition: Definition) -> str:
    if not definition.cleaned:
        return text
    text = text.strip()
    for pattern, replacement in definition.cleaned:
        text = replacement.join(re.split(pattern, text))
    return text
