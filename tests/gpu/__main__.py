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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

from pipeline.base.console import exit_codes, note
from pipeline.base.errors import EverystepError
from pipeline.base.files import write_bytes
from pipeline.formats.canonical import pretty
from tests.gpu import bits
from tests.gpu.setting import Figures, on_cpu, on_gpu
from tests.gpu.speed import Crew, LeftOut
from tests.project import ROOT

Check = Callable[[], Figures]


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
            failed = run(arguments.device, Path(scratch), arguments.out.resolve(), arguments.minutes, arguments.only)
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
    setting = on_gpu(scratch) if device == "cuda" else on_cpu(scratch)
    report: list[dict[str, Any]] = []

    def in_turn(checks: dict[str, Check]) -> None:
        for name, check in checks.items():
            if only and name not in only:
                continue
            late = time.monotonic() - began > 60 * minutes
            row = not_run(name) if late else outcome(name, check)
            with writing:
                report.append(row)
                write_bytes(out, pretty({"device": device, "checks": report}))
                print(line(row), flush=True)

    writing = Lock()
    with Crew(setting) as crew, ThreadPoolExecutor() as threads:
        for number, at_once in enumerate(bits.ON_GPU if setting.on_gpu else bits.ON_CPU):
            if number and not only:
                crew.prepare()
            bound = [{name: partial(check, setting) for name, check in checks.items()} for checks in at_once]
            list(threads.map(in_turn, bound))
        in_turn({name: partial(crew.measure, name) for name in crew.entries})
    print(f"{time.monotonic() - began:.0f} seconds; figures: {out}")
    return [row["check"] for row in report if row["verdict"] == "failed"]


def not_run(name: str) -> dict[str, Any]:
    return {"check": name, "verdict": "not run", "seconds": 0.0, "figures": {}, "fault": "no time left"}


def outcome(name: str, check: Check) -> dict[str, Any]:
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
