"""The recorder: a trainer whose step writes a transcript, with the code that trains.

torch hands every operator, of the forward pass and of autograd's backward pass, to a `TorchDispatchMode`. What a step
computes besides (the order of rows, norms, clipping, the rate, AdamW) are methods of the trainer, and are recorded
here one by one. A vector of all parameters is recorded tensor by tensor.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pipeline.formats.canonical import Json
from pipeline.formats.log import Entry
from pipeline.formats.transcript import SHORT, Claim, Operation, digest_of, leaves_of
from trainer.dispute.memory import elements, extent_of
from trainer.dispute.operators import (
    OVERWRITE,
    UNWRITTEN,
    changed_by,
    encode,
    is_view,
    order_arguments,
    results,
    scalars,
    tensors_in,
)
from trainer.loop import Trainer
from trainer.optimizer import BLOCKS, FlatParameters


class _Begun(NamedTuple):
    operator: str
    arguments: dict[str, Json]
    reads: list[Claim]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A list of operations that grows while it is on. `opened` is the number of one whose tensors are given leaf by
    leaf, and of which `read` keeps what it read."""

    def __init__(self, flat: FlatParameters, opened: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.read: list[bytes] = []
        self.micro_batch: int | None = None
        self.modules = _Modules()
        self.kinds: dict[int, str] = {}
        """Start of the memory of a vector of all parameters → what is in it; gradients, if it is not here."""
        self._flat = flat
        self._opened = opened
        stops = [*(place.start for place in flat.places[1:]), flat.size]
        self.parts = list(zip((place.start for place in flat.places), stops, strict=True))
        self._writers: dict[int, list[tuple[int, int, int]]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute one operator of torch and write it down, unless it computes nothing."""
        kwargs = kwargs or {}
        name = str(function)
        short = name.rpartition(".")[0]
        if is_view(function):
            return function(*args, **kwargs)
        if short in UNWRITTEN:
            return self.forget(function(*args, **kwargs))
        named = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False)) | kwargs
        changed = changed_by(function, named)
        reads: list[Tensor] = []
        arguments = {key: encode(value, reads) for key, value in named.items()}
        unread = changed if short in OVERWRITE else []
        is_flat = [self._is_flat(tensor) for tensor in reads]
        if is_flat and all(is_flat):
            begun = [
                self.begin(name, arguments, [t[start:stop] for t in reads], unread, ahead)
                for ahead, (start, stop) in enumerate(self.parts)
            ]
            result = self.compute(function, args, kwargs)
            for one, (start, stop) in zip(begun, self.parts, strict=True):
                self.end(one, [tensor[start:stop] for tensor in results(changed, result)], phase="sum")
            return result
        whole = self.begin(name, arguments, reads, unread)
        result = self.compute(function, args, kwargs)
        written = results(changed, result)
        if written:
            self.end(whole, written, made=list(tensors_in(result)) if not changed else [])
        return result

    def compute(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Compute an operator of torch. A machine with a fault does it otherwise."""
        return function(*args, **kwargs)

    def begin(
        self,
        operator: str,
        arguments: dict[str, Json],
        reads: Sequence[Tensor],
        unread: Sequence[Tensor] = (),
        ahead: int = 0,
    ) -> _Begun:
        """Take down what an operator is about to read; `ahead` of it, others have begun and not ended. What it
        overwrites without reading, `unread`, has no values."""
        overwritten = {_memory(tensor) for tensor in unread}
        is_open = len(self.operations) + ahead == self._opened
        claims = []
        for tensor in reads:
            content = None if _memory(tensor) in overwritten else elements(tensor)
            writer = self._writer(tensor) if content is not None else None
            claims.append(self._claim(tensor, content, is_open, writer))
            if is_open:
                self.read.append(bytes(content or b""))
        return _Begun(operator, arguments, claims)

    def end(
        self, begun: _Begun, writes: Sequence[Tensor], phase: str | None = None, made: Sequence[Tensor] = ()
    ) -> None:
        """Take down what it wrote; `made` are tensors that did not exist before."""
        number = len(self.operations)
        for tensor in made:
            self.forget(tensor)
        where = self._place()
        if phase:
            where |= {"micro_batch": self.micro_batch if phase == "rows" else None, "phase": phase, "module": ""}
        claims = [self._claim(tensor, elements(tensor), number == self._opened) for tensor in writes]
        self.operations.append(
            Operation(**where, operator=begun.operator, arguments=begun.arguments, reads=begun.reads, writes=claims)
        )
        for tensor in writes:
            start, stop = _span(tensor)
            self._writers.setdefault(_memory(tensor), []).append((start, stop, number))

    def forget(self, tensor: Tensor) -> Tensor:
        """Take a tensor for new: what its memory held before was another's."""
        self._writers.pop(_memory(tensor), None)
        return tensor

    def _place(self) -> dict[str, Any]:
        node = torch._C._current_autograd_node()
        if node is None:
            return {"micro_batch": self.micro_batch, "phase": "forward", "module": self.modules.now}
        return {"micro_batch": self.micro_batch, "phase": "backward", "module": self.modules.of(node)}

    def _is_flat(self, tensor: Tensor) -> bool:
        return tensor.dim() == 1 and len(tensor) == self._flat.size

    def _claim(self, tensor: Tensor, content: memoryview | None, is_open: bool, writer: int | None = None) -> Claim:
        about: dict[str, Any] = {
            "tensor": self._name(tensor),
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "strides": list(tensor.stride()),
            "digest": None,
        }
        if writer is not None:
            about["written_by"] = writer
        if content is not None:
            leaves = leaves_of(content)
            about["digest"] = digest_of(leaves)
            if content.nbytes <= SHORT:
                about["content"] = content.hex()
            elif is_open:
                about["leaves"] = b"".join(leaves).hex()
        return Claim.model_construct(**about)

    def _writer(self, tensor: Tensor) -> int | None:
        start, stop = _span(tensor)
        written = self._writers.get(_memory(tensor), [])
        return next((number for begin, end, number in reversed(written) if begin < stop and start < end), None)

    def _name(self, tensor: Tensor) -> str:
        storage = tensor.untyped_storage()
        if storage.nbytes() != self._flat.size * torch.float32.itemsize or tensor.dtype != torch.float32:
            return ""
        start, stop = tensor.storage_offset(), tensor.storage_offset() + extent_of(tensor.shape, tensor.stride())
        place = bisect_right(self.parts, (start, self._flat.size + 1)) - 1
        if stop > self.parts[place][1]:
            return ""
        return self.kinds.get(storage.data_ptr(), "gradient of ") + self._flat.places[place].name


class _Modules:
    """Which module is at work; in the backward pass, which one made a node of autograd's graph.

    Nodes are numbered through, so the numbers at which modules begin and end tell.
    """

    def __init__(self) -> None:
        self.now = ""
        self._starts: list[int] = []
        self._names: list[str] = []

    def enter(self, name: str) -> None:
        """Go on in another module."""
        self.now = name
        self._starts.append(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]
        self._names.append(name)

    def of(self, node: Any) -> str:
        """Return the module that made a node; a node that accumulates into a gradient was made by none."""
        if hasattr(node, "variable"):
            return "gradients"
        place = bisect_right(self._starts, node._sequence_nr()) - 1
        return self._names[place] if place >= 0 else ""


class RecordedTrainer(Trainer):
    """A trainer whose next step is written down: the trainer that it is made from, which must not be used after."""

    def __init__(self, trainer: Trainer, opened: int | None = None) -> None:
        vars(self).update(vars(trainer))
        self.recorder = Recorder(self.flat, opened)

    def record(self) -> Entry:
        """Train one step, and write it down in `recorder`."""
        self.model.recompute = False  # which changes no bit, but repeats operators
        with torch.no_grad():  # the tables of rotations, which a model computes when it first needs them
            self.model.hidden(torch.zeros(1, 1, dtype=torch.int64, device=self.world.device))
        for kind, vector in (
            ("", self.flat.values),
            ("first moment of ", self.optimizer.first),
            ("second moment of ", self.optimizer.second),
        ):
            self.recorder.kinds[vector.untyped_storage().data_ptr()] = kind
        hooks = [hook for name, module in self.model.named_modules() if name for hook in self._watch(name, module)]
        try:
            return self.train_step()
        finally:
            for hook in hooks:
                hook.remove()

    def _watch(self, name: str, module: Any) -> list[Any]:
        modules, outer = self.recorder.modules, [""]

        def enter(*_: Any) -> None:
            outer.append(modules.now)
            within = modules.now == "embedding" or name.startswith(f"{modules.now}.")
            modules.enter(name if within else f"{modules.now} ({name})")

        def leave(*_: Any) -> None:
            before = outer.pop()
            modules.enter("loss" if name == "final_norm" else before)

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def _gradients(self, step: int) -> tuple[list[float], Tensor]:
        with self.recorder:
            return super()._gradients(step)

    def _rows(self, step: int, number: int) -> Tensor:
        recorder = self.recorder
        recorder.micro_batch = number
        with _disable_current_modes():
            numbers = torch.from_numpy(self.data.row_numbers(step, number))
            order = recorder.begin("everystep.order", order_arguments(self.data, step, number), [])
            recorder.end(order, [numbers], "rows", [numbers])
            rows = recorder.begin("everystep.rows", {}, [numbers])
            rows_BT = super()._rows(step, number)
            recorder.end(rows, [rows_BT], "rows", [rows_BT])
        recorder.modules.enter("embedding")
        return rows_BT

    def _norms(self, gradient: Tensor) -> list[float]:
        squared_norms = super()._norms(gradient)
        for block, norm in zip(torch.split(gradient, self.flat.size // BLOCKS), squared_norms, strict=True):
            self.recorder.end(self.recorder.begin("everystep.block_norm", {}, [block]), [scalars(norm)], "clip")
        return squared_norms

    def _clip(self, squared_norms: list[float]) -> tuple[float, float]:
        arguments = {"clip_norm": self.recipe.optimizer.clip_norm, "scale": self._scale}
        begun = self.recorder.begin("everystep.clip_factor", arguments, [self.recorder.forget(scalars(*squared_norms))])
        norm, factor = super()._clip(squared_norms)
        self.recorder.end(begun, [scalars(norm, factor)], "clip")
        return norm, factor

    def _rate(self) -> float:
        arguments = {
            "global_batch": self.recipe.data.global_batch,
            "schedule": self.recipe.schedule.model_dump(),
            "step": self.step + 1,
        }
        begun = self.recorder.begin("everystep.learning_rate", arguments, [])
        rate = super()._rate()
        self.recorder.end(begun, [scalars(rate)], "update")
        return rate

    def _update(self, gradient: Tensor, factor: float, rate: float) -> None:
        recorder, state = self.recorder, (self.optimizer.first, self.optimizer.second, self.flat.values)
        begun = []
        for ahead, (start, stop) in enumerate(recorder.parts):
            arguments = {
                "decayed": start < self.flat.num_decayed,
                "factor": factor,
                "optimizer": self.recipe.optimizer.model_dump(),
                "rate": rate,
                "step": self.step + 1,
            }
            reads = [vector[start:stop] for vector in (gradient, *state)]
            begun.append(recorder.begin("everystep.adamw", arguments, reads, ahead=ahead))
        super()._update(gradient, factor, rate)
        for one, (start, stop) in zip(begun, recorder.parts, strict=True):
            recorder.end(one, [vector[start:stop] for vector in state], "update")


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the bytes of its memory that a tensor spans."""
    start = int(tensor.storage_offset()) * tensor.element_size()
    return start, start + extent_of(tensor.shape, tensor.stride()) * tensor.element_size()
