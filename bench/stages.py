"""Wall time and peak memory of each stage of the default release, in a clean clone without any cache.

python bench/stages.py > stages.json
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ".", str(clone)], check=True)
        (clone / "dvc.lock").unlink(missing_ok=True)
        seconds = time_stages(clone)
    report = {
        "machine": {"processors": len(os.sched_getaffinity(0)), "model": processor()},
        "seconds": {stage: round(spent, 1) for stage, spent in seconds.items()},
        "total_seconds": round(sum(seconds.values()), 1),
        "peak_memory_mib_of_one_process": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
    }
    json.dump(report, sys.stdout, indent=1)
    print()


def time_stages(project: Path) -> dict[str, float]:
    """Seconds between DVC's announcements of stages; hashing and caching count to the stage before."""
    process = subprocess.Popen(["dvc", "repro"], cwd=project, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seconds: dict[str, float] = {}
    stage, began = "start", time.monotonic()
    for line in process.stdout:
        if line.startswith("Running stage"):
            now = time.monotonic()
            seconds[stage] = now - began
            stage, began = line.split("'")[1], now
    seconds[stage] = time.monotonic() - began
    if process.wait():
        raise SystemExit(f"dvc repro ended with {process.returncode}")
    return seconds


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
