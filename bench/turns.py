"""Contenders that take turns: each is a process of its own that waits while another one works.

A machine's speed drifts within minutes, so contenders are measured step by step, in turn, and compared turn by turn;
what is published is the median of such ratios. Seconds are of the processor (`cpu`) and of the wall.

The protocol is a line of JSON each way: a contender says its facts once, then for each line that it reads does one
step and says what it took. Only the standard library, because peers import it in an environment of their own.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any


class Turns:
    """A contender's side. What the libraries print goes to stderr."""

    def __init__(self, **facts: Any) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._say(facts)

    def wait(self) -> bool:
        """Until the next step is due; False: there is none."""
        due = sys.stdin.readline() != ""
        self._cpu, self._wall, self._compilers = time.process_time(), time.perf_counter(), _children()
        return due

    def done(self, loss: float = 0.0, cpu_elsewhere: float = 0.0, **more: float) -> None:
        """One step was made; `cpu_elsewhere`: seconds that other processes spent on it; `more` is passed on."""
        cpu, wall = time.process_time() - self._cpu, time.perf_counter() - self._wall
        compilers = _children() - self._compilers
        self._say({"cpu": cpu + cpu_elsewhere, "wall": wall, "compilers": compilers, "loss": loss} | more)

    def serve(self, step: Callable[[], float]) -> None:
        while self.wait():
            self.done(step())

    def _say(self, facts: dict[str, Any]) -> None:
        print(json.dumps(facts), file=self._out, flush=True)


def _children() -> float:
    """CPU seconds of this process's children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


class Contender:
    """The side of the script that compares."""

    def __init__(
        self, command: list[str], environment: dict[str, str] | None = None, stderr: IO[str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            cwd=Path(__file__).parents[1],
            env=os.environ | (environment or {}),
        )
        self.facts = self._hear()
        self.steps: list[dict[str, float]] = []

    def step(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("step\n")
        self._process.stdin.flush()
        self.steps.append(self._hear())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def kill(self) -> None:
        """End it now; whoever waits for its next step is told that it ended."""
        self._process.kill()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a contender ended: {self._process.args!r}")
        heard: dict[str, Any] = json.loads(line)
        return heard


def alternate(contenders: dict[str, Contender], turns: int, warm_up: int) -> None:
    """`warm_up` steps of each that do not count, then `turns` times one step of each."""
    for turn in range(warm_up + turns):
        for contender in contenders.values():
            contender.step()
        if sys.stderr.isatty():
            print(f"turn {turn + 1} of {warm_up + turns}", file=sys.stderr)
    for contender in contenders.values():
        contender.close()
        contender.steps, contender.facts["warm_up"] = contender.steps[warm_up:], contender.steps[:warm_up]


def ratios(one: Contender, other: Contender, kind: str = "cpu") -> list[float]:
    """How many times as fast `one` was as `other`, turn by turn, at equal work."""
    return [b[kind] / a[kind] for a, b in zip(one.steps, other.steps, strict=True)]


def middle(values: list[float]) -> dict[str, float]:
    """Median and quartiles, three digits."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    names = ("quarter", "median", "three_quarters")
    return {name: float(f"{value:.3g}") for name, value in zip(names, quartiles, strict=True)}
