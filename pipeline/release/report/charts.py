"""Charts as SVG, drawn by hand: a plotting library would give other bytes in each of its versions, and a reader has
none.

A chart says its colours by class (`PALETTE`), so that one drawing serves light and dark. It has a title and a
description for those who do not see it; its numbers belong into a table beside it.
"""

from collections.abc import Iterator, Sequence
from html import escape
from math import ceil, floor
from typing import NamedTuple

TICKS = 5
"""Ticks of an axis, about."""
SHAPES = 6
"""Different markers."""
PALETTE = (
    ("#0b5fa5", "#7ab8f5"),
    ("#b4500b", "#ffa65c"),
    ("#1a7549", "#6fd39a"),
    ("#7b3fb3", "#cda6f5"),
    ("#b3261e", "#ff8f86"),
    ("#0d6f78", "#5fd0d8"),
    ("#7d5223", "#dbac7d"),
    ("#5b6067", "#b8bcc2"),
)
"""Colours of lines on a light and on a dark ground; each has a contrast of at least 4.5 to it."""
GROUND, INK, GRID = ("#ffffff", "#15171b"), ("#44484f", "#b9bec6"), ("#dedad2", "#343941")
UNITS = ((10**9, "billions"), (10**6, "millions"), (1000, "thousands"), (1, ""))
Range = tuple[float, float]
Points = Sequence[tuple[float, float]]


class Line(NamedTuple):
    """A line of a chart."""

    name: str
    """What it is, for its legend and its marks."""
    points: Points
    """Its points from left to right."""
    color: int
    """Number of its colour; lines of one colour belong together."""
    is_marked: bool = True
    """Whether each point has a mark."""
    is_dashed: bool = False
    """Whether it is a sibling, drawn lighter than the line that it belongs to."""


class TokenAxis(NamedTuple):
    """An axis of tokens: its unit and its title."""

    unit: int
    title: str


class Frame(NamedTuple):
    """Size of a chart and its margins."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


class Chart(NamedTuple):
    """A chart of lines over one axis."""

    title: str
    description: str
    x_title: str
    y_title: str
    lines: Sequence[Line]
    from_zero: bool = False
    """Whether the upright axis begins with 0."""


def draw(chart: Chart, frame: Frame, attributes: str = "", style: str = "") -> Iterator[str]:
    """The lines of an SVG element. `attributes` join its own; `style` is its style sheet where no page has one."""
    xs, ys = _axes(chart)
    end = max(point[0] for line in chart.lines for point in line.points) or xs[-1]
    left, right, top, bottom = frame.left, frame.width - frame.right, frame.top, frame.height - frame.bottom

    def x(value: float) -> float:
        return left + value / end * (right - left)

    def y(value: float) -> float:
        return bottom - (value - ys[0]) / (ys[-1] - ys[0]) * (bottom - top)

    yield f'<svg viewBox="0 0 {frame.width} {frame.height}" role="img"{attributes}>'
    yield f"<title>{escape(chart.title)}</title>"
    yield f"<desc>{escape(chart.description)}</desc>"
    yield from (
        [f"<style>{style}</style>", f'<rect class="ground" width="{frame.width}" height="{frame.height}"/>']
        if style
        else []
    )
    for tick, label in zip(xs, labels(xs), strict=True):
        yield f'<path class="grid" d="M{x(tick):.1f} {top}V{bottom}"/>'
        yield text(x(tick), bottom + 17, label, "middle")
    for tick, label in zip(ys, labels(ys), strict=True):
        yield f'<path class="grid" d="M{left} {y(tick):.1f}H{right}"/>'
        yield text(left - 7, y(tick) + 4, label, "end")
    yield text((left + right) / 2, frame.height - 9, chart.x_title, "middle")
    yield f'<g transform="rotate(-90)">{text(-(top + bottom) / 2, 11, chart.y_title, "middle")}</g>'
    for line in chart.lines:
        placed = [(x(across), y(up)) for across, up in line.points]
        yield _line(line, placed)
        for (across, up), values in zip(placed, line.points, strict=True) if line.is_marked else ():
            told = f"<title>{escape(line.name)}: {number(values[1])} at {number(values[0])}</title>"
            yield mark(line.color, across, up, told)
    yield "</svg>"


def swatch(line: Line) -> str:
    """A small picture of a line for a legend."""
    whole = _line(line, [(1, 7), (27, 7)])
    return (
        f'<svg viewBox="0 0 28 14" aria-hidden="true">{whole}{mark(line.color, 14, 7) if line.is_marked else ""}</svg>'
    )


def mark(color: int, x: float, y: float, told: str = "") -> str:
    """A mark whose shape goes with its colour, so that colours need not be told apart."""
    classes = f'class="mark c{color % len(PALETTE)}"'
    match color % SHAPES:
        case 0:
            shape = f'circle {classes} cx="{x:.1f}" cy="{y:.1f}" r="3.2"'
        case 1:
            shape = f'rect {classes} x="{x - 2.9:.1f}" y="{y - 2.9:.1f}" width="5.8" height="5.8"'
        case 2:
            shape = f'path {classes} d="M{x:.1f} {y - 4:.1f}l4 7h-8z"'
        case 3:
            shape = f'path {classes} d="M{x:.1f} {y - 4.2:.1f}l4.2 4.2l-4.2 4.2l-4.2 -4.2z"'
        case 4:
            shape = f'path {classes} d="M{x:.1f} {y + 4:.1f}l4 -7h-8z"'
        case _:
            shape = f'path {classes} d="M{x - 3.8:.1f} {y - 1.3:.1f}h2.5v-2.5h2.6v2.5h2.5v2.6h-2.5v2.5h-2.6v-2.5h-2.5z"'
    return f"<{shape}>{told}</{shape.partition(' ')[0]}>" if told else f"<{shape}/>"


def text(x: float, y: float, content: str, anchor: str) -> str:
    """A text at a place; `anchor` says which part of it is there."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def sheet() -> str:
    """Rules for the classes of a chart, in both themes."""

    def rules(theme: int) -> str:
        colors = "".join(f".c{i}{{color:{pair[theme]}}}" for i, pair in enumerate(PALETTE))
        return f".ground{{fill:{GROUND[theme]}}}.grid{{stroke:{GRID[theme]}}}svg text{{fill:{INK[theme]}}}{colors}"

    shared = (
        ".line{fill:none;stroke:currentColor;stroke-width:1.8;stroke-linejoin:round}"
        ".sibling{stroke-dasharray:3 3;stroke-width:1.3}.mark{fill:currentColor;stroke:none}"
    )
    return f"{shared}{rules(0)}@media (prefers-color-scheme:dark){{{rules(1)}}}"


def token_axis(most: int) -> TokenAxis:
    """The unit in which up to `most` tokens are readable."""
    unit, name = next((unit, name) for unit, name in UNITS if most >= unit or unit == 1)
    return TokenAxis(unit, f"training tokens ({name})" if name else "training tokens")


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, evenly spaced."""
    span = (high - low) or 1.0
    unit = float(f"1e{f'{span / TICKS:e}'.partition('e')[2]}")  # its power of ten, without a mathematics library
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * TICKS >= span)
    first, last = floor(low / step), ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def labels(values: Sequence[float]) -> list[str]:
    """The numbers at the ticks of an axis."""
    return [number(value) for value in values]


def number(value: float) -> str:
    """A number as text, without the noise of its last binary digits."""
    return f"{value:,.10g}" if value == round(value, 4) else f"{value:,.4g}"


def _axes(chart: Chart) -> tuple[list[float], list[float]]:
    """Ticks of both axes: those across end with the last point, those up go beyond the points."""
    end = max(point[0] for line in chart.lines for point in line.points)
    heights = [point[1] for line in chart.lines for point in line.points]
    across = [tick for tick in ticks(0.0, end) if tick <= (end or tick)]
    return across, ticks(0.0 if chart.from_zero else min(heights), max(heights))


def _line(line: Line, placed: Points) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    classes = f"line c{line.color % len(PALETTE)}{' sibling' if line.is_dashed else ''}"
    return f'<polyline class="{classes}" points="{points}"/>'
