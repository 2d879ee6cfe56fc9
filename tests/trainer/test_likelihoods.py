"""An item's log-likelihoods have the same bits in any batch, order and number of processes, and are the plain ones."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.tasks import Prompt
from tests.project import ROOT, environment
from tests.trainer.exports import FAMILIES
from tests.trainer.runs import MODEL
from tests.trainer.tiny import tiny_spec
from trainer.likelihoods import ROWS, batches_of, fits, score_checkpoints, texts_of
from trainer.parallel import World

SCORE = """
import json, sys
from pathlib import Path
from random import Random
from tests.trainer.scoring import items_of
from trainer.launch import launch
from trainer.likelihoods import score_checkpoints
from trainer.recipe import load_recipe

if __name__ == "__main__":
    recipe, spec = load_recipe("mobilellm")
    checkpoints = sorted(path for path in Path("runs/mobilellm").iterdir() if path.is_dir())
    items = items_of(Random(3), spec.vocabulary, spec.context, 30)
    found = launch(score_checkpoints, int(sys.argv[1]), recipe.numerics, "mobilellm", spec, checkpoints, items)
    print(json.dumps([found.log_likelihoods.tolist(), found.greedy.tolist()]))
"""


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("portable", ["mobilellm", "pythia"]),
        pytest.param("portable", FAMILIES, marks=pytest.mark.long),
        pytest.param("native", FAMILIES, marks=pytest.mark.long),
    ],
)
def test_neither_the_batch_nor_the_order_changes_a_bit(name: str, families: list[str]) -> None:
    command = [sys.executable, "-m", "tests.trainer.scoring", name, *families]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [*found] == families
    for family, said in found.items():
        assert len({*said["digests"]}) == 1, family
        assert said["worst"] < 5e-5, family


@pytest.mark.parametrize("numbers", [(1, 2), pytest.param((1, 2, 4), marks=pytest.mark.long)], ids=str)
def test_one_two_and_four_processes_score_the_same(numbers: tuple[int, ...], reference: Path, tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(SCORE)
    env = environment(PYTHONPATH=str(ROOT))
    said = [
        subprocess.run(
            [sys.executable, script, str(processes)], cwd=reference, env=env, capture_output=True, text=True, check=True
        ).stdout
        for processes in numbers
    ]
    assert len({*said}) == 1
    log_likelihoods, _ = json.loads(said[0])
    assert len(log_likelihoods) > 2
    assert (np.array(log_likelihoods) < 0).all()


def test_choices_with_one_context_are_one_row_and_every_row_is_padded() -> None:
    shared = [Prompt([1, 2, 3], [4]), Prompt([1, 2, 3], [5, 6]), Prompt([1, 2], [3, 7])]
    first, second = texts_of([shared])
    assert first.tokens == [1, 2, 3, 5] + [0] * 8
    assert first.positions == [0, 1, 2, 3] + [0] * 8
    assert (first.places[:3], first.targets[:3], first.prompts[:3]) == ([2, 2, 3], [4, 5, 6], [0, 1, 1])
    assert second.tokens[:3] == [1, 2, 3]
    assert all(len(numbers) % ROWS == 0 for text in (first, second) for numbers in (text.tokens, text.places))
    assert [len(batch) for batch in batches_of([first, second] * 5, 3 * ROWS)] == [3, 3, 3, 1]


def test_an_item_fits_if_all_but_its_last_token_does() -> None:
    assert fits(Prompt([1] * 30, [2, 3, 4]), 32)
    assert not fits(Prompt([1] * 30, [2, 3, 4, 5]), 32)


def test_a_checkpoint_that_had_diverged_is_named(reference: Path, tmp_path: Path) -> None:
    state = sorted(path for path in (reference / "runs" / MODEL).iterdir() if path.is_dir())[-1]
    broken = tmp_path / state.name
    broken.mkdir()
    weights = {name: np.array(tensor) for name, tensor in ck.read_verified(state, ck.WEIGHTS).items()}
    weights["final_norm.weight"][0] = np.nan
    ck.write_tensors(broken / ck.WEIGHTS, weights)
    ck.write_record(broken, ck.read_record(state).model_copy(update={"weights_digest": tensors_digest(weights)}))
    with pytest.raises(EverystepError, match=f"{state.name}: a log-likelihood is not finite"):
        score_checkpoints(World(0, 1), MODEL, tiny_spec(), [broken], [[Prompt([1], [2])]])
