"""`compiled: true`: the same bits from run to run and for any number of processes; other bits than eager, by rounding.

Compiling takes minutes on a slow machine and needs a C++ compiler, so this runs with `make test-long`.
"""

import json
from pathlib import Path

import pytest

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
