"""Where a suite runs and on what: a GPU and a recipe of published size, or a CPU and shapes that take seconds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.trainer.exports import FAMILIES

Figures = dict[str, Any]
"""What a check found, for JSON; `None` for what this machine cannot say."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """`model` is the recipe of the checks of speed: `global_batch` rows a step, in micro-batches of `micro_batch` or,
    if those do not fit, a half or a quarter of it. `families` are the models that transformers reads, `limit` is the
    seconds after which a process of a check is ended."""

    device: str
    scratch: Path
    model: str
    global_batch: int
    micro_batch: int
    warm_up: int
    turns: int
    families: list[str]
    limit: float

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


def on_gpu(scratch: Path) -> Setting:
    return Setting(
        device="cuda",
        scratch=scratch,
        model="mobilellm-125m",
        global_batch=64,
        micro_batch=32,
        warm_up=2,
        turns=8,
        families=FAMILIES,
        limit=90,
    )


def on_cpu(scratch: Path) -> Setting:
    return Setting(
        device="cpu",
        scratch=scratch,
        model="mobilellm",
        global_batch=2,
        micro_batch=1,
        warm_up=1,
        turns=1,
        families=["mobilellm"],
        limit=900,
    )
