"""`portable` on other processors, emulated by qemu-user: whole training steps of every family, and scores, give the
same bits.

Runs with `make test-long` and needs Debian's `qemu-user`.
Starting torch alone takes a minute there, the shapes of the demo many.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer import numerics

ROOT = Path(__file__).parents[2]
PROCESSORS = ("Haswell", "Skylake-Server-v1", "EPYC")


def steps(shapes: str, *prefix: str) -> dict[str, Any]:
    """What the training steps of these shapes give."""
    return printed("tests.trainer.steps", shapes, prefix=prefix)


def printed(module: str, *arguments: str, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a program prints, run behind `prefix`. It must not start itself again: that would leave the emulator, so
    it is given the right environment and told that this is its second start, which a third would fail."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(numerics.STEERED_PREFIXES)}
    wanted = numerics.COMMON | numerics.CLASSES["portable"]
    command = [*prefix, sys.executable, "-m", module, *arguments]
    environment = kept | wanted | {numerics.STARTED_AGAIN: "portable"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("shapes", ["odd", "demo"])
@pytest.mark.parametrize("processor", PROCESSORS)
def test_training_steps_have_the_same_bits_on_another_processor(processor: str, shapes: str) -> None:
    emulator = shutil.which("qemu-x86_64")
    assert emulator, "install qemu-user (Debian package) to run this test"
    here = steps(shapes)
    assert len(set(here["digests"].values())) == (11 if shapes == "odd" else 5)
    assert steps(shapes, emulator, "-cpu", processor) == here


@pytest.mark.long
@pytest.mark.timeout(3 * 3600)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_scores_have_the_same_bits_on_another_processor(processor: str) -> None:
    emulator = shutil.which("qemu-x86_64")
    assert emulator, "install qemu-user (Debian package) to run this test"
    program = ("tests.trainer.scoring", "portable", "mobilellm", "pythia")
    assert printed(*program, prefix=(emulator, "-cpu", processor)) == printed(*program)
