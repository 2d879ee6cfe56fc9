"""How it was trained: the models, their recipes, and the curves of their trainings."""

from collections.abc import Callable, Iterator, Sequence

from pipeline.release.disclosures.evidence import DesignFacts, Evidence
from pipeline.release.report.charts import Chart, number
from pipeline.release.report.figures import axis_of, figures, legend, line_of
from pipeline.release.report.markup import (
    Cell,
    Html,
    code,
    element,
    folded,
    paragraph,
    right,
    section,
    table,
    with_error,
)
from pipeline.release.report.trainings import Measured, Point, TrainingFacts

SHOWN = 12
"""Rows of a table of a curve, at most."""
LOSS, RATE, NORM = "Loss of the training batches", "Learning rate", "Gradient norm before clipping"


def training_section(evidence: Evidence) -> Html:
    """The section."""
    return section(
        "training",
        "How it was trained",
        *_recipes(evidence),
        *_curves(evidence),
        *_learning(evidence),
    )


def _recipes(evidence: Evidence) -> Iterator[Html]:
    orders = {design.order_seed for design in evidence.designs}
    rows = (
        "the same rows in the same order" if len(orders) == 1 else "from the same rows, each in the order of its seed"
    )
    yield paragraph(
        f"All models read {rows}. A recipe, ",
        code("recipes/MODEL.yaml"),
        ", says all that decides the bits of a training besides data and code.",
    )
    yield table(
        "Models",
        [
            "model",
            *map(right, ("parameters", "layers", "width", "query heads", "FFN width")),
            *("activation", "norm", "embedding and output"),
        ],
        (_design(design, model.parameters) for design, model in zip(evidence.designs, evidence.models, strict=True)),
    )
    yield table(
        "Trainings",
        [
            "model",
            *map(right, ("steps", "tokens a step", "tokens", "passes", "peak rate")),
            "schedule",
            right("warm-up"),
            "numerics",
            *map(right, ("seed of weights", "seed of order", "operations")),
        ],
        (
            _training(design, evidence.context, model.tokens, model.epochs, model.numerics)
            for design, model in zip(evidence.designs, evidence.models, strict=True)
        ),
    )
    shared = {tuple(sorted(design.optimizer.items())) for design in evidence.designs}
    for design in evidence.designs[: 1 if len(shared) == 1 else None]:
        named = ", ".join(f"{key.replace('_', ' ')} {_plain(value)}" for key, value in design.optimizer.items())
        whose = "" if len(shared) == 1 else f" of {design.name}"
        yield paragraph(f"The optimizer{whose} is AdamW: {named}.")


def _design(design: DesignFacts, parameters: int) -> list[Cell]:
    layers: Cell = design.layers
    if design.layers != design.stored_layers:
        layers = f"{design.layers} ({design.stored_layers} stored)"
    return [
        *(design.name, parameters, layers, design.width),
        *(_range(design.query_heads), _range(design.ffn_widths)),
        *(", ".join(design.activations), ", ".join(design.norms), "tied" if design.tied_embedding else "apart"),
    ]


def _training(design: DesignFacts, context: int, tokens: int, epochs: float, numerics: str) -> list[Cell]:
    return [
        *(design.name, design.steps, design.global_batch * context, tokens, f"{epochs:.3g}", f"{design.peak:g}"),
        *(design.schedule, design.warmup_steps, f"{numerics}, {design.dtype}"),
        *(str(design.seed), str(design.order_seed), f"{design.training_flops:.2e}"),
    ]


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]:,}" if len(numbers) == 1 else f"{numbers[0]:,} to {numbers[-1]:,}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float | int) else str(value)


def _curves(evidence: Evidence) -> Iterator[Html]:
    """The logs as charts, and as a table."""
    yield element("h3", "Curves")
    yield legend(evidence)
    described = "A line for each model"
    yield figures(
        [
            _chart(evidence, LOSS, "nats per token", described, lambda point: point.loss),
            _chart(evidence, NORM, "norm", described, lambda point: point.gradient_norm, from_zero=True),
            _chart(evidence, RATE, "rate", described, lambda point: point.learning_rate, from_zero=True),
        ]
    )
    yield folded("The numbers of these curves", *(_numbers(training) for training in evidence.trainings))


def _chart(
    evidence: Evidence, title: str, unit: str, described: str, value: Callable[[Point], float], from_zero: bool = False
) -> Chart:
    axis = axis_of(evidence)
    lines = [
        line_of(training, evidence, [(point.tokens / axis.unit, value(point)) for point in training.curve], False)
        for training in evidence.trainings
    ]
    ends = ", ".join(f"{line.name} ends at {number(line.points[-1][1])}" for line in lines)
    return Chart(title, f"{described}. {ends}.", axis.title, unit, lines, from_zero)


def _learning(evidence: Evidence) -> Iterator[Html]:
    """How fast the models learn, in all and by source."""
    last = {training.model: training.checkpoints[-1] for training in evidence.trainings}
    names = [source.name for source in evidence.sources if all(source.name in each.by_source for each in last.values())]
    yield element("h3", "Speed of learning")
    yield paragraph(
        "Bits per byte of held-out text at every stored checkpoint, in all and by source. Each chart has an upright "
        "axis of its own, because some sources are easier to predict than others from the beginning."
    )
    yield legend(evidence)
    whole = _learning_chart(evidence, "All held-out text", lambda each: each.bits_per_byte)
    yield figures([whole, *(_source_chart(evidence, name) for name in names)])
    yield folded("The numbers of these charts", *(_results(training, names) for training in evidence.trainings))


def _results(training: TrainingFacts, names: Sequence[str]) -> Html:
    """Every stored checkpoint of a model."""
    return table(
        f"Bits per byte of {training.model}, with standard error",
        [right("step"), right("tokens"), right("all"), *map(right, names)],
        (
            [
                *(each.step, each.tokens, with_error(each.bits_per_byte, each.standard_error)),
                *(with_error(found.bits_per_byte, found.standard_error) for found in each.sources(names)),
            ]
            for each in training.checkpoints
        ),
    )


def _source_chart(evidence: Evidence, name: str) -> Chart:
    return _learning_chart(evidence, name, lambda each: each.by_source[name].bits_per_byte)


def _learning_chart(evidence: Evidence, title: str, value: Callable[[Measured], float]) -> Chart:
    axis = axis_of(evidence)
    lines = [
        line_of(training, evidence, [(each.tokens / axis.unit, value(each)) for each in training.checkpoints], True)
        for training in evidence.trainings
    ]
    ends = ", ".join(f"{line.name} ends at {line.points[-1][1]:.4f}" for line in lines)
    return Chart(title, f"Bits per byte of a line for each model. {ends}.", axis.title, "bits per byte", lines)


def _numbers(training: TrainingFacts) -> Html:
    """Some points of a curve, evenly spaced, with the last."""
    every = -(-len(training.curve) // SHOWN)
    points = training.curve[::-1][::every][::-1]
    return table(
        f"Training of {training.model}; all of it is in runs/{training.model}/log.csv",
        [right("step"), *map(right, ("tokens", "loss", "gradient norm", "learning rate"))],
        (
            [
                *(point.step, point.tokens),
                *(f"{point.loss:.4f}", f"{point.gradient_norm:.4f}", f"{point.learning_rate:.3e}"),
            ]
            for point in points
        ),
    )
