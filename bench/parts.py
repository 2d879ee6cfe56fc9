"""What a training step of ours consists of: CPU time of its products, of its attention, and of what is neither.

    python -m bench.parts [MODEL ...] > parts.json

One process and one thread for each model, eager and compiled, in the shapes of `bench.trainer`. torch's profiler writes
down each operator; its own time, without that of those it calls, counts for the part in which it is called. `python` is
what no operator takes. The profiler lengthens a step, small operators most, so `milliseconds` is of steps without it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from bench import ours

MODELS = ("mobilellm", "mobilellm-ls", "mobillama", "openelm", "sibling")
WARM_UP, STEPS = 3, 8
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "everystep::large_product")
PARTS = {
    "everystep::attention": "attention",
    "everystep::attention_backward": "attention",
    "_Attention": "attention",
    "_AttentionBackward": "attention",
    "_NextTokenLoss": "loss",
    "_NextTokenLossBackward": "loss",
    "aten::_fused_adamw_": "update",
    "aten::linalg_vector_norm": "update",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "FORM"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(parts(*arguments.one)))
        return
    report: dict[str, Any] = {}
    for model in arguments.models:
        for form in ("eager", "compiled"):
            command = [sys.executable, "-m", "bench.parts", "--one", model, form]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            report[f"{model}, {form}"] = json.loads(done.stdout.splitlines()[-1])
    json.dump(report, sys.stdout, indent=1)
    print()


def parts(model: str, form: str) -> dict[str, float]:
    ours.enter("native")
    from torch.profiler import ProfilerActivity, profile

    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        ours.work(Path(name), model, 8, 4, WARM_UP + 2 * STEPS)
        trainer = ours.open_trainer(Path(name), compiled=form == "compiled")
        for _ in range(WARM_UP):
            trainer.train_step()
        began = time.process_time()
        for _ in range(STEPS):
            trainer.train_step()
        alone = time.process_time() - began
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            began = time.process_time()
            for _ in range(STEPS):
                trainer.train_step()
            watched = time.process_time() - began
    seconds: defaultdict[str, float] = defaultdict(float)
    for event in profiled.events():
        seconds[part_of(event)] += event.self_cpu_time_total / 1e6
    seconds["python"] = watched - sum(seconds.values())
    milliseconds = {"milliseconds": round(alone / STEPS * 1e3, 1), "profiled": round(watched / STEPS * 1e3, 1)}
    return milliseconds | {part: round(of / STEPS * 1e3, 1) for part, of in sorted(seconds.items())}


def part_of(event: Any) -> str:
    """The part that an operator belongs to, by itself or by whom it is called from."""
    if event.name in PRODUCTS:
        above = part_of(event.cpu_parent) if event.cpu_parent is not None else ""
        return above if above == "attention" else "products"
    if event.name in PARTS:
        return PARTS[event.name]
    return "between" if event.cpu_parent is None else part_of(event.cpu_parent)


if __name__ == "__main__":
    main()
