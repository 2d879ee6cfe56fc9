"""A process enters its class whatever the caller's environment says, and the bits follow the class."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from pipeline.base.errors import EverystepError
from trainer import numerics

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
    with pytest.raises(EverystepError, match="'fast' is not a numerics class; choose portable or native"):
        numerics.enter("fast")


LATE = """
import os
from trainer import numerics
numerics.enter("native")
os.environ["KMP_DUPLICATE_LIB_OK"] = "True"  # as torch's compiler does
numerics.enter("native")
print("KMP_DUPLICATE_LIB_OK" in os.environ)
"""


def test_a_variable_that_a_library_sets_after_the_start_does_not_restart_the_program(tmp_path: Path) -> None:
    """It did, without an end, each time from its beginning."""
    script = tmp_path / "late.py"
    script.write_text(LATE)
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=300)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr[-3000:]


# What torch would say on a machine with a GPU, which is not here.


def test_a_gpu_that_torch_cannot_use_is_refused_instead_of_training_on_the_processor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def too_old() -> bool:
        warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found 11040).", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", too_old)
    with pytest.raises(EverystepError, match=r"driver on your system is too old .* Update the driver"):
        numerics._require_driver()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    numerics._require_driver()  # no GPU: nothing to refuse


def test_bfloat16_is_refused_on_a_gpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    numerics.require_precision("bfloat16", "recipes/a.yaml")  # on a processor
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    numerics.require_precision("float32", "recipes/a.yaml")
    with pytest.raises(EverystepError, match=r"recipes/a.yaml: precision: bfloat16 .* Tesla T4 has 7\.5\. Write"):
        numerics.require_precision("bfloat16", "recipes/a.yaml")
