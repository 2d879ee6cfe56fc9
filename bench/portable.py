"""What portable bits cost: forward and backward of one micro-batch in each numerics class, in one run.

    python bench/portable.py [model] > portable.json

Each class needs processes of its own (the libraries read their settings when they load), so the classes take
turns in fresh processes, and the figure is the median of the turns, in tokens per CPU second. `mkl-compatible` is
the `portable` class with torch's own products, whose portable path it replaces.
"""

import json
import statistics
import subprocess
import sys
import time

TURNS = 5
STEPS = 6
CLASSES = ("portable", "native", "mkl-compatible")


def main() -> None:
    if len(sys.argv) == 3:
        print(measure(sys.argv[1], sys.argv[2]))
        return
    model = sys.argv[1] if len(sys.argv) == 2 else "mobilellm"
    rates: dict[str, list[float]] = {name: [] for name in CLASSES}
    for _ in range(TURNS):
        for name in CLASSES:
            command = [sys.executable, __file__, model, name]
            rates[name].append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    ratios = {name: round(medians["native"] / median, 2) for name, median in medians.items()}
    json.dump({"model": model, "tokens_per_cpu_second": medians, "cost_against_native": ratios}, sys.stdout, indent=1)
    print()


def measure(model: str, name: str) -> float:
    from trainer import numerics

    numerics.enter("native" if name == "native" else "portable")
    import torch

    from trainer.model import Decoder, initialize
    from trainer.product import use_portable
    from trainer.recipe import load_recipe

    use_portable(name == "portable")
    recipe, spec = load_recipe(model)
    decoder = Decoder(spec)
    initialize(decoder, recipe.seed)
    generator = torch.Generator().manual_seed(1)
    shape = (recipe.data.micro_batch, spec.context + 1)
    rows_BT = torch.randint(0, spec.vocabulary, shape, generator=generator)
    for _ in range(2):
        decoder.loss(rows_BT).backward()
    began = time.process_time()
    for _ in range(STEPS):
        decoder.loss(rows_BT).backward()
    return STEPS * recipe.data.micro_batch * spec.context / (time.process_time() - began)


if __name__ == "__main__":
    main()
