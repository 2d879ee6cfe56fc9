"""The picture of a release: validation loss of every checkpoint, as an SVG that loads nothing from outside.

Drawn by hand, because `verify` draws it again and compares: a plotting library would give other bytes in each of its
versions, and a reader has none.
"""

from html import escape
from math import ceil, floor

from pipeline.formats.manifests import ModelFacts
from pipeline.release.facts import Facts

WIDTH, HEIGHT = 720, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 16, 52
"""Margins around the plot."""
COLORS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
TICKS = 6
"""Ticks of an axis, about."""
FONT = 'font-family="sans-serif" font-size="12"'
Range = tuple[float, float]


def draw_losses(facts: Facts) -> bytes:
    """One line a model, its loss over the tokens that it was trained on."""
    curves = [_curve(model, model.global_batch * facts.context) for model in facts.models]
    x_ticks = _ticks(0.0, max(x for curve in curves for x, _ in curve))
    y_ticks = _ticks(min(y for curve in curves for _, y in curve), max(y for curve in curves for _, y in curve))
    xs, ys = (x_ticks[0], x_ticks[-1]), (y_ticks[0], y_ticks[-1])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT} role="img">',
        "<title>Validation loss of every checkpoint</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *(_vertical(_x(tick, xs), _number(tick)) for tick in x_ticks),
        *(_horizontal(_y(tick, ys), _number(tick)) for tick in y_ticks),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, "training tokens (thousands)", "middle"),
        '<g transform="rotate(-90)">',
        _text(-(TOP + HEIGHT - BOTTOM) / 2, 16, "validation loss (nats per token)", "middle"),
        "</g>",
    ]
    for number, (model, curve) in enumerate(zip(facts.models, curves, strict=True)):
        color = COLORS[number % len(COLORS)]
        points = [(_x(x, xs), _y(y, ys)) for x, y in curve]
        lines.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.5" points="{_points(points)}"/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>' for x, y in points]
        legend = TOP + 16 + 18 * number
        lines.append(f'<rect x="{WIDTH - 180}" y="{legend - 9}" width="14" height="10" fill="{color}"/>')
        lines.append(_text(WIDTH - 160, legend, model.name, "start"))
    return "\n".join([*lines, "</svg>", ""]).encode()


def _curve(model: ModelFacts, step_tokens: int) -> list[tuple[float, float]]:
    """(thousands of tokens, loss) of each checkpoint, counted back from the last: a fork began with some."""
    last = model.steps[-1]
    tokens = [max(0, model.tokens - (last - step) * step_tokens) for step in model.steps]
    return [(number / 1000, loss) for number, loss in zip(tokens, model.losses, strict=True)]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, evenly spaced."""
    span = (high - low) or 1.0
    unit = float(f"1e{f'{span / TICKS:e}'.partition('e')[2]}")  # its power of ten, without a mathematics library
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * TICKS >= span)
    first, last = floor(low / step), ceil(high / step)
    return [step * number for number in range(first, max(last, first + 1) + 1)]


def _x(value: float, bounds: Range) -> float:
    return LEFT + (value - bounds[0]) / (bounds[1] - bounds[0]) * (WIDTH - LEFT - RIGHT)


def _y(value: float, bounds: Range) -> float:
    return HEIGHT - BOTTOM - (value - bounds[0]) / (bounds[1] - bounds[0]) * (HEIGHT - TOP - BOTTOM)


def _vertical(x: float, label: str) -> str:
    grid = f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#dddddd"/>'
    return grid + _text(x, HEIGHT - BOTTOM + 18, label, "middle")


def _horizontal(y: float, label: str) -> str:
    return f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>' + _text(LEFT - 8, y + 4, label, "end")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _points(points: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _number(value: float) -> str:
    return f"{value:,.10g}"
