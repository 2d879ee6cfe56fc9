"""Numerics classes: which processors and kernels give the same bits, and how a process enters a class.

`portable`: the same weights on any x86-64 Linux machine with AVX2 and FMA. Elementwise kernels are capped to
AVX2, and matrix products are OpenBLAS's with one fixed core type (`trainer.matmul`); docs/decisions.md has the
trials. `native`: torch's fastest deterministic kernels for this processor or, where there is one, this GPU; bits hold
on machines of the same processor or GPU model and library builds.

Threads change bits, so a process computes with exactly one; cores are used by processes. The libraries read
their settings when they are loaded, so a process that was started with other settings restarts itself.
"""

import os
import re
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from pipeline.base.console import note
from pipeline.base.errors import EverystepError
from trainer.startup import Startup

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "GOMP_SPINCOUNT": "0",
}
# glibc returns freed blocks to the kernel, and each new one costs a fault per page: a tenth of a step.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 34)}
CLASSES: dict[str, dict[str, str]] = {
    "portable": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "COMPATIBLE",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OPENBLAS_CORETYPE": "Haswell",
    },
    "native": {},
}
# What cuBLAS needs to give the same bits in every run; without a GPU nothing reads it.
ONE_WORKSPACE = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
COMMON = ONE_THREAD | KEEP_MEMORY | ONE_WORKSPACE
STEERED_PREFIXES = (
    "MALLOC_",
    "TORCHINDUCTOR_",
    "TORCHDYNAMO_",
    "TORCH_COMPILE_",
    "ATEN_",
    "MKL_",
    "ONEDNN_",
    "DNNL_",
    "OMP_",
    "KMP_",
    "GOMP_",
    "GOTO_",
    "OPENBLAS_",
    "CUBLAS",
    "CUDNN_",
    "NVIDIA_TF32_",
    "TORCH_ALLOW_TF32_",
    "TORCH_BLAS_",
    "TORCH_CUDNN_",
)
STARTED_AGAIN = "EVERYSTEP_NUMERICS"
_entered: str | None = None


def enter(name: str) -> None:
    """Put this process, and those it will start, into the numerics class `name`.

    Call it before any work, because it may restart this program (`prepare`). Raises `EverystepError` when this machine
    cannot provide the class.
    """
    prepare(name)
    with Startup() if name != _entered else nullcontext():  # loading torch takes seconds
        load(name)


def load(name: str) -> None:
    """Load the libraries in the class `name`, for which this process is prepared."""
    global _entered
    os.environ.pop(STARTED_AGAIN, None)
    if name != _entered:
        _settle(name)
    _entered = name
    for key in _steered().keys() - CLASSES[name].keys() - COMMON.keys():  # set by libraries; children start clean
        del os.environ[key]


def prepare(name: str) -> None:
    """Set the environment of the class `name`, before anything heavy is loaded.

    Every variable with which the caller could steer the libraries is replaced. If one differs, this program restarts
    from its beginning, in the same process, with the right ones.
    """
    if name == _entered:  # the libraries have read their settings
        return
    if name not in CLASSES:
        raise EverystepError(f"numerics: {name!r} is not a numerics class; choose {' or '.join(CLASSES)}")
    wanted = COMMON | CLASSES[name]
    steered = _steered()
    if steered != wanted:
        if os.environ.get(STARTED_AGAIN) == name:
            raise EverystepError(f"numerics: something sets {sorted(steered.items() ^ wanted.items())} at every start")
        kept = {key: value for key, value in os.environ.items() if key not in steered}
        sys.stderr.flush()
        started = kept | wanted | {STARTED_AGAIN: name}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], started)  # noqa: S606  (itself, no shell)


def describe(name: str, precision: str = "float32", compiled: bool = False) -> dict[str, Any]:
    """Describe what decides the bits in this process, for records: in class `portable` the same on every machine."""
    import torch

    capability, products = torch.backends.cpu.get_cpu_capability(), _openblas()
    if name == "native" and torch.cuda.is_available():
        capability, products = torch.cuda.get_device_name(), f"CUDA {torch.version.cuda}"
    elif name == "native":
        capability, products = f"{capability} of {processor()}", _mkl_and_onednn(torch.__config__.show())
        products += "" if capability.startswith("AVX512") else f", {_openblas()}"
    return {
        "class": name,
        "capability": capability,
        "torch": torch.__version__,
        "products": products,
        "dtype": precision,
        "compiled": compiled,
        "threads": torch.get_num_threads(),
    }


def warn_if_other(recorded: dict[str, Any], found: dict[str, Any]) -> None:
    """Say on stderr that bits may differ when a state comes from another numerics class or build."""
    then, now = ({"shards": 1} | described for described in (recorded, found))
    differing = [f"{key}: {then.get(key)!r} then, {now[key]!r} now" for key in now if then.get(key) != now[key]]
    if differing:
        native = "native" in (recorded.get("class"), found["class"])
        expected = "; in the class native expect other bits from the first step on, which say nothing against the run"
        note(f"note: bits may differ from the recorded run ({'; '.join(differing)}){expected if native else ''}")


def _steered() -> dict[str, str]:
    """Return the variables that steer a library's choices; the folder of compiled code is not one of them."""
    kept = "TORCHINDUCTOR_CACHE_DIR"
    return {key: value for key, value in os.environ.items() if key.startswith(STEERED_PREFIXES) and key != kept}


def _settle(name: str) -> None:
    import torch

    from trainer.matmul import use_portable

    torch.set_num_threads(1)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    if name == "native":
        _require_driver()
    # What use_deterministic_algorithms(True) sets, without its import of the compiler, which is half of a start.
    torch.set_deterministic_debug_mode("error")
    # Otherwise every new tensor is filled first: 8 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    use_portable(name == "portable")
    capability = torch.backends.cpu.get_cpu_capability()
    if name == "portable" and (capability != "AVX2" or "Haswell" not in _openblas()):
        raise EverystepError(
            "numerics: portable needs an x86-64 processor with AVX2 and FMA, and numpy with OpenBLAS; torch reports "
            f"{capability}, numpy {_openblas()}. Train with `numerics: native`; verify and trace need neither"
        )


def require_precision(precision: str, recipe: str) -> None:
    """Refuse a `precision` for which this machine's GPU has no arithmetic. Without a GPU there is nothing to refuse."""
    import torch

    if precision != "bfloat16" or is_on_cpu() or torch.cuda.is_bf16_supported(including_emulation=False):
        return
    raise EverystepError(
        f"{recipe}: precision: bfloat16 needs a GPU of compute capability 8.0 or newer; {torch.cuda.get_device_name()} "
        f"has {'.'.join(map(str, torch.cuda.get_device_capability()))}. Write precision: float32, or train on the "
        "processor: CUDA_VISIBLE_DEVICES= hides the GPU"
    )


def is_on_cpu() -> bool:
    """Whether this process computes on the processor: always in the class `portable`."""
    import torch

    from trainer.matmul import is_portable

    return is_portable() or not torch.cuda.is_available()


def _require_driver() -> None:
    """Refuse a GPU that torch finds and cannot use: training would go on, on the processor, for weeks."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        usable = torch.cuda.is_available()
    faults = [str(warning.message).split("(Triggered")[0].strip() for warning in said]
    if not usable and faults:
        raise EverystepError(
            f"numerics: torch {torch.__version__} cannot use this machine's GPU: {' '.join(faults)} Update the driver "
            "or install a build of torch for it; CUDA_VISIBLE_DEVICES= hides the GPU, to train on the processor"
        )


def processor() -> str:
    """Return the processor's maker, family and model, by which MKL and oneDNN choose kernels."""
    fields = dict(re.findall(r"^([\w ]*\w)\s*: (.*)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M))
    return f"{fields.get('vendor_id')} family {fields.get('cpu family')} model {fields.get('model')}"


def _openblas() -> str:
    """Return version and core type of numpy's OpenBLAS, such as `OpenBLAS 0.3.30 Haswell`."""
    from threadpoolctl import threadpool_info

    found = [info for info in threadpool_info() if info["internal_api"] == "openblas"]
    return ", ".join(f"OpenBLAS {info['version']} {info['architecture']}" for info in found) or "no OpenBLAS"


def _mkl_and_onednn(configuration: str) -> str:
    lines = [line.strip(" -") for line in configuration.splitlines()]
    return ", ".join(line for line in lines if "Math Kernel Library" in line or "MKL-DNN" in line) or "neither"
