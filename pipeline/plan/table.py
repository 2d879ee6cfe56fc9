"""A plan as tables: for a terminal, and as Markdown for a README."""

from collections.abc import Sequence

from pipeline.plan.plan import CORPUS, DISK, STAGES, Figure

Rows = list[list[str]]
MODEL_COLUMNS = {
    "parameters": "parameters",
    "tokens": "tokens",
    "epochs": "times each row",
    "stored": "checkpoints",
    "virtual": "and virtual",
    "weights_bytes": "weights alone",
    "checkpoints_bytes": "with moments",
    "gpu_days": "GPU days",
    "cpu_hours": "CPU hours",
}
MEMORY_COLUMNS = ("process", "weights", "gradients", "moments", "exchange", "activations", "passing", "copies")


def figures_table(figures: Sequence[Figure]) -> tuple[list[str], Rows]:
    """What is not of one model: a row a figure."""
    shared = [figure for figure in figures if figure.section in (CORPUS, STAGES, DISK)]
    has_built = any(figure.built is not None for figure in shared)
    rows = [
        [
            f"{'disk, ' if figure.section == DISK else ''}{figure.what}",
            told(figure.value, figure.unit),
            *([told(figure.built, figure.unit) if figure.built is not None else ""] if has_built else []),
            figure.origin,
        ]
        for figure in shared
    ]
    return ["", "planned", *(["built"] if has_built else []), "from"], rows


def models_table(figures: Sequence[Figure]) -> tuple[list[str], Rows]:
    """A row a model; where it was built, another one."""
    of = {(figure.section, figure.name): figure for figure in figures}
    names = list(dict.fromkeys(figure.section for figure in figures if figure.section not in (CORPUS, STAGES, DISK)))
    columns = {key: title for key, title in MODEL_COLUMNS.items() if any((name, key) in of for name in names)}
    rows = []
    for name in names:
        found = [of.get((name, key)) for key in columns]
        rows.append([name, *(told(figure.value, figure.unit) if figure else "" for figure in found)])
        if any(figure and figure.built is not None for figure in found):
            rows.append([f"{name}, built", *(_built(figure) for figure in found)])
    return ["model", *columns.values()], rows


def memory_table(figures: Sequence[Figure]) -> tuple[list[str], Rows]:
    """A row for each way to run each training: the parts of a device's memory, and the most that there is at a time."""
    rows = []
    for figure in figures:
        if figure.name.startswith("memory_") and "." not in figure.name:
            of_it = [part for part in figures if part.section == figure.section]
            parts = [part.value for part in of_it if part.name.startswith(f"{figure.name}.")]
            rows.append(
                [
                    f"{figure.section}, {figure.what.partition(', ')[2]}",
                    *(_binary(size) for size in [*parts, figure.value]),
                ]
            )
    return ["memory", *MEMORY_COLUMNS, "peak"], rows


def notes(figures: Sequence[Figure]) -> list[str]:
    """Lines that say where the days of GPUs and hours of processors are from."""
    wanted = [figure for figure in figures if figure.name in ("gpu_days", "cpu_hours")]
    return [f"{figure.section}, {figure.what}: {figure.origin}" for figure in wanted]


def markdown(figures: Sequence[Figure]) -> str:
    """All of it, for a README."""
    parts = []
    for header, rows in (figures_table(figures), models_table(figures), memory_table(figures)):
        marks = ["---"] + ["---:"] * (len(header) - 1)
        if header[-1] == "from":
            marks[-1] = "---"
        parts.append("\n".join(_line(cells) for cells in (header, marks, *rows)))
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in notes(figures))]) + "\n"


def told(value: float | None, unit: str) -> str:
    """Three digits that count; all of a whole number below 10 million; bytes as kB, MB, GB, TB."""
    if value is None:
        return "unknown"
    words = ("TB", "GB", "MB", "kB") if unit == "bytes" else ("trillion", "billion", "million")
    unit = "" if unit in ("tokens", "days", "hours") else unit
    if value == int(value) and abs(value) < 1e7 and unit != "bytes":
        return f"{int(value):,} {unit}".rstrip()
    for size, word in zip((1e12, 1e9, 1e6, 1e3), words, strict=False):
        if abs(value) >= size:
            return f"{float(f'{value / size:.3g}'):g} {word} {'' if unit == 'bytes' else unit}".rstrip()
    return f"{float(f'{value:.3g}'):,g} {unit}".rstrip()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _built(figure: Figure | None) -> str:
    return told(figure.built, figure.unit) if figure and figure.built is not None else ""


def _binary(size: float | None) -> str:
    """Memory is sold in powers of two."""
    if not size:
        return ""
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
