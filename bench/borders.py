"""What attention cut at borders of documents costs a step: the same model and rows, with and without the cut.

    python -m bench.borders > borders.json

Whole training steps in fp32 on one thread, eager, compiled and in the class `portable`. The CPU seconds of a step with
the cut are divided by those of the same turn without it. A document has `--document` tokens on average, with the
lengths of a geometric distribution.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.ours import work
from bench.turns import Contender, alternate, middle, ratios

WARM_UP = 2
CLASSES = {"eager": ["--numerics", "native"], "compiled": ["--compiled"], "portable": ["--numerics", "portable"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sibling", help="sibling (11.6M parameters) or a recipe")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--document", type=int, default=416, help="mean tokens of a document; the demo's have 416")
    parser.add_argument("--batch", type=int, default=4, help="rows of a step, in micro-batches of half as many")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--classes", nargs="*", default=list(CLASSES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        contenders: dict[Any, Contender] = {}
        for is_cut in (False, True):
            folder = Path(name) / ("cut" if is_cut else "whole")
            folder.mkdir()
            sizes = arguments.batch, arguments.batch // 2, WARM_UP + arguments.turns + 1
            _, spec = work(folder, arguments.model, *sizes, document=arguments.document, context=arguments.context)
            if is_cut:
                cut: dict[str, Any] = {"attention_within_documents": True, "end_token": spec.vocabulary - 1}
                work(folder, arguments.model, *sizes, document=arguments.document, context=arguments.context, **cut)
            for key in arguments.classes:
                one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
                command = [sys.executable, "-m", "bench.ours", str(folder), *CLASSES[key]]
                contenders[key, is_cut] = Contender(command, one_thread)
        alternate(contenders, arguments.turns, WARM_UP)
    tokens = arguments.batch * arguments.context
    report = vars(arguments) | {
        key: {
            "tokens_per_cpu_second": middle([tokens / step["cpu"] for step in contenders[key, False].steps]),
            "seconds_of_a_cut_step": middle(ratios(contenders[key, False], contenders[key, True])),
        }
        for key in arguments.classes
    }
    json.dump(report, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
