"""The picture of a release: validation loss of every checkpoint, as an SVG that loads nothing from outside."""

from pathlib import Path
from typing import Any

from pipeline.base.files import write_bytes
from pipeline.formats.canonical import Json

WIDTH, HEIGHT = 7.0, 4.0  # inches


def draw_losses(path: Path, models: list[dict[str, Json]]) -> None:
    """One line a model, loss over tokens; the same bytes for the same numbers (no clock, no random ids)."""
    import io

    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    settings: Any = {
        "svg.hashsalt": "everystep",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "text.parse_math": False,
    }
    with matplotlib.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
        for model in models:
            tokens = [step / model["steps"][-1] * model["tokens"] / 1000 for step in model["steps"]]
            axes.plot(tokens, model["losses"], marker="o", markersize=3, label=model["name"])
        axes.set_xlabel("training tokens (thousands)")
        axes.set_ylabel("validation loss (nats per token)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    write_bytes(path, buffer.getvalue())
