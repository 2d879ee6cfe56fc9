"""A machine with a fault: seeded faults in one training step, for disputes. Runs in the portable class.

python -m tests.trainer.dispute.faults PROJECT whole SEED...

prints, for each seed, the fault and what the dispute found. With `narrowed` in place of `whole`, evidence goes on to
one leaf of a result, as if all tensors were large.
"""

import json
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import numerics

MODEL = "everystep"
TORCHS = ("aten.", "everystep.portable", "everystep.log")
"""Operators that torch is asked for."""
STEP = 3


def main() -> None:
    numerics.enter("portable")
    project, whole, *seeds = sys.argv[1:]
    if whole == "narrowed":
        from trainer.dispute import evidence

        evidence.WHOLE = 0
    bench = Bench(Path(project))
    if whole == "large":
        for number in bench.largest():
            print(json.dumps(bench.dispute(number)), flush=True)
    for seed in map(int, seeds):
        print(json.dumps(bench.dispute(seed)), flush=True)


@dataclass
class Fault:
    """What was done, and where the dispute must end: set when it happens."""

    what: str
    operator: str = ""
    number: int = -1
    memory: bool = False


class Bench:
    """An honest trainer after some steps, whose next step is trained again and again."""

    flips = False

    def __init__(self, project: Path) -> None:
        from tests.trainer.corpora import load
        from trainer.loop import Trainer
        from trainer.parallel import World
        from trainer.recipe import load_recipe

        recipe, spec = load_recipe(MODEL, project)
        self.trainer = Trainer(World(0, 1), recipe, spec, load(project, MODEL))
        for _ in range(STEP - 1):
            self.trainer.train_step()
        vectors = (self.trainer.flat.values, self.trainer.optimizer.first, self.trainer.optimizer.second)
        self.state = [(vector, vector.clone()) for vector in vectors]
        self.honest = self.record(None).transcript

    def record(self, opened: int | None, fault: Any = None) -> Any:
        """The step from the same state; `fault` is a context in which it is trained."""
        from trainer.dispute.record import RecordedTrainer
        from trainer.dispute.run import head_of, recorded_step

        for vector, before in self.state:
            vector.copy_(before)
        self.trainer.step = STEP - 1
        head = head_of(self.trainer, {})
        recording = RecordedTrainer(self.trainer, opened)
        if fault is None:
            return recorded_step(recording, head)
        with fault(recording):
            return recorded_step(recording, head)

    def dispute(self, seed: int) -> dict[str, Any]:
        """One fault: on which side is drawn too."""
        from pipeline.base.errors import EverystepError
        from trainer.dispute import evidence
        from trainer.dispute.compare import first_difference

        fault, faulty, honest_first = self.faulty(seed, None)
        sides = [self.honest, faulty] if honest_first else [faulty, self.honest]
        found = first_difference(*sides)
        assert found is not None, fault
        operation = found.operation if honest_first else found.other
        told: dict[str, Any] = {
            "seed": seed,
            "fault": fault.what,
            "expected": [fault.operator, fault.number],
            "named": [
                operation.operator if operation else None,
                found.number if found.written_by is None else found.written_by,
            ],
            "kind": found.kind,
            "tensor": found.tensor,
            "detail": found.detail,
            "honest": "A" if honest_first else "B",
        }
        if found.kind in ("result", "program"):
            if evidence.WHOLE == 0 or self.flips:
                opened = self.faulty(seed, found.number)[1]
                sides = [self.honest, opened] if honest_first else [opened, self.honest]
            try:
                content = evidence.make(self.record(found.number), found, *sides)
            except EverystepError as error:
                return told | {"refused": str(error)}
            told |= {"bytes": len(content), "evidence": content.hex()}
            if told["named"][0] != evidence.ROWS:
                told["right"] = evidence.check(content, "evidence").right
        return told

    def faulty(self, seed: int, opened: int | None) -> tuple[Fault, Any, bool]:
        """The fault of a seed, the transcript of the machine that has it, and whether the honest side is the first."""
        draw, self.number = random.Random(seed), seed
        while True:
            fault, context = self.draw(draw)
            found = self.record(opened, context).transcript
            if fault.number >= 0:  # another library may give the same
                return fault, found, draw.random() < 0.5

    def largest(self) -> list[int]:
        """Operations that read more than evidence can have as a whole, one of each operator and shapes; from now on a
        seed is the number of an operation in whose result a bit is flipped."""
        from pipeline.formats.evidence import is_carried
        from trainer.dispute.evidence import WHOLE

        found: dict[str, tuple[int, int]] = {}  # by operator and shapes
        for number, operation in enumerate(self.honest.operations):
            size = sum(claim.num_bytes for claim in operation.reads if is_carried(claim))
            key = f"{operation.operator} {[claim.shape for claim in operation.reads]}"
            if size > max(WHOLE, found.get(key, (0, 0))[0]) and operation.operator.startswith(TORCHS):
                found[key] = size, number
        self.flips = True
        return [number for _, number in found.values()]

    def draw(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """A fault of a kind that the seed chooses."""
        if self.flips:
            return self.flip(draw)
        kinds = [*[self.flip] * 6, *[self.library] * 3, *[self.moment] * 2, *[self.memory] * 2]
        kinds += [self.build, self.row, self.ids, self.rate, self.clip]
        return draw.choice(kinds)(draw)

    def flip(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """A bit of what one operator writes, most often a gradient."""
        backward = draw.random() < 0.7
        numbers = [
            number
            for number, operation in enumerate(self.honest.operations)
            if operation.operator.startswith(TORCHS)
            and (operation.phase in ("backward", "sum")) == backward
            and operation.writes[0].dtype == "float32"
            and operation.writes[0].num_bytes
        ]
        number, bit, share = draw.choice(numbers), draw.randrange(32), draw.random()
        number = self.number if self.flips else number
        fault = Fault(f"bit {bit} flipped in a result")

        def change(recorder: Any, function: Any, arguments: Any, results: list[Any]) -> None:
            first = len(recorder.operations)
            is_flat = results[0].dim() == 1 and len(results[0]) == len(self.state[0][0])
            parts = recorder.parts if is_flat else [(0, results[0].numel())]
            if first <= number < first + len(parts) and fault.number < 0:
                start, stop = parts[number - first]
                flip_bit(results[0], start + int(share * (stop - start)), bit)
                fault.number, fault.operator = number, str(function)

        return fault, beneath(change)

    def library(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """Every use of one operator is computed by another library, from some point on."""
        import numpy as np
        import torch

        def array(tensor: Any) -> Any:
            return tensor.detach().numpy()

        others: dict[str, Callable[..., Any]] = {
            "aten._softmax.default": lambda x, dim, half: np.exp(array(x)) / np.exp(array(x)).sum(-1, keepdims=True),
            "aten.rsqrt.default": lambda x: 1 / np.sqrt(array(x)),
            "aten.silu.default": lambda x: array(x) / (1 + np.exp(-array(x))),
            "aten.mean.dim": lambda x, dim, keep=False: array(x).sum(-1, keepdims=keep) / np.float32(x.shape[-1]),
            "aten.sum.dim_IntList": lambda x, dim, keep=False: np.add.accumulate(array(x), axis=0)[-1],
            "everystep.logarithm.default": lambda x: np.log(array(x)) * np.float32(1.0000001),
            "everystep.portable_product.default": lambda a, b: array(torch.matmul(a.double(), b.double())),
        }
        name, start = draw.choice(sorted(others)), draw.randrange(len(self.honest.operations) // 2)
        fault = Fault(f"{name} by another library")

        def change(recorder: Any, function: Any, arguments: Any, results: list[Any]) -> None:
            if str(function) != name or len(recorder.operations) < start:
                return
            other = torch.from_numpy(np.asarray(others[name](*arguments), np.float32)).reshape(results[0].shape)
            if fault.number < 0 and not torch.equal(other, results[0]):
                fault.number, fault.operator = len(recorder.operations), name
            results[0].copy_(other)

        return fault, beneath(change)

    def build(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """The products of the class `native`."""
        from trainer.matmul import use_portable

        name = "everystep.portable_product.default"
        fault = Fault("a build of another class", name)
        fault.number = next(n for n, operation in enumerate(self.honest.operations) if operation.operator == name)

        @contextmanager
        def context(recording: Any) -> Iterator[None]:
            use_portable(False)
            try:
                yield
            finally:
                use_portable(True)

        return fault, context

    def row(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """Another row is read than the order says."""
        shift = draw.randrange(1, 60)
        return self._data(draw, "everystep.order", "row_numbers", lambda numbers: (numbers + shift) % 60)

    def ids(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """One id of a row is another."""
        row, place, more = draw.randrange(2), draw.randrange(33), draw.randrange(1, 320)

        def change(rows: Any) -> Any:
            rows = rows.copy()
            rows[row, place] = (rows[row, place] + more) % 320
            return rows

        return self._data(draw, "everystep.rows", "micro_batch_rows", change)

    def rate(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """Another rate."""
        factor = 1 + draw.random()
        return self._function("everystep.learning_rate", "learning_rate", lambda rate: rate * factor)

    def clip(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """A norm in the last bit, or the norm of a block."""
        if draw.random() < 0.5:
            return self._function(
                "everystep.clip_factor", "clip_factor", lambda pair: (pair[0], pair[1] * (1 + 2**-52))
            )
        return self._function(
            "everystep.block_norm", "block_norms", lambda norms: [norms[0] * (1 + 2**-52), *norms[1:]]
        )

    def moment(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """A bit of a moment or a weight after the update of one tensor."""
        numbers = [n for n, operation in enumerate(self.honest.operations) if operation.operator == "everystep.adamw"]
        which, place, bit = draw.randrange(3), draw.randrange(len(numbers)), draw.randrange(31)
        fault = Fault("a bit flipped by the update", "everystep.adamw", numbers[place])

        @contextmanager
        def context(recording: Any) -> Iterator[None]:
            optimizer = recording.optimizer
            update = optimizer.update

            def faulty(*arguments: Any) -> None:
                update(*arguments)
                vector = (optimizer.first, optimizer.second, optimizer.values)[which]
                flip_bit(vector, recording.recorder.parts[place][0] + 3, bit)

            optimizer.update = faulty
            try:
                yield
            finally:
                del optimizer.update

        return fault, context

    def memory(self, draw: random.Random) -> tuple[Fault, Callable[[Any], Any]]:
        """A bit of a gradient flips in memory, between two operators."""
        numbers = [
            n for n, one in enumerate(self.honest.operations) if one.phase == "backward" and one.micro_batch == 0
        ]
        after, bit = draw.choice(numbers[:-1]), draw.randrange(31)
        name = draw.choice(sorted(dict(self.trainer.model.named_parameters())))
        fault = Fault(f"bit {bit} of the gradient of {name} flips in memory", memory=True)

        def change(recorder: Any, function: Any, arguments: Any, results: list[Any]) -> None:
            if len(recorder.operations) == after and fault.number < 0:
                gradient = dict(self.trainer.model.named_parameters())[name].grad
                assert gradient is not None
                if any(
                    result.untyped_storage().data_ptr() == gradient.untyped_storage().data_ptr() for result in results
                ):
                    return  # it is being written
                flip_bit(gradient.view(-1), 1, bit)
                before = [n for n, one in enumerate(recorder.operations) if _writes(one, f"gradient of {name}")]
                fault.number, fault.operator = before[-1], recorder.operations[before[-1]].operator

        return fault, beneath(change)

    def _data(
        self, draw: random.Random, operator: str, method: str, change: Callable[[Any], Any]
    ) -> tuple[Fault, Callable[[Any], Any]]:
        batch = draw.randrange(self.trainer.recipe.data.num_micro_batches)
        fault = Fault(f"{method} of micro-batch {batch} are others", operator)
        fault.number = next(
            number
            for number, operation in enumerate(self.honest.operations)
            if operation.operator == operator and operation.micro_batch == batch
        )

        @contextmanager
        def context(recording: Any) -> Iterator[None]:
            kind = type(recording.data)
            original = getattr(kind, method)

            def faulty(data: Any, *arguments: Any) -> Any:
                found = original(data, *arguments)
                return change(found) if arguments[-1] == batch else found

            setattr(kind, method, faulty)
            try:
                yield
            finally:
                setattr(kind, method, original)

        return fault, context

    def _function(self, operator: str, name: str, change: Callable[[Any], Any]) -> tuple[Fault, Callable[[Any], Any]]:
        import trainer.loop

        fault = Fault(f"{name} gives something else", operator)
        fault.number = next(n for n, one in enumerate(self.honest.operations) if one.operator == operator)

        @contextmanager
        def context(recording: Any) -> Iterator[None]:
            original = getattr(trainer.loop, name)
            setattr(trainer.loop, name, lambda *arguments: change(original(*arguments)))
            try:
                yield
            finally:
                setattr(trainer.loop, name, original)

        return fault, context


def flip_bit(tensor: Any, place: int, bit: int) -> None:
    """Flip a bit of element number `place`, as a faulty memory would: no operator of torch is involved."""
    array = tensor.detach().numpy()
    index = tuple(int(i) for i in __import__("numpy").unravel_index(place, array.shape)) if array.ndim else ()
    array.view("int32")[index] ^= (1 << bit) if bit < 31 else -(1 << 31)


def beneath(change: Callable[[Any, Any, Any, list[Any]], None]) -> Callable[[Any], Any]:
    """A machine that computes what it is asked for, and then changes it."""
    from trainer.dispute.operators import changed_by, results

    @contextmanager
    def context(recording: Any) -> Iterator[None]:
        recorder = recording.recorder

        def compute(function: Any, args: Any, kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            named = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False))
            if written := results(changed_by(function, named), result):
                change(recorder, function, args, written)
            return result

        recorder.compute = compute
        yield

    return context


def _writes(operation: Any, tensor: str) -> bool:
    return any(claim.tensor == tensor for claim in operation.writes)


if __name__ == "__main__":
    main()
