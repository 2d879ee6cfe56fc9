"""Plain text and numbers as Markdown: what people and models write is shown letter by letter."""

import re
from collections.abc import Sequence
from typing import Any

MARKS = re.compile(r"[&<\\*`\[\]|#~$>]|(?<![^\W_])_|_(?![^\W_])")  # `_` inside a word is a letter
ENTITIES = {"&": "&amp;", "<": "&lt;", "\\": "&#92;"}  # a bracket after two backslashes begins a formula on the Hub
BLOCK = re.compile(r"^(\d*)(?=[-+=.)])")


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A table; numbers get thousands separators and are aligned to the right."""
    number = [all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(header))]
    return bare_table(header, [[_cell(cell) for cell in row] for row in rows], number)


def bare_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """A table of cells that are Markdown already; `right` says which columns are aligned to the right."""
    lines = [header, ["---:" if number else "---" for number in right], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listed(counts: dict[str, int]) -> str:
    """What was counted, by kind, in one cell."""
    return ", ".join(f"{kind} {number:,}" for kind, number in counts.items())


def percent(share: float) -> str:
    """A share as text; a small one is never printed as 0.0%."""
    return "under 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def escaped(text: str) -> str:
    """A piece of plain text as Markdown that shows just that, inside a line or a cell of a table."""
    return MARKS.sub(lambda mark: ENTITIES.get(mark[0], f"\\{mark[0]}"), text)


def first(text: str) -> str:
    """The same at the beginning of a line, where it must begin neither a list nor an underline."""
    return BLOCK.sub(r"\1\\", escaped(text))


def quoted(text: str) -> str:
    """Paragraphs of plain text as the inside of a block quote, each line a line."""
    paragraphs = [paragraph.split("\n") for paragraph in re.split(r"\n(?:[^\S\n]*\n)+", text.strip())]
    lines = ["\\\n> ".join(first(line.strip()) for line in paragraph) for paragraph in paragraphs]
    return "\n>\n> ".join(lines)


def literal(text: str) -> str:
    """Any text as an indented block, in which nothing is a mark; a character without a picture is shown as its code."""
    shown = "".join(letter if letter == "\n" or letter.isprintable() else f"\\u{ord(letter):04x}" for letter in text)
    return "\n".join(f"    {line}".rstrip() for line in shown.split("\n"))


def _cell(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return f"{cell:,}" if isinstance(cell, int) else escaped(str(cell))
