"""`portable` on other processors, emulated by qemu-user: whole training steps of every family give the same bits.

Runs with `make test-long` and needs Debian's `qemu-user`; a native step of the demo takes minutes there.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trainer import numerics

ROOT = Path(__file__).parents[2]
PROCESSORS = ("Haswell", "Skylake-Server-v1", "EPYC")


def steps(*prefix: str) -> dict[str, object]:
    # With the right environment from the start `numerics.enter` starts nothing again: that would leave the emulator.
    kept = {key: value for key, value in os.environ.items() if not key.startswith(numerics.STEERED_PREFIXES)}
    environment = kept | numerics.ONE_THREAD | numerics.CLASSES["portable"]
    command = [*prefix, sys.executable, "-m", "tests.trainer.steps"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_training_steps_have_the_same_bits_on_another_processor(processor: str) -> None:
    emulator = shutil.which("qemu-x86_64")
    assert emulator, "install qemu-user (Debian package) to run this test"
    assert steps(emulator, "-cpu", processor) == steps()
