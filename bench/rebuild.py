"""How long a virtual checkpoint takes: `everystep pull` of steps that a release does not store, with an empty cache.

python -m bench.rebuild RELEASE STEP...: prints a line a model and step with wall and CPU seconds of the whole command,
its start included, then the bytes of the stored states and those that all of them would take.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.base.paths import CACHE, RUNS
from pipeline.formats import checkpoints as ck
from pipeline.release.release import Release


def main(folder: str, *steps: str) -> None:
    release = Release.open(folder)
    for model in release.models():
        for step in map(int, steps):
            wall, cpu = rebuild(folder, model, step)
            start = max(stored for stored in release.states(model) if stored < step)
            print(f"{model} step {step}, {step - start} steps from {start}: {wall:.1f} s, {cpu:.1f} CPU s", flush=True)
    for model in release.models():
        trained, stored = release.model(model), 0
        for state in release.states(model).values():
            stored += sum((release.folder / state.folder / name).stat().st_size for name in (ck.WEIGHTS, ck.OPTIMIZER))
        states = len(trained.checkpoints) + trained.num_virtual
        raw = stored * states // len(trained.checkpoints)
        print(f"{RUNS / model}: {stored:,} bytes stored of {raw:,}, {stored / raw:.2%}")


def rebuild(release: str, model: str, step: int) -> tuple[float, float]:
    """Wall and CPU seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pipeline.cli", "pull", release, "--model", model, "--step", str(step)]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        environment = os.environ | {CACHE: f"{scratch}/cache"}
        subprocess.run([*command, "--out", f"{scratch}/out"], env=environment, check=True, capture_output=True)
        wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        assert (Path(scratch) / "out" / "everystep.json").is_file()
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(*sys.argv[1:])
