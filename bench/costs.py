"""What a release of `examples/` costs, computed again from the figures that its `costs.yaml` names.

`python -m bench.costs` prints every table as JSON; `--write` writes them into the examples' README.md. An entry of
`costs.yaml` has one of:

    value      a published figure; `from` says whose
    key        what a recipe says, as FILE:KEY
    measured   a row of docs/benchmarks.md, quoted; `value` is worked out from it by `formula`
    formula    arithmetic over the entries before it
"""

import argparse
import ast
import json
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from pipeline.base.errors import EverystepError
from pipeline.base.files import write_bytes
from pipeline.base.yaml import Section, check, load_yaml

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
TABLE = re.compile(r"(?<=<!-- costs -->\n).*?(?=<!-- /costs -->)", re.S)
OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Entry(Section):
    """One line of a table. `name` is what later formulas call it."""

    name: Name
    what: str
    unit: str = ""
    value: float | int | None = None
    source: str | None = None
    key: str | None = None
    measured: str | None = None
    formula: str | None = None


class Costs(Section):
    """The whole file."""

    costs: list[Entry]


class Line(NamedTuple):
    """An entry and what it comes to."""

    entry: Entry
    value: float


def lines(example: Path) -> list[Line]:
    """The table of an example; a figure that does not say where it is from is an error."""
    path = example / "costs.yaml"
    found: list[Line] = []
    for entry in check(Costs, load_yaml(path), str(path)).costs:
        if not (entry.source or entry.key or entry.formula) or (entry.value is not None and not entry.source):
            raise EverystepError(f"{path}: {entry.name}: says not where it is from; give source, key or formula")
        known = {line.entry.name: line.value for line in found}
        found.append(Line(entry, _value(entry, known, example)))
    return found


def table(example: Path) -> str:
    """The table as Markdown."""
    rows = ["| | | from |", "| --- | ---: | --- |"]
    for entry, value in lines(example):
        origins = [f"`{code}`" for code in (entry.key, entry.formula) if code] + [entry.source or ""]
        if entry.measured:
            origins.append("measured: [docs/benchmarks.md](../../docs/benchmarks.md)")
        origin = "; ".join(filter(None, origins))
        rows.append(f"| {entry.what} (`{entry.name}`) | {told(value, entry.unit)} | {origin} |")
    return "\n".join([*rows, ""])


def told(value: float, unit: str) -> str:
    """Three digits that count; all of a whole number below 10 million; bytes as kB, MB, GB, TB."""
    if value == int(value) and abs(value) < 1e7:
        return f"{int(value):,} {unit}".rstrip()
    words = ("TB", "GB", "MB", "kB") if unit == "bytes" else ("trillion", "billion", "million")
    for size, word in zip((1e12, 1e9, 1e6, 1e3), words, strict=False):
        if abs(value) >= size:
            return f"{float(f'{value / size:.3g}'):g} {word} {'' if unit == 'bytes' else unit}".rstrip()
    return f"{float(f'{value:.3g}'):,g} {unit}".rstrip()


def _value(entry: Entry, known: dict[str, float], example: Path) -> float:
    if entry.value is not None:
        return entry.value
    if entry.key:
        file, _, key = entry.key.partition(": ")
        tree: Any = load_yaml(example / file if (example / file).is_file() else ROOT / file)
        for part in key.split("."):
            tree = tree[part]
        return float(tree) if isinstance(tree, float) else int(tree)
    return _computed(ast.parse(str(entry.formula), mode="eval").body, known)


def _computed(node: ast.expr, known: dict[str, float]) -> float:
    """Numbers, names, + - * / and parentheses; nothing else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return node.value
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        return float(OPERATORS[type(node.op)](_computed(node.left, known), _computed(node.right, known)))
    raise EverystepError(f"costs: {ast.unparse(node)!r} is no arithmetic over the entries before it")


def main() -> None:
    """Print or write every table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the tables into README.md of each example")
    arguments = parser.parse_args()
    examples = sorted(path.parent for path in EXAMPLES.glob("*/costs.yaml"))
    if arguments.write:
        for example in examples:
            readme = example / "README.md"
            written = table(example)
            write_bytes(readme, TABLE.sub(written.replace("\\", r"\\"), readme.read_text("utf-8")).encode())
        return
    values = {example.name: {line.entry.name: line.value for line in lines(example)} for example in examples}
    print(json.dumps(values, indent=1))


if __name__ == "__main__":
    main()
