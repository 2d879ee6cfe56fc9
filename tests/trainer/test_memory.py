"""The arithmetic of `bench/memory.py` against what torch keeps, and what a whole step allocates."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.memory import FLOAT, kept_behind_layers, kept_by_layers, memory
from bench.ours import open_trainer, work
from pipeline.formats.model import ModelSpec
from tests.trainer.tiny import tiny_spec

ROWS = 2


def spec_of(family: str) -> ModelSpec:
    heads: dict[str, Any] = {"heads": 8}
    if family in ("mobilellm", "mobilellm-ls", "olmo2", "qwen3", "smollm3"):
        heads = {"query_heads": 4, "kv_heads": 2, "ffn_width": 704, "tied_embedding": True}
    if family == "mobillama":
        heads = {"query_heads": 4, "ffn_width": 704, "tied_embedding": False, "shared_ffn": True}
    if family == "openelm":
        heads = {"head_width": 32, "query_heads_per_kv_head": 2, "ffn_divisor": 64, "tied_embedding": True}
    return tiny_spec(family, vocabulary=4096, context=256, width=256, layers=6, **heads)


@pytest.mark.parametrize("family", ["mobilellm", "mobilellm-ls", "mobillama", "openelm", "olmo2", "qwen3", "smollm3"])
@pytest.mark.parametrize("recompute", [False, True])
def test_a_micro_batch_keeps_what_is_computed_to_two_percent(family: str, recompute: bool) -> None:
    import torch

    from trainer.model import Decoder, initialize

    spec = spec_of(family)
    model = Decoder(spec, recompute)
    initialize(model, 1)
    storages: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.loss(torch.arange(ROWS * 257).view(ROWS, 257))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found = sum(storage.nbytes() for pointer, storage in storages.items() if pointer not in weights)
    kept = kept_by_layers(spec, recompute)[0]
    computed = FLOAT * (ROWS * 256 * (kept + kept_behind_layers(spec)) + spec.vocabulary * spec.width)
    assert loss.requires_grad
    assert found == pytest.approx(computed, rel=0.02)


def test_a_step_allocates_what_is_computed_to_three_percent(tmp_path: Path) -> None:
    """Counted by torch itself: the most that is allocated at a time, beyond the trainer's own vectors."""
    from torch.profiler import ProfilerActivity, profile

    recipe, spec = work(tmp_path, "sibling", global_batch=2, micro_batch=2, steps=2)
    trainer = open_trainer(tmp_path)
    trainer.train_step()  # makes the buffers of the tree
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        trainer.train_step()
    profiled.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    totals = [event["args"]["Total Allocated"] for event in events if event["name"] == "[memory]"]
    computed = memory(recipe, spec)
    assert max(totals) - totals[0] == pytest.approx(computed.activations + computed.passing, rel=0.03)
