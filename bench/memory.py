"""What training takes of a device's memory: computed for each recipe, and compared with what processes took.

    python -m bench.memory [RECIPE ...]     GiB of one device, computed, as a table
    python -m bench.memory --measure FILE   real steps on this CPU, a process each; FILE collects figures

The arithmetic is `trainer.memory`. A measured process trains two steps, then a third while it writes a
checkpoint, and says how far its resident memory grew; once with the allocator as it is, once as `trainer.fits` sets it
where memory is short.
"""

import argparse
from pathlib import Path

from pipeline.formats.model import num_parameters
from trainer.memory import Setting, training_memory
from trainer.recipe import load_recipe

DEVICES = (1, 8, 32)


def table(names: list[str]) -> str:
    """A row a recipe: GiB of one device's peak."""
    counts = " | ".join(f"{count}" for count in DEVICES)
    recomputed = " | ".join(f"{count}, recomputed" for count in DEVICES)
    lines = [f"| recipe | parameters | micro-batch | {counts} | {recomputed} |"]
    lines.append("| --- |" + " ---: |" * (2 + 2 * len(DEVICES)))
    for name in names:
        recipe, spec = load_recipe(name)
        settings = [
            Setting.of(recipe, device="cuda", processes=devices, recompute=recompute)
            for recompute in (False, True)
            for devices in DEVICES
        ]
        cells = [
            f"{training_memory(spec, setting).peak / 2**30:.1f}" if setting.leaves % setting.processes == 0 else "-"
            for setting in settings
        ]
        size = f"{num_parameters(spec) / 1e6:,.1f} M"
        rows = f"{recipe.data.micro_batch} x {spec.context}"
        lines.append(f"| {name} | {size} | {rows} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*")
    names = parser.parse_args().recipes or [path.stem for path in Path("recipes").glob("*.yaml")]
    print(table(sorted(names, key=lambda name: num_parameters(load_recipe(name)[1]))))


if __name__ == "__main__":
    main()
