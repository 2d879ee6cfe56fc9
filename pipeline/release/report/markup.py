"""HTML, written as functions. A text that becomes part of an element is escaped unless it is `Html` already.

`verify` renders the page again and names the first line that differs, so elements that hold others have lines of their
own.
"""

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

LINES = frozenset(
    """
    article aside caption dd details div dl dt figcaption figure footer g header li main nav ol p section summary svg
    table tbody tfoot thead tr ul
    """.split()  # noqa: SIM905
)
"""Elements that begin on a line of their own."""
OPENING = re.compile(r"<([a-z]+)")
EMPTY = frozenset({"br", "circle", "col", "hr", "line", "path", "polyline", "rect"})
"""Elements that hold nothing."""


class Html(str):
    """Markup; every other text is escaped when it becomes part of some."""

    __slots__ = ()


Content = str | int | None
"""What an element holds: markup or text; a number gets thousands separators, `None` is nothing."""


class Marked(NamedTuple):
    """A cell of a table with a class of its own."""

    content: Content
    class_: str


Cell = Content | Marked


class Column(NamedTuple):
    """A column of a table: its heading, and whether it holds numbers."""

    title: Content
    is_number: bool = False


def right(title: Content) -> Column:
    """A column of numbers, aligned to the right."""
    return Column(title, True)


def markup(content: Content) -> Html:
    """A piece of a page."""
    if content is None:
        return Html()
    if isinstance(content, Html):
        return content
    return Html(escape(content if isinstance(content, str) else f"{content:,}"))


def joined(parts: Iterable[Content], between: str = "") -> Html:
    """Pieces one after another."""
    return Html(between.join(markup(part) for part in parts))


def element(tag: str, *content: Content, **attributes: Content) -> Html:
    """An element. An attribute that is `None` is omitted; `_` in its name is a hyphen, a last one is dropped."""
    said = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in EMPTY:
        return Html(f"<{tag}{said}/>")
    parts = [markup(part) for part in content if part is not None]
    on_lines = any(opening[1] in LINES for opening in map(OPENING.match, parts) if opening)
    between = "\n" if on_lines else ""
    return Html(f"<{tag}{said}>{between}{between.join(parts)}{between}</{tag}>")


def paragraph(*content: Content, class_: str | None = None) -> Html:
    """A paragraph."""
    return element("p", *content, class_=class_)


def code(text: str) -> Html:
    """A name, a path or a command."""
    return element("code", text)


def with_error(value: float, error: float | None, digits: int = 4) -> Html:
    """A number with its standard error, if there is one."""
    told = "" if error is None else element("small", f" ± {error:.{digits}f}")
    return joined([f"{value:.{digits}f}", told])


def digest(text: str) -> Html:
    """A digest, of which a reader sees the beginning and copies the whole."""
    return element("code", text, class_="digest")


def link(href: str, *content: Content) -> Html:
    """A link to a place of this page or a file of the release."""
    return element("a", *content, href=href)


def outside(text: str) -> Html:
    """Somebody's address as a link, if it is one of the web; else the text as it is."""
    return element("a", text, href=text, rel="noreferrer") if re.fullmatch(r"https?://\S+", text) else markup(text)


def listed(items: Iterable[Content], tag: str = "ul", class_: str | None = None) -> Html:
    """A list."""
    return element(tag, *(element("li", item) for item in items), class_=class_)


def slug(text: str) -> str:
    """A name for an element, from its text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def table(
    caption: str, columns: Sequence[Column | str], rows: Iterable[Sequence[Cell]], class_: str | None = None
) -> Html:
    """A table whose first column names its rows, in a box that scrolls by itself."""
    heads = [column if isinstance(column, Column) else Column(column) for column in columns]
    name = f"table-{slug(caption)}"
    header = [element("th", head.title, scope="col", class_="n" if head.is_number else None) for head in heads]
    body = [
        element(
            "tr", *(_cell(cell, head, place == 0) for place, (cell, head) in enumerate(zip(row, heads, strict=True)))
        )
        for row in rows
    ]
    whole = element(
        "table",
        element("caption", caption, id=name),
        element("thead", element("tr", *header)),
        element("tbody", *body),
        class_=class_,
    )
    return element("div", whole, class_="scroll", role="region", aria_labelledby=name, tabindex="0")


def _cell(cell: Cell, head: Column, is_first: bool) -> Html:
    content, mark = cell if isinstance(cell, Marked) else (cell, "")
    classes = " ".join(name for name in ("n" if head.is_number else "", mark) if name)
    if is_first:
        return element("th", content, scope="row", class_=classes or None)
    return element("td", content, class_=classes or None)


def folded(summary: str, *content: Content) -> Html:
    """What a reader opens if they want it."""
    return element("details", element("summary", summary), *content)


def section(id: str, title: str, *content: Content) -> Html:
    """A section of the page, with its heading."""
    heading = element("h2", title, id=f"{id}-title")
    return element("section", heading, *content, id=id, aria_labelledby=f"{id}-title")
