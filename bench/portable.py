"""What portable bits cost: whole training steps in each numerics class (bare products: bench/products.py).

    python -m bench.portable [--model mobilellm] > portable.json

Each class has a process of its own, since the libraries read their settings when they load; they take turns, step by
step. `native-avx2` is native capped to AVX2, what `portable` must run on: on a machine with AVX-512, `native` has
vectors of twice the width. `mkl-compatible` is `portable` with torch's own portable products.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench import ours
from bench.turns import Contender, alternate, middle, ratios

CLASSES = ("native", "native-avx2", "portable", "mkl-compatible")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mobilellm", help="a recipe, or sibling (11.6M parameters)")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--global-batch", type=int, default=4)
    parser.add_argument("--micro-batch", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        recipe, spec = ours.work(
            Path(name), arguments.model, arguments.global_batch, arguments.micro_batch, arguments.turns + 2
        )
        command = [sys.executable, "-m", "bench.ours", name, "--numerics"]
        contenders = {key: Contender([*command, key]) for key in CLASSES}
        alternate(contenders, arguments.turns, warm_up=2)
    tokens = recipe.data.global_batch * spec.context
    report = {
        "model": arguments.model,
        "tokens_per_cpu_second": {
            key: middle([tokens / step["cpu"] for step in contender.steps]) for key, contender in contenders.items()
        },
        "times_the_cpu_seconds_of": {
            reference: {key: middle(ratios(contenders[reference], contender)) for key, contender in contenders.items()}
            for reference in ("native", "native-avx2")
        },
    }
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
