"""The picture of a release: validation loss of every checkpoint, as an SVG that loads nothing from outside."""

from pipeline.formats.manifests import ModelFacts
from pipeline.release.facts import Facts
from pipeline.release.report.charts import Chart, Frame, Line, draw, mark, sheet, text, token_axis

FRAME = Frame(width=720, height=420, left=64, right=16, top=16, bottom=52)
ATTRIBUTES = ' xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12"'


def draw_losses(facts: Facts) -> bytes:
    """One line a model, its loss over the tokens that it was trained on."""
    axis = token_axis(max(model.tokens for model in facts.models))
    chart = Chart(
        title="Validation loss of every checkpoint",
        description=f"A line for each of {', '.join(model.name for model in facts.models)}.",
        x_title=axis.title,
        y_title="validation loss (nats per token)",
        lines=[
            Line(model.name, _curve(model, facts.context, axis.unit), place) for place, model in enumerate(facts.models)
        ],
    )
    *drawn, end = draw(chart, FRAME, ATTRIBUTES, sheet())
    for place, line in enumerate(chart.lines):
        y = FRAME.top + 16 + 18 * place
        drawn += [mark(line.color, FRAME.width - 170, y - 4), text(FRAME.width - 160, y, line.name, "start")]
    return "\n".join([*drawn, end, ""]).encode()


def _curve(model: ModelFacts, context: int, unit: int) -> list[tuple[float, float]]:
    """(tokens, loss) of each checkpoint, counted back from the last: a fork began with some."""
    last = model.steps[-1]
    tokens = [max(0, model.tokens - (last - step) * model.global_batch * context) for step in model.steps]
    return [(number / unit, loss) for number, loss in zip(tokens, model.losses, strict=True)]
