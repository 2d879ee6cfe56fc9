"""Run the suite: python -m tests.gpu [--device cuda|cpu] [--out FILE] [--minutes N] [--only CHECK ...]

Checks come in the order of their importance. One that fails does not stop the others; each is limited in time, and
after `--minutes` no other one begins. FILE has the figures of all that ran, and is written again after each check, so a
machine that is taken away leaves what it said. Exit code 1 if a check failed, 2 if the device is not there.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.base.console import exit_codes, note
from pipeline.base.errors import EverystepError
from pipeline.base.files import write_bytes
from pipeline.formats.canonical import pretty
from tests.gpu import bits
from tests.gpu.setting import Figures, Setting, on_cpu, on_gpu
from tests.gpu.speed import Crew, LeftOut
from tests.project import ROOT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", nargs="*", default=[], metavar="CHECK")
    arguments = parser.parse_args()
    with exit_codes():
        require(arguments.device)
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        with TemporaryDirectory(prefix="everystep-gpu-") as scratch:
            failed = run(arguments.device, Path(scratch), arguments.out, arguments.minutes, arguments.only)
    sys.exit(1 if failed else 0)


def require(device: str) -> None:
    """Refuse a machine without a GPU that torch can use."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise EverystepError(
            f"torch {torch.__version__} finds no GPU on this machine; the suite needs one with CUDA. "
            "Its half for CPUs: python -m tests.gpu --device cpu"
        )


def run(device: str, scratch: Path, out: Path, minutes: float, only: list[str]) -> list[str]:
    """Run the checks, write their figures to `out` and print a line for each; the names of those that failed."""
    began = time.monotonic()
    report: list[dict[str, Any]] = []
    setting = on_gpu(scratch) if device == "cuda" else on_cpu(scratch)
    with Crew(setting) as crew:
        for name, check in checks(setting, crew):
            if only and name not in only:
                continue
            if time.monotonic() - began > 60 * minutes:
                report.append({"check": name, "verdict": "not run", "seconds": 0.0, "figures": {}, "fault": None})
            else:
                report.append(outcome(name, check))
            write_bytes(out, pretty({"device": device, "checks": report}))
            print(line(report[-1]), flush=True)
    print(f"{time.monotonic() - began:.0f} seconds; figures: {out}")
    return [row["check"] for row in report if row["verdict"] == "failed"]


def checks(setting: Setting, crew: Crew) -> Iterator[tuple[str, Callable[[], Figures]]]:
    """Yield every check by its name, the most important first."""
    for name, check in (bits.ON_BOTH | (bits.ON_GPU if setting.on_gpu else {})).items():
        yield name, partial(check, setting)
    for name in crew.entries:
        yield name, partial(crew.measure, name)


def outcome(name: str, check: Callable[[], Figures]) -> dict[str, Any]:
    """Run one check. Whatever it raises is its fault."""
    began = time.monotonic()
    row: dict[str, Any] = {"check": name, "verdict": "passed", "figures": {}, "fault": None}
    try:
        row["figures"] = check()
    except LeftOut as reason:
        row |= {"verdict": "left out", "fault": str(reason)}
    except Exception as error:
        note("".join(traceback.format_exception(error)))
        row |= {"verdict": "failed", "fault": f"{type(error).__name__}: {str(error)[-1500:]}"}
    return row | {"seconds": round(time.monotonic() - began, 1)}


def line(row: dict[str, Any]) -> str:
    """Print a check in one line: its verdict and its plain figures, or the end of its fault."""
    plain = {key: value for key, value in row["figures"].items() if isinstance(value, int | float | str) and value}
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in plain.items()}
    said = (row["fault"] or "").strip().splitlines()[-1:] or [json.dumps(shown)]
    return f"{row['check']:40} {row['verdict']:9} {row['seconds']:6.1f} s  {said[0]}"


if __name__ == "__main__":
    main()
