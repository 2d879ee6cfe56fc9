"""What training takes of a device's memory: computed for each recipe, and compared with what a process takes.

    python -m bench.memory [RECIPE ...]                                 GiB of one GPU, computed, as a table
    python -m bench.memory --measure MODEL [--rows N] [--class CLASS] [--compiled] [--recompute] [--returned]

The arithmetic is `trainer.memory`. `--measure` trains two steps of `sibling` (11.6 million parameters) or a recipe on
this CPU, then a third while a checkpoint is written, and prints as JSON the most memory that the process had, in bytes
without the files that processes share. `--returned` sets the allocator as `trainer.fits` does where memory is short.
"""

import argparse
import ctypes
import json
import os
import tempfile
from pathlib import Path

from bench.ours import open_trainer, work
from pipeline.formats.model import num_parameters
from trainer import numerics
from trainer.fits import M_MMAP_THRESHOLD, MAPPED_FROM, RECOMPUTE
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


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, int]:
    """Computed and measured bytes of one training."""
    from trainer.checkpoint import Writer

    recipe, spec = work(folder, arguments.measure, arguments.rows, arguments.rows, steps=3)
    setting = Setting(
        micro_batch=arguments.rows,
        leaves=1,
        is_portable=arguments.numerics == "portable",
        compiled=arguments.compiled,
        recompute=arguments.recompute,
    )
    memory = training_memory(spec, setting)
    if arguments.returned:
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)
    trainer = open_trainer(folder, compiled=arguments.compiled)
    for _ in range(2):
        trainer.train_step()
    found = {"computed": memory.own + memory.peak - memory.copies, "measured": most()}
    state = trainer.state()
    with Writer(folder / "checkpoints", recipe, spec, trainer.numerics(), None) as writer:
        writer.save(trainer.step, trainer.tokens, None, *state)
        trainer.train_step()
    return found | {"computed_saving": memory.own + memory.peak, "measured_saving": most()}


def most() -> int:
    """The most memory that this process had, without files."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    size = {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.endswith(" kB")}
    return size["VmHWM"] - size["RssFile"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*")
    parser.add_argument("--measure")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--class", dest="numerics", default="native")
    for switch in ("--compiled", "--recompute", "--returned"):
        parser.add_argument(switch, action="store_true")
    arguments = parser.parse_args()
    if arguments.measure:
        numerics.enter(arguments.numerics)
        os.environ[RECOMPUTE] = "1" if arguments.recompute else "0"
        with tempfile.TemporaryDirectory(prefix="everystep-bench-") as folder:
            print(json.dumps(measure(arguments, Path(folder))))
        return
    names = arguments.recipes or [path.stem for path in Path("recipes").glob("*.yaml")]
    print(table(sorted(names, key=lambda name: num_parameters(load_recipe(name)[1]))))


if __name__ == "__main__":
    main()
