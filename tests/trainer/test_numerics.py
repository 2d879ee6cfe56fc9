"""A process enters its class whatever the caller's environment says, and the bits follow the class."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import hashlib, json, os, sys
from trainer import numerics
numerics.enter(sys.argv[1])
import torch
compiler = "torch._dynamo" in sys.modules
deterministic = torch.get_deterministic_debug_mode()
from trainer.model import Decoder, initialize
from tests.trainer.tiny import tiny_spec
model = Decoder(tiny_spec("openelm"))
initialize(model, 1)
rows = torch.arange(66).reshape(2, 33)
model.loss(rows).backward()
digest = hashlib.sha256(b"".join(p.grad.numpy().tobytes() for p in model.parameters()))
described, threads = numerics.describe(sys.argv[1]), torch.get_num_threads()
found = {"described": described, "digest": digest.hexdigest(), "threads": threads}
print(json.dumps(found | {"compiler": compiler, "deterministic": deterministic}))
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("numerics") / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def plain(script: Path) -> dict[str, object]:
    return gradients(script, "portable")


def gradients(script: Path, name: str, **environment: str) -> dict[str, object]:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    done = subprocess.run([sys.executable, str(script), name], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_environment_of_the_caller_changes_no_bit(script: Path, plain: dict[str, object]) -> None:
    steered = gradients(
        script,
        "portable",
        OMP_NUM_THREADS="2",
        MKL_NUM_THREADS="2",
        OPENBLAS_NUM_THREADS="2",
        OPENBLAS_CORETYPE="Prescott",
        MKL_CBWR="AVX2",
        ATEN_CPU_CAPABILITY="default",
        KMP_AFFINITY="compact",
    )
    assert plain == steered
    assert plain["threads"] == 1


def test_a_start_asks_for_deterministic_algorithms_and_does_not_load_the_compiler(plain: dict[str, object]) -> None:
    assert (plain["deterministic"], plain["compiler"]) == (2, False)


def test_record_says_what_decides_the_bits(plain: dict[str, object]) -> None:
    described = plain["described"]
    assert isinstance(described, dict)
    assert described["class"] == "portable" and described["capability"] == "AVX2"
    assert "Haswell" in described["products"] and described["torch"].startswith("2.13.0")


def test_a_record_of_native_names_the_processor_and_one_of_portable_does_not(
    script: Path, plain: dict[str, object]
) -> None:
    native = gradients(script, "native")["described"]
    assert isinstance(native, dict)
    assert re.fullmatch(r"\S+ of \w+ family \d+ model \d+", native["capability"])
    assert "family" not in json.dumps(plain)


def test_unknown_class_is_refused() -> None:
    from pipeline.base.errors import EverystepError
    from trainer.numerics import enter

    with pytest.raises(EverystepError, match="'fast' is not a numerics class; choose portable or native"):
        enter("fast")
