"""The figures of a run as tables of the docs: python -m tests.gpu.table FILE"""

import json
import sys
from pathlib import Path
from typing import Any


def table(report: dict[str, Any]) -> str:
    """Print a report in Markdown: the machine, the rates, and the verdict of every check."""
    rows = {row["check"]: row for row in report["checks"]}
    return "\n\n".join([_machine(rows["machine"]["figures"]), _rates(rows), _verdicts(report["checks"])]) + "\n"


def _machine(found: dict[str, Any]) -> str:
    numerics = found["numerics"]
    return (
        f"{numerics['capability']}, {numerics['products']}, Python {found['python']}, torch {found['torch']}, "
        f"transformers {found['transformers']}. Measured in the same run: {found['bfloat16_tflops']:.3g} TFLOP/s in "
        f"bfloat16 and {found['float32_tflops']:.3g} in float32 (products of large matrices of random numbers), "
        f"{found['copy_gigabytes_per_second']:,.0f} GB/s read and written in a copy."
    )


def _rates(rows: dict[str, Any]) -> str:
    """A line for each contender that was timed; shares are of the measured product and of the datasheet."""
    timed = {name: row["figures"] for name, row in rows.items() if "tokens_per_second" in row["figures"]}
    peaks = rows["machine"]["figures"]
    lines = [
        "| contender | tokens a second | of the product | of the datasheet | micro-batch | GPU memory | first step |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, found in timed.items():
        measured = peaks["float32_tflops" if "float32" in name else "bfloat16_tflops"]
        datasheet = f"{found['share_of_datasheet']:.1%}" if "share_of_datasheet" in found else ""
        lines.append(
            f"| {name} | {found['tokens_per_second']:,} | {found['tflops'] / measured:.1%} | {datasheet} "
            f"| {found['micro_batch']} | {found['gpu_memory_gib']} GiB | {found['first_step_seconds']:.1f} s |"
        )
    return "\n".join(lines)


def _verdicts(rows: list[dict[str, Any]]) -> str:
    lines = ["| check | verdict | seconds |", "| --- | --- | ---: |"]
    for row in rows:
        fault = (row["fault"] or "").strip().splitlines()[-1:]
        verdict = ": ".join([row["verdict"], *fault]).replace("|", "\\|")
        lines.append(f"| {row['check']} | {verdict} | {row['seconds']:.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text())), end="")
