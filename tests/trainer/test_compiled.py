"""`compiled: true`: the same bits from run to run and for any number of processes; other bits than eager, by rounding.

Compiling takes minutes on a slow machine and needs a C++ compiler, so this runs with `make test-long`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.exports import KIN, build, read_spec
from tests.trainer.runs import MODEL, make_run, result, train

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "runs" / MODEL / "log.jsonl").read_bytes().splitlines()]


def test_compiled_runs_agree_with_each_other_and_differ_from_eager_in_rounding_alone(tmp_path: Path) -> None:
    folders = []
    for name, processes in (("one", 1), ("again", 1), ("two", 2)):
        folders.append(make_run(tmp_path / name, numerics="native", compiled=True))
        train(folders[-1], processes)
    one, again, two = map(result, folders)
    assert one == again
    assert one == two
    eager = make_run(tmp_path / "eager", numerics="native", compiled=False)
    train(eager)
    weights = next(path for path in one if path.endswith("model.safetensors") and "step000012" in path)
    assert result(eager)[weights] != one[weights]
    assert losses(eager) == pytest.approx(losses(folders[0]), rel=1e-5)


@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
@pytest.mark.parametrize("family", KIN)
def test_compiled_layers_of_each_kind_have_eager_gradients_up_to_rounding(family: str) -> None:
    rows_BT = torch.from_numpy(np.random.default_rng(2).integers(0, 2048, (2, 65)))
    found = []
    for compiled in (False, True):
        model = build(read_spec(family))
        if compiled:
            model.compile_layers()
        model.loss(rows_BT).backward()
        found.append({name: tensor.grad for name, tensor in model.named_parameters()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-4, atol=1e-6)
