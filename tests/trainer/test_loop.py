"""The loop: no generator, no recomputing and no writing beside it changes a bit."""

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from pipeline.base.errors import Differs
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.log import Entry
from tests.trainer.runs import MODEL
from trainer.checkpoint import Writer
from trainer.data import Checking, training_data
from trainer.fits import RECOMPUTE
from trainer.loop import Trainer
from trainer.losses import compute_losses
from trainer.parallel import World
from trainer.plain_rows import CHECKED
from trainer.recipe import load_recipe


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer_of(folder: Path) -> Trainer:
    """The trainer of a folder's recipe at step 0, in this process."""
    recipe, spec = load_recipe(MODEL, folder)
    return Trainer(World(0, 1), recipe, spec, training_data(folder, recipe, spec, Checking(folder=folder / CHECKED)))


def trained(folder: Path, steps: int = 3) -> tuple[str, list[Entry]]:
    trainer = trainer_of(folder)
    entries = [trainer.train_step() for _ in range(steps)]
    return trainer.weights_digest(), entries


def evaluated(folder: Path) -> list[float]:
    states = [path for _, path in ck.find_checkpoints(folder / "runs" / MODEL)][:2]
    trainer = trainer_of(folder)
    rows = trainer.data.micro_batch_rows(trainer.rows, 0, 0)
    losses: list[float] = compute_losses(World(0, 1), MODEL, trainer.spec, states, rows, 2).ravel().tolist()
    return losses


def generators() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), kind, np.asarray(keys).tolist(), rest, random.getstate()


def seed_generators(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # the one that nobody may use
    random.seed(seed)


def test_nothing_draws_from_a_global_generator_and_none_of_them_matters(reference: Path) -> None:
    found = []
    for seed in (1, 2):
        seed_generators(seed)
        before = generators()
        found.append((trained(reference), evaluated(reference)))
        assert generators() == before
    assert found[0] == found[1]


def test_layers_computed_again_in_backward_give_the_same_bits(reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = trained(reference)
    monkeypatch.setenv(RECOMPUTE, "1")
    assert trainer_of(reference).model.recompute
    assert trained(reference) == kept


def test_bfloat16_trains_close_to_float32_and_says_so_in_its_numerics(reference: Path) -> None:
    _, wanted = trained(reference)
    recipe, spec = load_recipe(MODEL, reference)
    half = recipe.model_copy(update={"numerics": "native", "precision": "bfloat16"})
    trainer = Trainer(
        World(0, 1), half, spec, training_data(reference, recipe, spec, Checking(folder=reference / CHECKED))
    )
    entries = [trainer.train_step() for _ in wanted]
    assert trainer.numerics()["dtype"] == "bfloat16"
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    for entry, other in zip(entries, wanted, strict=True):
        assert entry.loss == pytest.approx(other.loss, rel=1e-2)
        assert entry.loss != other.loss
        assert entry.gradient_norm == pytest.approx(other.gradient_norm, rel=0.1)


def test_training_goes_on_while_a_checkpoint_is_written_and_changes_nothing_in_it(
    reference: Path, tmp_path: Path
) -> None:
    """The thread that writes is held until two more steps are done."""
    trainer = trainer_of(reference)
    held = threading.Event()
    with Writer(tmp_path, trainer.recipe, trainer.spec, trainer.numerics(), parent=None) as writer:
        writer._thread.submit(held.wait)
        trainer.train_step()
        saved = trainer.weights_digest()
        writer.save(trainer.step, trainer.tokens, None, *trainer.state())
        trainer.train_step()
        trainer.train_step()
        writer.check()
        assert ck.find_checkpoints(tmp_path) == []
        held.set()
    ((step, folder),) = ck.find_checkpoints(tmp_path)
    assert step == 1 and trainer.step == 3
    assert ck.read_record(folder).weights_digest == saved != trainer.weights_digest()
    ck.read_verified(folder, ck.WEIGHTS)
    ck.read_verified(folder, ck.OPTIMIZER)


def test_one_checkpoint_is_written_at_a_time_and_each_names_the_one_before_it(reference: Path, tmp_path: Path) -> None:
    trainer = trainer_of(reference)
    with Writer(tmp_path, trainer.recipe, trainer.spec, trainer.numerics(), parent=None) as writer:
        for _ in range(3):
            writer.save(trainer.step, trainer.tokens, None, *trainer.state())
            trainer.train_step()
    records = [ck.read_record(folder) for _, folder in ck.find_checkpoints(tmp_path)]
    assert [record.step for record in records] == [0, 1, 2]
    assert [record.parent for record in records] == [None, *(record.state_digest for record in records[:2])]


def test_what_writing_raised_is_raised_by_the_next_look_at_it(reference: Path, tmp_path: Path) -> None:
    trainer = trainer_of(reference)
    (tmp_path / "file").write_bytes(b"no folder")
    writer = Writer(tmp_path / "file", trainer.recipe, trainer.spec, trainer.numerics(), parent=None)
    writer.save(trainer.step, trainer.tokens, None, *trainer.state())
    with pytest.raises(NotADirectoryError):
        writer.wait()
    with pytest.raises(NotADirectoryError):
        writer.check()
    with pytest.raises(NotADirectoryError):
        writer.save(trainer.step, trainer.tokens, None, *trainer.state())


def test_a_state_is_loaded_as_it_was_saved_and_no_other_is(reference: Path, tmp_path: Path) -> None:
    trainer = trainer_of(reference)
    trainer.train_step()
    with Writer(tmp_path, trainer.recipe, trainer.spec, trainer.numerics(), parent=None) as writer:
        writer.save(trainer.step, trainer.tokens, None, *trainer.state())
    ((_, folder),) = ck.find_checkpoints(tmp_path)
    again = trainer_of(reference)
    again.load(folder)
    assert again.digests() == trainer.digests()
    assert again.train_step() == trainer.train_step()
    record, tensors = ck.read_record(folder), cast(dict[str, Any], ck.read_verified(folder, ck.WEIGHTS))
    name = max(tensors, key=lambda each: tensors[each].size)
    doubles: dict[str, Any] = {each: tensor.astype(np.float64) for each, tensor in tensors.items()}
    fewer: dict[str, Any] = {each: tensor for each, tensor in tensors.items() if each != name}
    for changed in (doubles, fewer):
        ck.write_tensors(folder / ck.WEIGHTS, changed)
        agreeing = record.model_copy(update={"weights_digest": tensors_digest(changed)})
        ck.write_record(folder, agreeing)
        with pytest.raises(Differs, match=rf"{ck.WEIGHTS}: these are not the tensors of {MODEL}"):
            trainer_of(reference).load(folder)
    tensors[name].flat[-1] += 1
    ck.write_tensors(folder / ck.WEIGHTS, tensors)
    ck.write_record(folder, record)
    with pytest.raises(Differs, match=rf"{ck.WEIGHTS}: the record promises {record.weights_digest}"):
        trainer_of(reference).load(folder)
