"""Operators by name: what they read and write, and how one of them is computed again.

Names from a file select only from `ALLOWED` and `FUNCTIONS`: torch has operators that open files.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import trainer.attention
import trainer.operators  # noqa: F401  (defines everystep::logarithm)
from pipeline.base.errors import EverystepError, well_shaped
from pipeline.formats.canonical import Json
from pipeline.formats.lines import Shard
from trainer.data import EverystepData, Llm360Data, MobilellmData, TrainingData
from trainer.optimizer import AdamW, FlatParameters, block_norms, clip_factor, learning_rate
from trainer.recipe import DataSection, OptimizerSection, ParentSection, ScheduleSection

Arguments = dict[str, Any]
MAX_ELEMENTS = 1 << 28
"""Elements that an operator of somebody's evidence may write."""

OVERWRITE = {"aten.copy_", "aten.fill_", "aten.zero_"}
"""Operators that do not read what they change."""
VIEWS = {"aten._unsafe_view"}
"""Operators whose schema hides that their result is a view."""
UNWRITTEN = {"aten.empty", "aten.empty_like", "aten.new_empty", "aten.new_empty_strided", "aten.empty_strided"}
"""Operators whose result has no values yet."""

POINTWISE = {
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "neg", "pow", "rsqrt", "sqrt", "square", "ne"),
    *("addcmul_", "addcdiv_", "silu", "silu_backward", "gelu", "gelu_backward", "clone", "copy_", "_to_copy"),
    *("zero_", "fill_", "where", "eq", "bitwise_and", "bitwise_not"),
}
"""Operators of which an element depends on the elements at its place."""
BY_ROWS = {"_softmax", "_softmax_backward_data", "mean", "sum", "amax", "cumsum", "gather", "scatter_add_"}
"""Operators of which an element depends on the last dimension at its place, if that is the one they are given."""
PRODUCTS = {"mm", "bmm", "portable_product", "large_product", "addmm", "addmm_"}
"""Operators of which an element depends on a row and a column of the last two tensors, and its place in one before."""
NOT_PORTABLE = {
    *("mm", "bmm", "addmm", "addmm_", "large_product", "_scaled_dot_product_flash_attention_for_cpu"),
    *("_scaled_dot_product_flash_attention_for_cpu_backward", "attention", "attention_backward"),
}
"""Operators that the class `portable` never applies: its only product is `portable_product`."""
SHAPES = {"zeros_like", "ones_like", "full_like", "new_full", "new_zeros"}
"""Operators that read a shape, and no element."""
WHOLE = {
    *("embedding", "index_add_", "cat", "triu", "tril", "full", "ones", "zeros", "scalar_tensor"),
    *(
        "native_layer_norm",
        "native_layer_norm_backward",
        "select_backward",
        "slice_backward",
        "logarithm",
        "masked_fill",
        "expand",
        "arange",
    ),
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"),
    *("attention", "attention_backward"),
}
"""Other operators that a training may use."""
ALLOWED = POINTWISE | BY_ROWS | PRODUCTS | SHAPES | WHOLE


def short(name: str) -> str:
    """Shorten `aten.add_.Tensor` to `add_`."""
    return name.split(".")[1]


def is_view(function: Any) -> bool:
    """Tell whether an operator of torch gives a view of what it reads, and computes nothing."""
    returns = function._schema.returns
    views = [result.alias_info is not None and not result.alias_info.is_write for result in returns]
    return any(views) or str(function).rpartition(".")[0] in VIEWS


def changed_by(function: Any, arguments: Arguments) -> list[Tensor]:
    """List the tensors that an operator of torch changes in place."""
    written = [a.name for a in function._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    return [tensor for name in written for tensor in tensors_in(arguments.get(name))]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """List the tensors in an argument or result."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def encode(value: Any, tensors: list[Tensor]) -> Json:
    """Encode an argument as JSON; tensors are numbered, in the order of `tensors`, to which they are appended."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1}
    if isinstance(value, list | tuple):
        return [encode(item, tensors) for item in value]
    if isinstance(value, float):
        return {"float": repr(value)}
    if isinstance(value, torch.dtype | torch.memory_format | torch.layout | torch.device):
        return {"torch": str(value).removeprefix("torch.")}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise EverystepError(f"a transcript cannot hold an argument {value!r:.100}")


def decode(value: Json, tensors: Sequence[Tensor]) -> Any:
    """Decode an argument. Law: `decode(encode(x, t), t) == x`, but for a device, which is that of `tensors`."""
    if isinstance(value, list):
        return [decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "float":
        return float(content)
    if content in ("cpu", "meta") or content.startswith("cuda"):
        return None
    found = getattr(torch, content)
    if not isinstance(found, torch.dtype | torch.memory_format | torch.layout):
        raise ValueError(f"{content!r} is neither a dtype nor a layout")
    return found


def compute(name: str, arguments: Mapping[str, Json], reads: Sequence[Tensor]) -> list[Tensor]:
    """Compute one operator; what it reads may be changed. Returns what it writes."""
    with well_shaped(f"operator {name}"), torch.no_grad():
        try:
            if name in FUNCTIONS:
                return FUNCTIONS[name](arguments, reads)
            if short(name) not in ALLOWED:
                raise EverystepError(f"operator {name}: not one that a training uses")
            package, operator, overload = name.split(".")
            function = getattr(getattr(getattr(torch.ops, package), operator), overload)
            on_meta = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for t in reads]
            sizes = [t.numel() for t in _apply(function, arguments, on_meta, "meta")]
            if sum(sizes) > MAX_ELEMENTS:
                raise EverystepError(f"operator {name}: writes more than {MAX_ELEMENTS} elements")
            return _apply(function, arguments, reads, "cpu")
        except RuntimeError as error:  # what torch raises for shapes and dtypes that do not fit
            raise EverystepError(f"operator {name}: {str(error).splitlines()[0]:.300}") from error


def results(changed: Sequence[Tensor], result: Any) -> list[Tensor]:
    """List what an operator wrote: what it changed, or else what it returned."""
    return list(changed) or list(tensors_in(result))


def _apply(function: Any, arguments: Mapping[str, Json], reads: Sequence[Tensor], device: str) -> list[Tensor]:
    given = {name: decode(value, reads) for name, value in arguments.items()}
    if any(argument.name == "device" for argument in function._schema.arguments) and not reads:
        given["device"] = device
    ordered = [given.pop(a.name) for a in function._schema.arguments if not a.kwarg_only and a.name in given]
    changed = changed_by(function, {name: decode(value, reads) for name, value in arguments.items()})
    return results(changed, function(*ordered, **given))


def order_arguments(data: TrainingData, step: int, number: int) -> dict[str, Json]:
    """Return the arguments of `everystep.order`: all that decides which rows a micro-batch reads."""
    return {
        "lines": [shard.lines for shard in data.shards],
        "number": number,
        "parent": data.parent.model_dump() if data.parent else None,
        "section": data.section.model_dump(),
        "step": step,
    }


def _order(arguments: Mapping[str, Json], reads: Sequence[Tensor]) -> list[Tensor]:
    section = DataSection(**arguments["section"])
    shards = tuple(Shard(path="rows", lines=lines, bytes=0, sha256="0" * 64) for lines in arguments["lines"])
    parent = ParentSection(**arguments["parent"]) if arguments["parent"] else None
    about: dict[str, Any] = {"folder": Path(), "shards": shards, "vocabulary": 0, "section": section, "parent": parent}
    data: TrainingData
    if section.layout == "everystep":
        data = EverystepData(**about)
    else:
        data = {"llm360": Llm360Data, "mobilellm": MobilellmData}[section.layout](**about, cache=Path())
    return [torch.from_numpy(np.asarray(data.row_numbers(arguments["step"], arguments["number"])))]


def _rate(arguments: Mapping[str, Json], reads: Sequence[Tensor]) -> list[Tensor]:
    schedule = ScheduleSection(**arguments["schedule"])
    return [scalars(learning_rate(schedule, arguments["step"], arguments["global_batch"]))]


def _block_norm(arguments: Mapping[str, Json], reads: Sequence[Tensor]) -> list[Tensor]:
    return [scalars(*block_norms(reads[0], len(reads[0])))]


def _clip(arguments: Mapping[str, Json], reads: Sequence[Tensor]) -> list[Tensor]:
    return [scalars(*clip_factor(reads[0].tolist(), arguments["scale"], arguments["clip_norm"]))]


def _adamw(arguments: Mapping[str, Json], reads: Sequence[Tensor]) -> list[Tensor]:
    """Update one tensor: (gradient, first, second, values) -> (first, second, values)."""
    gradient, *state = reads
    size = len(gradient)
    flat = FlatParameters(nn.ParameterList([nn.Parameter(state[2])]), "all" if arguments["decayed"] else "matrices")
    optimizer = AdamW(flat, 0, flat.size, OptimizerSection(**arguments["optimizer"]))
    optimizer.first[:size], optimizer.second[:size] = state[0], state[1]
    padded = torch.zeros(flat.size)
    padded[:size] = gradient
    optimizer.update(padded, arguments["factor"], arguments["rate"], arguments["step"])
    return [optimizer.first[:size], optimizer.second[:size], flat.values[:size]]


def scalars(*numbers: float) -> Tensor:
    """Make a tensor of numbers that are not torch's."""
    return torch.tensor(numbers, dtype=torch.float64)


FUNCTIONS: dict[str, Callable[[Mapping[str, Json], Sequence[Tensor]], list[Tensor]]] = {
    "everystep.order": _order,
    "everystep.learning_rate": _rate,
    "everystep.block_norm": _block_norm,
    "everystep.clip_factor": _clip,
    "everystep.adamw": _adamw,
}
"""What a step computes besides torch's operators. `everystep.rows`, which reads rows, is not computed."""

Box = tuple[slice, ...]


def needed(
    name: str,
    arguments: Mapping[str, Json],
    shapes: Sequence[Sequence[int]],
    box: Box,
    values: Callable[[int], Tensor],
) -> list[list[Box] | None]:
    """Return which parts of each tensor decide a `box` of what an operator writes; None: all of it.

    `values` gives one of the tensors, for an operator that is told by one of them where to look in another.
    """
    operator = short(name)
    if operator == "embedding":
        rows = sorted(set(values(1)[box[:-1]].reshape(-1).tolist()))
        return [[(slice(row, row + 1), box[-1]) for row in rows], *[None] * (len(shapes) - 1)]
    if operator in SHAPES:
        return [[] for _ in shapes]
    return [None if part is None else [part] for part in _needed(name, operator, arguments, shapes, box)]


def _needed(
    name: str, operator: str, arguments: Mapping[str, Json], shapes: Sequence[Sequence[int]], box: Box
) -> list[Box | None]:
    everything: list[Box | None] = [None] * len(shapes)
    last = _reduces_only_last(operator, arguments, shapes)
    if name == "everystep.adamw" or (operator in POINTWISE and name.startswith("aten.")):
        return [_broadcast(box, shape) for shape in shapes]
    if operator in BY_ROWS and last:
        rows = box if len(box) == len(shapes[0]) else (*box, slice(0, 1))
        return [_broadcast((*rows[:-1], slice(0, math.inf)), shape) for shape in shapes]
    if operator in PRODUCTS:
        *before, a, b = shapes
        row, column = box[-2:]
        factors = [(*box[:-2], row, slice(0, a[-1])), (*box[:-2], slice(0, b[-2]), column)]
        return [*(_broadcast(box, shape) for shape in before), *factors]
    if operator == "index_add_":  # its other tensors are as long as a micro-batch
        return [box, *everything[1:]]
    return everything


def _reduces_only_last(operator: str, arguments: Mapping[str, Json], shapes: Sequence[Sequence[int]]) -> bool:
    given = arguments.get("dim")
    dims = given if isinstance(given, list) else [given]
    return bool(shapes) and all(dim in (-1, len(shapes[0]) - 1) for dim in dims)


def _broadcast(box: Box, shape: Sequence[int]) -> Box:
    """Restrict a box to a tensor that is broadcast to where the box is."""
    own = box[len(box) - len(shape) :]
    return tuple(
        slice(0, 1) if size == 1 else slice(part.start, min(part.stop, size))
        for part, size in zip(own, shape, strict=True)
    )
