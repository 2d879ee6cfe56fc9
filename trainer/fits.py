"""Whether a job fits the memory that there is, said before anything is allocated.

Refused is what cannot fit: the tensors of `trainer.memory` and the libraries' own memory, in all processes of this
host, against the memory of the machine or of the control group that it runs in, or against a
GPU's. Swap space is not counted. `EVERYSTEP_MEMORY` replaces what is found.

The heap of a process keeps freed blocks between those in use: for speed, at a price of a tenth to the whole of what is
in use (docs/benchmarks.md). Where that would be too much, every block is asked from the system and goes back to it.
"""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.base.console import note
from pipeline.base.errors import EverystepError
from pipeline.base.paths import PARAMS, RECIPES
from pipeline.formats.model import ModelSpec
from trainer.launch import PROCESSES, SHARDS, default_processes, num_shards
from trainer.memory import LOSS_ROWS, Memory, Setting, reading_memory, training_memory

if TYPE_CHECKING:
    from trainer.recipe import Recipe

ROOM = "EVERYSTEP_MEMORY"
"""GiB that the job may take on this host, or on each GPU, in place of what is found; 0: whatever it takes."""
RECOMPUTE = "EVERYSTEP_RECOMPUTE"
"""If set to 1, layers are computed again during backward instead of kept (activation checkpointing). Same bits."""
GIB = 1 << 30
LOOSE = {"native": 1.25, "portable": 2.0}
"""How much more than what is in use the heap of a process may hold, by class; recomputed layers, as `portable`."""
M_MMAP_THRESHOLD, MAPPED_FROM = -3, 1 << 16


@dataclass(frozen=True)
class Place:
    """Where a job runs: processes on this host, and the bytes that they may take together or, each GPU's, on it."""

    device: str
    processes: int
    """Those that share the memory: all of this host, or of a GPU."""
    room: int
    what: str

    @property
    def unlimited(self) -> bool:
        return self.room == 0


def require_training(recipe: "Recipe", spec: ModelSpec, place: Place, processes: int, saves: bool = True) -> None:
    """Refuse a training that cannot fit, with what would; where memory is short, make the heap give it back."""
    setting = Setting.of(
        recipe,
        device="cuda" if place.device == "cuda" else "cpu",
        processes=processes,
        recompute=os.environ.get(RECOMPUTE) == "1",
        shards=num_shards(),
        saves=saves,
    )
    memory = training_memory(spec, setting)
    if _fits(memory, place):
        _settle(memory, place, "portable" if setting.recompute else recipe.numerics, recipe.name)
        return
    fitting = list(_fitting(recipe.data.global_batch, spec, setting, place))
    least = _gib(_least(spec, setting, place))
    raise EverystepError(
        f"{RECIPES}/{recipe.name}.yaml: data.micro_batch: {recipe.data.micro_batch} rows of {spec.context} tokens take "
        f"{_told(memory, place)}; {place.what} has {_gib(place.room)}. "
        + (f"What fits: {'; or '.join(fitting)}" if fitting else f"One row at a time, recomputed, would take {least}")
        + f". {ROOM} replaces what was found"
    )


def require_evaluation(spec: ModelSpec, place: Place, rows: int) -> None:
    """Refuse an evaluation that cannot fit: `rows` at a time, as params.yaml says."""
    sizes = [reading_memory(spec, fewer, spec.context, LOSS_ROWS["cpu"]) for fewer in range(rows, 0, -1)]
    if _fits(sizes[0], place):
        _settle(sizes[0], place, "portable")
        return
    fitting = next((rows - number for number, memory in enumerate(sizes) if _fits(memory, place)), None)
    fix = f"write {fitting}" if fitting else "use fewer processes (EVERYSTEP_PROCESSES) or a larger machine"
    raise EverystepError(
        f"{PARAMS}: evaluate.micro_batch: {rows} rows of {spec.context} tokens take {_told(sizes[0], place)}; "
        f"{place.what} has {_gib(place.room)}; {fix}. {ROOM} replaces what was found"
    )


def require_score(spec: ModelSpec, place: Place, longest: int, batch_tokens: int) -> None:
    """Refuse to score texts of this many tokens where they cannot fit."""
    memory = reading_memory(spec, max(1, batch_tokens // max(1, longest)), longest, LOSS_ROWS["cpu"], asks=2)
    if not _fits(memory, place):
        raise EverystepError(
            f"score: texts of {longest} tokens take {_told(memory, place)}; {place.what} has {_gib(place.room)}; use "
            f"fewer processes (EVERYSTEP_PROCESSES) or a larger machine. {ROOM} replaces what was found"
        )
    _settle(memory, place, "portable")


def _fitting(global_batch: int, spec: ModelSpec, setting: Setting, place: Place) -> Iterator[str]:
    """Say what would fit: first what leaves the bits as they are. A replay may change nothing else."""

    def fits(place: Place = place, **changed: Any) -> bool:
        return _fits(training_memory(spec, replace(setting, **changed)), place)

    if fits(recompute=True) and not setting.recompute:
        yield f"{RECOMPUTE}=1 (the same bits, in a third more time)"
    halves = [setting.processes >> halvings for halvings in range(1, setting.processes.bit_length())]
    for fewer in halves if place.device == "cpu" and setting.shards == 1 else []:
        if fits(replace(place, processes=fewer), processes=fewer):
            yield f"EVERYSTEP_PROCESSES={fewer} (the same bits)"
            break
    if not setting.saves:
        return
    for rows in range(setting.micro_batch - 1, 0, -1):
        batches, rest = divmod(global_batch, rows)
        leaves = batches & -batches
        if not rest and leaves % setting.processes == 0 and fits(micro_batch=rows, leaves=leaves):
            yield f"data.micro_batch: {rows} (other bits)"
            break
    if place.device == "cuda" and setting.processes > setting.shards and not setting.is_portable:
        for recompute in (setting.recompute, True):
            if fits(shards=setting.processes, recompute=recompute):
                also = f" with {RECOMPUTE}=1" if recompute and not setting.recompute else ""
                yield f"{SHARDS}={setting.processes}{also} (other bits)"
                break


def _least(spec: ModelSpec, setting: Setting, place: Place) -> int:
    return needed(training_memory(spec, replace(setting, micro_batch=1, recompute=True)), place)


def needed(memory: Memory, place: Place) -> int:
    """Bytes of all processes that share the memory."""
    return memory.shared + place.processes * (memory.own + memory.peak - memory.shared)


def _fits(memory: Memory, place: Place) -> bool:
    return place.unlimited or needed(memory, place) <= place.room


def _settle(memory: Memory, place: Place, kind: str, name: str = "") -> None:
    """Have every block of some size mapped by itself, if the heap could otherwise take more than there is."""
    if place.device == "cuda" or place.unlimited or needed(memory, place) * LOOSE[kind] <= place.room:
        return
    if ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_FROM) and name:
        note(
            f"{name}: takes {_gib(needed(memory, place))} of the {_gib(place.room)} of {place.what}: freed memory "
            "goes back to the system at once, which costs some speed"
        )


def processes_of(leaves: int, on_cpu: bool) -> int:
    """Count the processes that a training will have (`trainer.launch`): at most one for each GPU, unless more are
    asked for."""
    if num_shards() > 1:
        return num_shards()
    if on_cpu or PROCESSES in os.environ or "WORLD_SIZE" in os.environ:
        return default_processes(leaves)
    from trainer.parallel import fitting

    return fitting(default_processes(leaves))


def place_of(on_cpu: bool, processes: int) -> Place:
    """Find the memory that the processes of a job on this host share: all of them, or under torchrun its own."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE") or processes)
    if not on_cpu:
        import torch

        gpus = torch.cuda.device_count()
        room = torch.cuda.mem_get_info()[1]
        what = f"each GPU ({torch.cuda.get_device_name()})" if gpus > 1 else f"the GPU ({torch.cuda.get_device_name()})"
        return Place("cuda", -(-processes // gpus), _asked(room), what)
    machine, group = _machine(), _control_group()
    if group is not None and group < machine:
        return Place("cpu", processes, _asked(group), "the control group of this process")
    return Place("cpu", processes, _asked(machine), "the machine")


def _asked(found: int) -> int:
    asked = os.environ.get(ROOM, "")
    if not asked:
        return found
    try:
        gib = float(asked)
    except ValueError:
        gib = -1.0
    if not 0 <= gib < float("inf"):
        raise EverystepError(f"{ROOM}={asked}: give a number of GiB, such as 16; 0 for no limit")
    return max(1, int(gib * GIB)) if gib else 0


def _machine() -> int:
    lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))


def _control_group() -> int | None:
    """Return the smallest limit of the control groups that this process is in, of version 2 or 1."""
    limits = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):
            root = Path("/sys/fs/cgroup") / controllers
            file = "memory.limit_in_bytes" if controllers else "memory.max"
            group = root / path.lstrip("/")
            limits += [_read(folder / file) for folder in (group, *group.parents) if folder.is_relative_to(root)]
    numbers = [int(limit) for limit in limits if limit.strip().isdecimal()]
    return min(numbers, default=None)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError:  # not mounted, or hidden from a container
        return ""


def _told(memory: Memory, place: Place) -> str:
    whole = _gib(needed(memory, place))
    by = f" by {place.processes} processes" if place.processes > 1 else ""
    return f"{whole}{by}, of which {_gib(place.processes * memory.activations)} are activations"


def _gib(number: float) -> str:
    return f"{number / GIB:,.1f} GiB"
