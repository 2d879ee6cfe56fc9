"""Killed at any instant and started again: the weights, the log and the manifest of a run that nobody touched."""

import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainer.runs import (
    are_gone,
    children,
    end,
    half_written,
    killed,
    make_run,
    num_logged,
    reaches,
    result,
    start,
    train,
)


def test_kills_while_a_checkpoint_is_written_and_between_steps_change_nothing(tmp_path: Path, reference: Path) -> None:
    """Each start has another number of processes than the one before it."""
    folder = make_run(tmp_path / "run")
    tries = 0
    while not half_written(folder):  # a kill may come a moment after the checkpoint was renamed: try the next
        assert killed(folder, 1 + tries % 2, lambda: bool(half_written(folder))) and tries < 4
        tries += 1
    logged = num_logged(folder)
    assert killed(folder, 2, lambda: num_logged(folder) > logged + 2)
    said = train(folder, processes=1)
    assert "goes on from step" in said
    assert half_written(folder) == []
    assert result(folder) == result(reference)


def test_a_killed_peer_ends_the_training_with_a_message_and_the_next_start_goes_on(
    tmp_path: Path, reference: Path
) -> None:
    folder = make_run(tmp_path / "run")
    process = start(folder, 2)
    assert reaches(process, lambda: num_logged(folder) >= 3)
    family = children(process.pid)
    (peer,) = [child for child in family if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(peer, signal.SIGKILL)
    assert end(process, within=60) == 2
    said = (folder / "said").read_text()
    assert re.search(
        r"(?m)^error: process 1 of 2 was killed by signal 9 at step \d+, perhaps because memory ran out", said
    )
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert are_gone(family)
    assert "goes on from step" in train(folder, processes=1)
    assert result(folder) == result(reference)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_twenty_kills_at_random_instants_change_nothing(
    tmp_path: Path, reference: Path, record_property: Callable[[str, object], None]
) -> None:
    """The seed is fixed, the instants are the machine's. A run that gets to its end is compared, and begun again."""
    draw = random.Random(20261122)
    kills = runs = in_writing = 0
    while kills < 20:
        folder = make_run(tmp_path / f"run {runs}")
        runs += 1
        while kills < 20 and killed_at_random(folder, draw):
            kills += 1
            in_writing += bool(half_written(folder))
        train(folder, processes=draw.choice((1, 2, 4)))
        assert result(folder) == result(reference)
    record_property("said", f"{kills} kills, {in_writing} while a checkpoint was being written; {runs} runs compared")


def killed_at_random(folder: Path, draw: random.Random) -> bool:
    """One start in three is killed within its first seconds, the others around one of the next steps."""
    early = draw.random() < 1 / 3
    wanted = num_logged(folder) + draw.choice((1, 2, 3))
    wait = draw.uniform(0, 6 if early else 0.2)
    return killed(folder, draw.choice((1, 2)), lambda: early or num_logged(folder) >= wanted, wait)
