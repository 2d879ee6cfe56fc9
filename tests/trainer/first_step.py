"""The first step of a published recipe: what it takes, and the parts of it that need a process of their own.

    python -m tests.trainer.first_step step FOLDER NAME WORK  trains one step, writes its checkpoint and some logits
    python -m tests.trainer.first_step load FOLDER NAME       writes its hub form, as `everystep pull` does, has
                                                              transformers load that, and compares its logits
    python -m tests.trainer.first_step shapes FOLDER NAME     the same step, and the hub form, of tensors without values

Each prints one line of JSON. A recipe is trained as it is, but for its rows (`Work`), its numbers where the processor
has no arithmetic for them, and the compiler, which is left out. Vectors that do not fit into memory are in files, which
their process maps: to the trainer they are the same tensors.
"""

import json
import math
import mmap
import os
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.base.paths import RUNS
from pipeline.formats import checkpoints as ck
from pipeline.formats.model import ModelSpec, num_parameters, num_parameters_if_repeated, tensor_shapes, unrolled
from tests.project import ROOT
from tests.shards import write_rows
from trainer import numerics
from trainer.data import EverystepData
from trainer.memory import Memory, Setting, training_memory
from trainer.optimizer import learning_rate
from trainer.parallel import World
from trainer.recipe import Recipe, load_recipe

GIB = 1 << 30
LIBRARIES = 3 * GIB // 4
"""Memory of a process that has loaded torch and transformers and has computed something."""
OPERATIONS = 3e11
"""Floating-point operations that a step may take: about ten seconds of one core."""
EMULATED = 50_000_000
"""Parameters up to which a recipe is trained in bfloat16 on a processor that emulates it, in 90 times the time."""
ROWS = 2
LOGITS = 64
"""Positions of one row whose logits are compared."""
VECTORS = {"weights": 1, "gradient": 1, "moments": 2}
"""What training holds, in the order in which it is kept in memory, in vectors of all parameters."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one step of a recipe reads, and where its vectors are."""

    rows: int
    context: int
    precision: str
    in_memory: tuple[str, ...] = tuple(VECTORS)

    @classmethod
    def of(cls, recipe: Recipe, spec: ModelSpec) -> "Work":
        """As much of the context as ten seconds allow."""
        applied = num_parameters(unrolled(spec)[0])
        tokens = OPERATIONS / (6 * applied * ROWS)
        context = min(spec.context, max(32, 1 << int(math.log2(tokens))))
        emulated = recipe.precision == "bfloat16" and not has_bfloat16()
        dear = emulated and num_parameters(spec) > EMULATED
        if emulated and not dear:
            context = min(context, 64)
        return cls(rows=ROWS, context=context, precision="float32" if dear else recipe.precision)

    def placed(self, spec: ModelSpec, memory_free: int, disk_free: int) -> "Work | None":
        """Keep in memory what fits, and the rest in files; None if this machine can hold neither."""
        one = 4 * num_parameters(spec)
        left = memory_free - self.passing(spec)
        held: list[str] = []
        for name, count in VECTORS.items():
            if count * one > left:
                break
            held.append(name)
            left -= count * one
        in_files = one * sum(count for name, count in VECTORS.items() if name not in held)
        fits = left >= 0 and in_files + 3 * one + GIB < disk_free and _loaded(spec) < memory_free
        return replace(self, in_memory=tuple(held)) if fits else None

    def passing(self, spec: ModelSpec) -> int:
        """Bytes of everything else than the vectors."""
        needed = self.memory(spec)
        return LIBRARIES + needed.activations + needed.passing

    def memory(self, spec: ModelSpec) -> Memory:
        """What `trainer.memory` computes for the step."""
        setting = Setting(micro_batch=self.rows, leaves=1, is_half=self.precision == "bfloat16", saves=False)
        return training_memory(replace(spec, context=self.context), setting)


def _loaded(spec: ModelSpec) -> int:
    """Bytes that reading a hub form takes, or writing it: every weight once, a shared one for each layer."""
    return LIBRARIES + 4 * num_parameters_if_repeated(unrolled(spec)[0]) + GIB // 2


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    flags = Path("/proc/cpuinfo").read_text("utf-8")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def shortened(recipe: Recipe, work: Work) -> Recipe:
    """The recipe with a small batch, at the rate that its own batch would give."""
    schedule, batch = recipe.schedule, recipe.data.global_batch
    peak = schedule.peak if schedule.peak_batch is None else schedule.peak * batch / schedule.peak_batch
    tree = recipe.model_dump(exclude_unset=True)
    tree["data"] |= {"layout": "everystep", "folder": "rows", "width": work.context + 1}
    tree["data"] |= {"global_batch": work.rows, "micro_batch": work.rows}
    tree["schedule"] |= {"peak": peak, "peak_batch": None}
    return Recipe.model_validate(tree | {"precision": work.precision, "compiled": False, "digest_every": 1})


def open_data(folder: Path, recipe: Recipe, spec: ModelSpec) -> EverystepData:
    """Rows of made-up ids, of which any may come, the last as well."""
    rows = np.random.default_rng(1).integers(0, spec.vocabulary, (recipe.data.global_batch, recipe.data.width))
    rows[0, -2:] = 0, spec.vocabulary - 1
    shards = write_rows(folder / "rows", rows, "train")
    return EverystepData(folder=folder / "rows", shards=tuple(shards), vocabulary=spec.vocabulary, section=recipe.data)


class Mapped(World):
    """A world of one process whose vectors are in files below `folder`, but for those that are kept in memory. A file
    has no name: it is gone with the process, however that ends."""

    def __init__(self, folder: Path, in_memory: tuple[str, ...]) -> None:
        super().__init__(0, 1)
        self._folder, self._in_memory = folder, in_memory

    def weights(self, size: int) -> Tensor:
        return self._vector("weights", size)

    def subtree(self, size: int) -> Tensor:
        return self._vector("gradient", size)

    def zeros(self, size: int) -> Tensor:
        return self._vector("moments", size)

    def to_host(self, vector: Tensor) -> Tensor:
        """The vector itself: nothing is trained while the checkpoint is written."""
        return vector

    def _vector(self, name: str, size: int) -> Tensor:
        if name in self._in_memory:
            return torch.zeros(size)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            os.posix_fallocate(file.fileno(), 0, 4 * size)  # a full disk is an error here, and a dead process later
            return torch.frombuffer(mmap.mmap(file.fileno(), 4 * size), dtype=torch.float32)


def step(folder: Path, name: str, work: Work) -> dict[str, Any]:
    """Train one step, and write its checkpoint and logits after it."""
    from trainer.checkpoint import Writer
    from trainer.loop import Trainer

    published, spec = load_recipe(name, ROOT)
    recipe = shortened(published, work)
    data = open_data(folder, recipe, spec)
    began = time.perf_counter()
    with watched() as most:
        trainer = Trainer(Mapped(folder, work.in_memory), recipe, spec, data)
        begun = time.perf_counter()
        rows_BT = torch.from_numpy(data.micro_batch_rows(trainer.rows, 0, 0))
        before = float(trainer.model.losses(rows_BT).mean())
        stepping = time.perf_counter()
        entry = trainer.train_step()
        stepped = time.perf_counter()
        after = float(trainer.model.losses(rows_BT).mean())
        with torch.no_grad():
            np.save(folder / "logits.npy", trainer.model(rows_BT[:1, : min(LOGITS, work.context)]).numpy())
        np.save(folder / "tokens.npy", rows_BT[:1, : min(LOGITS, work.context)].numpy())
        writing = time.perf_counter()
        with Writer(folder / RUNS, recipe, spec, trainer.numerics(), None) as writer:
            writer.save(trainer.step, trainer.tokens, entry, *trainer.state())
        written = time.perf_counter()
    ((_, checkpoint),) = ck.find_checkpoints(folder / RUNS)
    record = ck.read_record(checkpoint)
    assert record.weights_digest == entry.weights_digest
    return {
        "loss": entry.loss,
        "gradient_norm": entry.gradient_norm,
        "rate": entry.learning_rate,
        "declared_rate": learning_rate(published.schedule, 1, published.data.global_batch),
        "before": before,
        "after": after,
        "first": begun - began,
        "step": stepped - stepping,
        "write": written - writing,
        "memory": most(),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
    }


def pull(folder: Path) -> None:
    """Write the hub form of the checkpoint, and remove the checkpoint."""
    from pipeline.audit.pull import write_folder
    from tests.trainer.exports import made_release

    ((_, checkpoint),) = ck.find_checkpoints(folder / RUNS)
    record = ck.read_record(checkpoint)
    spec = ModelSpec.from_json(json.loads((checkpoint / ck.CONFIG).read_bytes()))
    (checkpoint / ck.OPTIMIZER).unlink()
    (folder / "scratch").mkdir()
    tensors = ck.read_verified(checkpoint, ck.WEIGHTS)
    (checkpoint / ck.WEIGHTS).unlink()
    (folder / "pulled").mkdir()
    weights = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    about = {"release": "test", "release_version": "1", **record.to_json()}
    write_folder(made_release(folder / "scratch"), folder / "pulled", spec, weights, about)


def load(folder: Path, name: str) -> dict[str, Any]:
    """Have transformers read the hub form of the checkpoint."""
    from transformers import AutoModelForCausalLM

    with watched() as most, torch.no_grad():
        pull(folder)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder / "pulled", trust_remote_code=True, output_loading_info=True, dtype=torch.float32
        )
        model, info = loaded
        assert not any(info.values()), info
        logits = model(torch.from_numpy(np.load(folder / "tokens.npy"))).logits.numpy()
    ours = np.load(folder / "logits.npy")
    return {
        "difference": float(np.abs(logits - ours).max()),
        "deviation": float(ours.std()),
        "agree": bool((logits.argmax(-1) == ours.argmax(-1)).all()),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "class": type(model).__name__,
        "memory": most(),
    }


@contextmanager
def watched() -> Iterator[Any]:
    """The most memory of this process that is in no file, looked at 50 times a second."""
    most, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(0.02):
            fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            most[0] = max(most[0], 1024 * int(fields["RssAnon"].split()[0]))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        over.set()
        thread.join()


class Shapes(TorchDispatchMode):
    """Counts the bytes of the tensors that exist, above `FakeTensorMode`, whose tensors have no values.

    What is asked for a value is answered with 1, and with False: a loss of 1 whose derivative by itself is 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            return False if args[0].dtype == torch.bool else 1.0
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        if storage._cdata in self._seen:
            return
        size, key = storage.nbytes(), storage._cdata

        def gone() -> None:
            self.now -= size
            del self._seen[key]

        self._seen[key] = weakref.finalize(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def shapes(folder: Path, name: str) -> dict[str, Any]:
    """Take the step on tensors without values, at the recipe's own micro-batch; and give the hub form shapes alone."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoConfig, AutoModelForCausalLM

    from pipeline.audit.export_model import export
    from pipeline.base.files import write_bytes
    from pipeline.formats.canonical import pretty
    from trainer import loop

    published, spec = load_recipe(name, ROOT)
    rows = published.data.micro_batch
    work = Work(rows=rows, context=spec.context, precision=published.precision)
    recipe = shortened(published, work)
    data = open_data(folder, recipe, spec)
    began = time.perf_counter()
    unset = patch.object(loop, "initialize", lambda model, seed: None)  # there is nowhere to put values
    warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # to see whether two are the same
    with unset, FakeTensorMode(allow_non_fake_inputs=True), Shapes() as counted:
        trainer = loop.Trainer(World(0, 1), recipe.model_copy(update={"digest_every": 1000}), spec, data)
        vectors = counted.now
        trainer.train_step()
        named = {place.name: place.shape for place in trainer.flat.places}
        gradients = {n: tuple(p.grad.shape) for n, p in trainer.model.named_parameters() if p.grad is not None}
    assert trainer.step == 1 and named == gradients == tensor_shapes(spec)
    stepped = time.perf_counter()
    empty = {n: np.broadcast_to(np.float32(0), shape) for n, shape in tensor_shapes(spec).items()}
    exported = export(spec, empty, eos_token_id=0)
    for file, content in {"config.json": pretty(exported.config), **exported.extra_files}.items():
        write_bytes(folder / "pulled" / file, content)
    config = AutoConfig.from_pretrained(folder / "pulled", trust_remote_code=True)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    theirs = {n: tuple(p.shape) for n, p in model.named_parameters()}
    # transformers 5 renames this one when it loads a file
    renamed = {"embed_out.weight": "lm_head.weight"} if config.model_type == "gpt_neox" else {}
    assert theirs == {renamed.get(n, n): tensor.shape for n, tensor in exported.tensors.items()}
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "class": type(model).__name__,
        "rows": rows,
        "context": spec.context,
        "vectors": vectors,
        "most": counted.most,
        "computed": work.memory(spec).peak,
        "step": stepped - began,
        "checkpoint": 12 * num_parameters(spec),
    }


def main() -> None:
    part, folder, name, *given = sys.argv[1:]
    numerics.enter("native")
    parts: dict[str, Any] = {"load": load, "shapes": shapes}
    if part == "step":
        about = json.loads(given[0])
        result = step(Path(folder), name, Work(**about | {"in_memory": tuple(about["in_memory"])}))
    else:
        result = parts[part](Path(folder), name)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
