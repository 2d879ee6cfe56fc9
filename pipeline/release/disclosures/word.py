"""A word: a value of a paper that nobody can compute from the release. Everything else in a disclosure is computed.

A disclosure is first a tree of values and words. `plain` is what a program reads of it, `pointers` says which of its
values are words, and `told` shows one value to a person, a word with the name of who gave it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.formats.canonical import Json
from pipeline.release.markdown import escaped

NOT_DECLARED = "not declared"


@dataclass(frozen=True)
class Word:
    """What the publisher says; `None`: nothing was declared."""

    value: Json


@dataclass(frozen=True)
class Markdown:
    """A computed answer for people that is Markdown already, such as links."""

    text: str


def plain(tree: Any) -> Json:
    """The tree without the mark of its words."""
    if isinstance(tree, Word):
        return tree.value
    if isinstance(tree, dict):
        return {key: plain(value) for key, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, list) else tree


def pointers(tree: Any, at: str = "") -> Iterator[str]:
    """The JSON pointer (RFC 6901) of each word of a tree, where something was declared."""
    if isinstance(tree, Word) and tree.value is not None:
        yield at
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in children:
        yield from pointers(value, f"{at}/{str(key).replace('~', '~0').replace('/', '~1')}")


def told(value: Any, whose: str) -> str:
    """One value of the tree in a line of Markdown; a word of `whose` is marked as theirs."""
    if isinstance(value, Word):
        return f"*{NOT_DECLARED}*" if value.value is None else f"{told(value.value, whose)} {mark(whose)}"
    if isinstance(value, Markdown):
        return value.text
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return escaped(" ".join(str(value).split()))


def mark(whose: str) -> str:
    """What follows a word in Markdown."""
    return f"*(word of {escaped(whose)})*"
