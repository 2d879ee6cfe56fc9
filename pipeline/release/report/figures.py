"""Figures of the page: charts with a caption, one legend for all of them, and the numbers in a table."""

from collections.abc import Iterable, Sequence

from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.report.charts import Chart, Frame, Line, TokenAxis, draw, swatch, token_axis
from pipeline.release.report.markup import Html, element, joined, listed
from pipeline.release.report.trainings import TrainingFacts

FRAME = Frame(width=350, height=250, left=58, right=12, top=8, bottom=42)
Points = Sequence[tuple[float, float]]


def axis_of(evidence: Evidence) -> TokenAxis:
    """The axis of tokens that all charts of a release share."""
    return token_axis(max(model.tokens for model in evidence.models))


def line_of(training: TrainingFacts, evidence: Evidence, points: Points, is_marked: bool) -> Line:
    """A line of a model. Siblings, which differ in seeds alone, have the colour of the first of them."""
    first_of = {name: group[0] for group in evidence.siblings.seeds for name in group}
    first = first_of.get(training.model, training.model)
    colors = list(dict.fromkeys(first_of.get(each.model, each.model) for each in evidence.trainings))
    return Line(training.model, points, colors.index(first), is_marked, is_dashed=first != training.model)


def legend(evidence: Evidence) -> Html:
    """The models and their lines, for all charts."""
    lines = [line_of(training, evidence, (), True) for training in evidence.trainings]
    return listed((joined([Html(swatch(line)), element("span", line.name)]) for line in lines), class_="legend")


def figure(chart: Chart) -> Html:
    """A chart with its title above it."""
    drawn = Html("\n".join(draw(chart, FRAME)))
    return element("figure", element("figcaption", chart.title), drawn)


def figures(charts: Iterable[Chart]) -> Html:
    """Charts side by side where there is room."""
    return element("div", *map(figure, charts), class_="charts")
