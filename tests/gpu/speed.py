"""Tokens a second of contenders that train the same rows from the same weights: ours, transformers' `Trainer`, litgpt.

Contenders run one at a time, each in a process of its own. While one is timed, the next one loads its model. One that
does not fit the memory is tried with a half of the micro-batch, then a quarter, at the same global batch.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from threading import Lock, Timer
from typing import Any

from bench.ours import open_work, work
from bench.trainer import flops_per_token, write_for_peers
from bench.turns import Contender
from tests.gpu.setting import Figures, Setting

DATASHEET_TFLOPS = 989
"""Dense bfloat16 of an H100 or H200 (SXM), by NVIDIA's datasheet."""
LIMIT = 150
"""Seconds for all steps of one contender, compilation included."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A contender. `same_as` names one whose weights must come out equal to the bit; `share` of the micro-batch."""

    name: str
    peer: str | None = None
    compiled: bool = False
    precision: str = "bfloat16"
    processes: int = 1
    shards: int = 1
    share: int = 1
    turns: int | None = None
    same_as: str | None = None
    on_cpu: bool = False


ENTRIES = [
    Entry(name="ours", on_cpu=True),
    Entry(name="ours compiled", compiled=True),
    Entry(name="transformers", peer="transformers"),
    Entry(name="litgpt", peer="litgpt"),
    Entry(name="ours again", same_as="ours"),
    Entry(name="ours compiled again", compiled=True, same_as="ours compiled"),
    Entry(name="ours, small micro-batches", share=4, turns=2),
    Entry(name="ours, two processes on one device", share=4, turns=2, processes=2, same_as="ours, small micro-batches"),
    Entry(name="ours, two shards on one device", share=4, turns=2, processes=2, shards=2),
    Entry(name="ours in float32", share=4, precision="float32", turns=2),
    Entry(name="transformers compiled", peer="transformers", compiled=True),
    Entry(name="litgpt compiled", peer="litgpt", compiled=True),
    Entry(name="ours in float32 compiled", share=4, precision="float32", compiled=True, turns=2),
]


class LeftOut(Exception):  # noqa: N818  # a verdict
    """Check that needs what this machine does not have."""


class Crew:
    """Contenders, by name, and what was found of them. Use as a context manager."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.entries = {entry.name: entry for entry in ENTRIES if setting.on_gpu or entry.on_cpu}
        self.found: dict[str, Figures] = {}
        self._loading: dict[str, Future[Contender]] = {}
        self._threads = ThreadPoolExecutor(2)
        self._writing = Lock()

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *error: Any) -> None:
        for loading in self._loading.values():
            loading.add_done_callback(_end)
        self._threads.shutdown(wait=False)

    def prepare(self) -> None:
        """Have the first contender loaded meanwhile."""
        first = next(iter(self.entries.values()))
        self._loading[self._key(first)] = self._load(first)

    def measure(self, name: str) -> Figures:
        """Time a contender; figures of its steps."""
        entry = self.entries[name]
        if entry.peer and find_spec(entry.peer) is None:
            raise LeftOut(f"{entry.peer} is not installed")
        for share in (entry.share, 2 * entry.share, 4 * entry.share):
            try:
                figures = self._measure(replace(entry, share=share))
                break
            except OutOfMemoryError:
                if share == 4 * entry.share:
                    raise
        self.found[name] = figures
        self._compare(entry, figures)
        return figures

    def _measure(self, entry: Entry) -> Figures:
        setting, turns = self.setting, self.setting.turns if entry.turns is None else entry.turns
        try:
            contender = self._take(entry).result(LIMIT)
            with _ended_within(LIMIT, contender):
                for _ in range(setting.warm_up + turns):
                    contender.step()
                contender.close()
        except SystemExit:
            said = self._said(entry).read_text()
            raise (OutOfMemoryError if "OutOfMemory" in said else AssertionError)(said[-2500:]) from None
        recipe, spec, _ = open_work(self._folder(entry))
        tokens = recipe.data.global_batch * spec.context
        steps = contender.steps
        figures: Figures = {
            "parameters": contender.facts["parameters"] if entry.peer else None,
            "micro_batch": recipe.data.micro_batch,
            "losses": [round(step["loss"], 4) for step in steps],
            "first_step_seconds": round(steps[0]["wall"], 2),
            "gpu_memory_gib": round(max(step["memory"] for step in steps) / 2**30, 1),
            "numerics": contender.facts.get("numerics"),
            "world": contender.facts.get("world"),
            "weights_digest": None if entry.peer else self._digest(entry).read_text(),
        }
        rate = tokens / median(step["wall"] for step in steps[setting.warm_up :])
        figures |= {"tokens_per_second": round(rate), "tflops": rate * flops_per_token(spec) / 1e12}
        if setting.on_gpu and entry.precision == "bfloat16":
            figures["share_of_datasheet"] = figures["tflops"] / DATASHEET_TFLOPS
        return figures

    def _compare(self, entry: Entry, figures: Figures) -> None:
        """All train the same thing: equal losses up to rounding, and where it was promised, equal bits."""
        reference = self.found.get("ours", figures)
        near = [abs(a - b) for a, b in zip(figures["losses"], reference["losses"], strict=False)]
        assert max(near) < 0.05, f"losses {figures['losses']}, ours {reference['losses']}"
        if entry.same_as is not None:
            other = self.found.get(entry.same_as)
            if other is None:
                raise LeftOut(f"{entry.same_as} did not run")
            turns = min(len(other["losses"]), len(figures["losses"]))
            assert figures["losses"][:turns] == other["losses"][:turns], f"losses differ from those of {entry.same_as}"
            assert figures["weights_digest"] == other["weights_digest"], f"weights differ from those of {entry.same_as}"

    def _take(self, entry: Entry) -> "Future[Contender]":
        """Return this contender, loading or loaded, and have the next one loaded meanwhile."""
        taken = self._loading.pop(self._key(entry), None) or self._load(entry)
        names = list(self.entries)
        following = names[names.index(entry.name) + 1 :][:1]
        for name in following:
            other = self.entries[name]
            if self._key(other) not in self._loading and not (other.peer and find_spec(other.peer) is None):
                self._loading[self._key(other)] = self._load(other)
        return taken

    def _load(self, entry: Entry) -> "Future[Contender]":
        return self._threads.submit(self._start, entry)

    def _start(self, entry: Entry) -> Contender:
        folder = self._folder(entry)
        if entry.peer:
            command = [sys.executable, "-m", "bench.peers", str(folder), entry.peer, "--device", self.setting.device]
        else:
            command = [sys.executable, "-m", "tests.gpu.ours", str(folder), str(self._digest(entry))]
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(self._said(entry).with_suffix(".compiled"))}
        environment = caches | {"EVERYSTEP_PROCESSES": str(entry.processes), "EVERYSTEP_SHARDS": str(entry.shards)}
        with self._said(entry).open("w") as said:
            return Contender([*command, *(["--compiled"] if entry.compiled else [])], environment, said)

    def _folder(self, entry: Entry) -> Path:
        """The work for a contender, written when it is first asked for."""
        setting = self.setting
        micro_batch = max(1, setting.micro_batch // entry.share)
        precision = entry.precision if setting.on_gpu else "float32"  # bfloat16 takes a CPU ten times as long
        folder = setting.scratch / f"{precision}-{micro_batch}"
        steps = setting.warm_up + setting.turns + 1
        with self._writing:
            if not (folder / "work.json").exists():
                folder.mkdir(parents=True)
                work(folder, setting.model, setting.global_batch, micro_batch, steps, precision)
            if entry.peer and not (folder / "peers.json").exists():
                write_for_peers(folder, steps)
        return folder

    def _said(self, entry: Entry) -> Path:
        return self.setting.scratch / f"{self._key(entry)}.said"

    def _digest(self, entry: Entry) -> Path:
        return self.setting.scratch / f"{self._key(entry)}.digest"

    def _key(self, entry: Entry) -> str:
        return f"{entry.name.replace(' ', '-').replace(',', '')}-{entry.share}"


def _end(loading: "Future[Contender]") -> None:
    """End a contender that nobody waits for any more."""
    if not loading.cancelled() and loading.exception() is None:
        loading.result().kill()


class OutOfMemoryError(Exception):
    """A contender that did not fit the memory of the GPU."""


@contextmanager
def _ended_within(seconds: float, contender: Contender) -> Iterator[None]:
    """Kill a contender that takes longer."""
    timer = Timer(seconds, contender.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
