"""Rows in each layout, small, and a project folder that trains on them. No tokenizer, no corpus."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.base.paths import TOKENS
from pipeline.formats.canonical import pretty
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Tokens
from tests.project import environment, recipe
from tests.shards import write_rows
from tests.stubs import write_stub
from trainer.data import Checking, TrainingData, training_data
from trainer.plain_rows import CHECKED
from trainer.recipe import Recipe, load_recipe

WIDTH, VOCABULARY, SEED = 33, 320, 7


def numbered(count: int, first: int = 0) -> list[list[int]]:
    """Rows that tell their number: its digits in base 320 stand first."""
    numbers = range(first, first + count)
    return [[n // VOCABULARY, n % VOCABULARY, *((n + i) % VOCABULARY for i in range(WIDTH - 2))] for n in numbers]


def write_plain(path: Path, rows: Sequence[Sequence[int]], **keys: str) -> Path:
    """A file as the published tools write it: `json.dumps`, so with a space behind commas and colons."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"token_ids": list(row), **keys}) + "\n" for row in rows))
    return path


def write_ours(project: Path, rows: Sequence[Sequence[int]]) -> list[Shard]:
    """Write rows as the stage `tokenize` leaves them, with as much of its manifest as training reads."""
    shards = write_rows(project / TOKENS, [np.array(row) for row in rows], "train")
    parameters = {"context": WIDTH - 1, "seed": SEED}
    outputs = {"train": shards}
    write_stub(Tokens, parameters=parameters, outputs=outputs, root=project, width=WIDTH, vocabulary=VOCABULARY)
    return shards


def write_recipe(project: Path, layout: str, checkpoints: str = "every 2", steps: int = 4, **data: Any) -> Recipe:
    """A recipe of the name of its layout; `data` changes that section."""
    tree = recipe("mobilellm")
    folder = {"everystep": TOKENS.as_posix()}.get(layout, f"data/{layout}")
    section = {"layout": layout, "folder": folder, "width": WIDTH, "seed": SEED, "global_batch": 8, "micro_batch": 2}
    tree |= {"name": layout, "data": section | data, "checkpoints": checkpoints}
    tree["schedule"] |= {"steps": steps, "warmup_steps": 1, "decay_steps": steps - 1}
    (project / "recipes").mkdir(exist_ok=True)
    (project / "recipes" / f"{layout}.yaml").write_bytes(pretty(tree))
    return load_recipe(layout, project)[0]


def load(project: Path, layout: str) -> TrainingData:
    """The data of the recipe of that name, checked."""
    return training_data(project, *load_recipe(layout, project), Checking(folder=project / CHECKED))


def train(project: Path, name: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, for it enters a numerics class."""
    command = [sys.executable, "-m", "pipeline.stages", "train", name]
    env = {"EVERYSTEP_PROCESSES": "1", "PYTHONPATH": str(Path(__file__).parents[2])} | env
    done = subprocess.run(command, cwd=project, env=environment(**env), capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stderr
    return done
