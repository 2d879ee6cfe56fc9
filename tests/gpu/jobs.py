"""Checks in one process, in the class `native`: python -m tests.gpu.jobs FOLDER DEVICE FAMILIES CHECK ...

FOLDER has the small training in `run`. Each check prints a line of JSON: its name and its figures, or its fault.
"""

import json
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from tests.gpu.setting import Figures
from tests.trainer.runs import MODEL
from trainer import numerics
from trainer.recipe import load_recipe


def machine(folder: Path, device: str, families: list[str]) -> Figures:
    """What this machine is, and the rates that shares of it are counted in."""
    import torch

    size = 8192 if device == "cuda" else 128
    figures: Figures = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "numpy": np.__version__,
        "numerics": numerics.describe("native"),
        "bfloat16_tflops": _product_rate(device, torch.bfloat16, size) / 1e12,
        "float32_tflops": _product_rate(device, torch.float32, size // 2) / 1e12,
        "copy_gigabytes_per_second": _copy_rate(device, 2**30 if device == "cuda" else 2**20) / 1e9,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        figures |= {
            "gpu": properties.name,
            "gpus": torch.cuda.device_count(),
            "memory_gib": properties.total_memory / 2**30,
            "capability": list(torch.cuda.get_device_capability()),
            "cudnn": torch.backends.cudnn.version(),
            "nccl": list(torch.cuda.nccl.version()),
        }
        assert torch.cuda.is_bf16_supported(including_emulation=False), "this GPU has no bfloat16"
        assert torch.get_float32_matmul_precision() == "highest", "float32 products would be TF32"
    return figures


def _product_rate(device: str, dtype: Any, size: int) -> float:
    """Operations a second of a product of two square matrices of random numbers."""
    import torch

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
    return 2 * size**3 / _seconds(lambda: a @ b, device)


def _copy_rate(device: str, size: int) -> float:
    """Bytes a second, read and written."""
    import torch

    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / _seconds(lambda: target.copy_(source), device)


def _seconds(work: Any, device: str) -> float:
    """The median of ten runs, after three."""
    import torch

    times = []
    for _ in range(13):
        began = perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(perf_counter() - began)
    return sorted(times[3:])[5]


def replayed(folder: Path, device: str, families: list[str]) -> Figures:
    """A stretch of the small training, again from its bytes and its log."""
    from pipeline.release.release import Release
    from trainer.replay import replay

    found = replay(Release.open(str(folder / "run")), MODEL, 4, 12)
    assert found.first_difference is None, f"first at step {found.first_difference}: {found.detail}"
    assert found.digests_compared > 0
    return {"steps": found.stop - found.start, "digests_compared": found.digests_compared}


def evaluated(folder: Path, device: str, families: list[str]) -> Figures:
    """Losses of the checkpoints: the same twice, and those that the processor computes, up to rounding."""
    import torch

    from pipeline.base.paths import RUNS
    from pipeline.formats import checkpoints as ck
    from trainer.launch import launch
    from trainer.losses import compute_losses
    from trainer.parallel import World

    project = folder / "run"
    _, spec = load_recipe(MODEL, project)
    folders = [found for _, found in ck.find_checkpoints(project / RUNS / MODEL)]
    rows = np.random.default_rng(3).integers(0, spec.vocabulary, (64, spec.context + 1))
    arguments = (MODEL, spec, folders, rows, 16)
    here, again = (launch(compute_losses, 1, "native", *arguments) for _ in "ab")
    there = compute_losses(World(0, 1, torch.device("cpu")), *arguments)
    assert np.array_equal(here, again), "two evaluations differ"
    distance = float(np.abs(here - there).max())
    assert distance < 1e-4, f"a loss differs from the processor's by {distance}"
    return {"checkpoints": len(folders), "losses": here.size, "largest_difference_from_the_processor": distance}


def sampled(folder: Path, device: str, families: list[str]) -> Figures:
    """Greedy tokens with the cache are those without it, twice."""
    import torch

    from pipeline.base.paths import RUNS
    from pipeline.formats import checkpoints as ck
    from trainer.model import Decoder, load_tensors
    from trainer.sample import continuation

    project = folder / "run"
    _, spec = load_recipe(MODEL, project)
    model = Decoder(spec).to(device)
    load_tensors(model, ck.read_tensors(ck.find_checkpoints(project / RUNS / MODEL)[-1][1] / ck.WEIGHTS))  # type: ignore[arg-type]
    prompt = [5, 17, 300]
    first, second = (
        list(continuation(model, prompt, spec.vocabulary, lambda logits, _: int(logits.argmax()))) for _ in "ab"
    )
    plain = list(prompt)
    with torch.no_grad():
        while len(plain) < len(prompt) + len(first):
            plain.append(int(model(torch.tensor([plain[-spec.context :]], device=device))[0, -1].argmax()))
    assert first == second, "two samples differ"
    assert plain[len(prompt) :] == first, "the cache changes the tokens"
    return {"tokens": len(first)}


def exported(folder: Path, device: str, families: list[str]) -> Figures:
    """transformers reads what is exported, and gives the same logits on this device."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests.trainer.exports import build, read_spec, write_pulled

    figures: Figures = {}
    for family in families:
        model, place = build(read_spec(family)), folder / "exports" / family
        place.mkdir(parents=True)
        (folder / "scratch" / family).mkdir(parents=True)
        write_pulled(model, place, folder / "scratch" / family)
        tokens_BT = torch.from_numpy(np.random.default_rng(3).integers(1, model.spec.vocabulary, (2, 100))).to(device)
        theirs: Any = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=True)
        theirs = theirs.to(device)
        with torch.no_grad():
            expected, found = model.to(device)(tokens_BT), theirs(tokens_BT).logits
        assert float(expected.std()) > 0.5
        figures[family] = float((found - expected).abs().max())
        assert figures[family] < 5e-4, f"{family}: logits differ by {figures[family]}"
    return {"largest_difference_of_logits": figures}


JOBS = {job.__name__: job for job in (machine, replayed, evaluated, sampled, exported)}


def main(folder: str, device: str, families: str, *names: str) -> None:
    numerics.enter("native")  # may restart this program
    for name in names:
        line: Figures = {"check": name}
        try:
            line["figures"] = JOBS[name](Path(folder), device, families.split(","))
        except Exception as error:
            traceback.print_exc()
            line["fault"] = f"{type(error).__name__}: {error}"
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
