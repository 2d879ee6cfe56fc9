"""Forgetting is exact: from the last clean state on, the training gives the bits of one that never saw the spans."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from pipeline.formats.digests import tensors_digest
from pipeline.formats.forgotten import Forgotten, as_spans, write_forgotten
from pipeline.formats.manifests import Tokens, path_of, read_manifest
from pipeline.formats.order import steps_of_rows
from tests.shards import write_rows
from tests.stubs import write_stub
from tests.trainer.runs import MODEL, STEPS, make_run
from trainer.data import Checking, EverystepData, training_data
from trainer.loop import Trainer
from trainer.operators import LOSS_ROWS, next_token_loss
from trainer.parallel import World
from trainer.plain_rows import CHECKED
from trainer.recipe import load_recipe

WIDTH, NUM_ROWS, FILLER = 33, 100, 0
State = tuple[float, str, str]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def operands(num_targets: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    x, weight = torch.randn(num_targets, 8, generator=draw), torch.randn(50, 8, generator=draw)
    return x.requires_grad_(), weight.requires_grad_(), torch.randint(50, (num_targets,), generator=draw)


def loss_and_gradients(forgotten: torch.Tensor | None, num_targets: int, z_loss: float) -> list[torch.Tensor]:
    x, weight, targets = operands(num_targets)
    loss = next_token_loss(x, weight, targets, z_loss, forgotten)
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and weight.grad is not None
    return [loss.detach(), x.grad, weight.grad]


@pytest.mark.parametrize("z_loss", [0.0, 1e-4])
def test_a_mask_over_nothing_changes_no_bit(z_loss: float) -> None:
    num_targets = LOSS_ROWS + 3
    none = torch.zeros(num_targets, dtype=torch.bool)
    pairs = zip(
        loss_and_gradients(None, num_targets, z_loss), loss_and_gradients(none, num_targets, z_loss), strict=True
    )
    assert all(torch.equal(*pair) for pair in pairs)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_a_forgotten_target_counts_as_one_of_loss_zero(z_loss: float) -> None:
    num_targets = LOSS_ROWS + 3
    forgotten = torch.arange(num_targets) % 3 == 0
    x, weight, targets = operands(num_targets)
    logits = x @ weight.t()
    losses = functional.cross_entropy(logits, targets, reduction="none") + z_loss * logits.logsumexp(-1).square()
    expected = (losses * ~forgotten).sum() / num_targets
    expected.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and weight.grad is not None
    found = loss_and_gradients(forgotten, num_targets, z_loss)
    for ours, theirs in zip(found, [expected.detach(), x.grad, weight.grad], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    assert (found[1][forgotten] == 0).all()


def test_what_a_forgotten_target_is_changes_no_bit() -> None:
    x, weight, targets = operands(9)
    forgotten = torch.arange(9) < 4
    other = torch.where(forgotten, (targets + 1) % 50, targets)
    assert torch.equal(
        next_token_loss(x, weight, targets, 0.0, forgotten), next_token_loss(x, weight, other, 0.0, forgotten)
    )


def data_of(folder: Path) -> EverystepData:
    data = training_data(folder, *load_recipe(MODEL, folder), Checking(folder=folder / CHECKED))
    assert isinstance(data, EverystepData)
    return data


def trained(folder: Path, data: EverystepData, clean: int = 0, before: EverystepData | None = None) -> list[State]:
    """Loss, weights and moments after each step; the steps until `clean` read the data `before`."""
    trainer = Trainer(World(0, 1), *load_recipe(MODEL, folder), before or data)
    states: list[State] = []
    while trainer.step < STEPS:
        trainer.data = data if trainer.step >= clean else trainer.data
        entry = trainer.train_step()
        weights, moments = trainer.state()
        states.append((entry.loss, tensors_digest(weights), tensors_digest(moments)))
    return states


def without(folder: Path, forgotten: Forgotten) -> EverystepData:
    """The rows of `reference` in a new folder, with filler in the spans, as a successor has them."""
    make_run(folder)
    rows = np.stack(list(data_of(folder).open()))
    marks = forgotten.marks(range(NUM_ROWS), WIDTH)
    rows[marks] = FILLER
    tokens = folder / "data" / "tokens"
    outputs = {"train": write_rows(tokens, rows, "train"), "forgotten": [write_forgotten(tokens, forgotten)]}
    seed = {"seed": load_recipe(MODEL, folder)[0].data.seed}
    write_stub(Tokens, parameters=seed, outputs=outputs, width=WIDTH, vocabulary=320, end_token=FILLER, root=folder)
    return data_of(folder)


@pytest.mark.parametrize(
    "pieces",
    [
        [(7, 20, 33), (8, 0, 7)],  # a document over two rows
        [(41, 0, 33)],  # one that fills a row
        [(90, 4, 5), (93, 12, 30)],  # two documents, of which one is a single id
    ],
)
def test_a_training_from_the_last_clean_state_is_the_training_that_never_saw_the_document(
    reference: Path, tmp_path: Path, pieces: list[tuple[int, int, int]]
) -> None:
    forgotten = Forgotten(as_spans(pieces), FILLER)
    whole, filled = data_of(reference), without(tmp_path / "filled", forgotten)
    seed, batch = whole.section.seed, whole.section.global_batch
    clean = steps_of_rows(forgotten.rows.astype(np.uint64), batch, NUM_ROWS, seed, STEPS)[0]
    from_0 = trained(tmp_path / "filled", filled)
    assert trained(reference, replace(whole, forgotten=forgotten)) == from_0  # spans that are still in the rows
    assert trained(tmp_path / "filled", filled, clean, whole) == from_0
    pairs = zip(trained(reference, whole), from_0, strict=True)
    assert [ours == theirs for ours, theirs in pairs] == [True] * clean + [False] * (STEPS - clean)


def test_a_whole_forgotten_batch_moves_weights_only_by_what_came_before(tmp_path: Path) -> None:
    """No gradient, no loss, and nothing that is not a number."""
    folder = make_run(tmp_path / "run")
    data = data_of(folder)
    batch = np.concatenate([data.row_numbers(0, number) for number in range(12)])
    everything = Forgotten(as_spans((row, 0, WIDTH) for row in sorted(set(batch.tolist()))), FILLER)
    recipe, spec = load_recipe(MODEL, folder)
    trainer = Trainer(World(0, 1), recipe, spec, replace(data, forgotten=everything))
    entry = trainer.train_step()
    assert (entry.loss, entry.gradient_norm) == (0, 0)
    assert all(np.isfinite(tensor).all() for tensor in trainer.state()[0].values())


def test_spans_are_part_of_what_a_run_is(reference: Path, tmp_path: Path) -> None:
    """Other spans over the same rows are another training, which must not go on from this one's checkpoints."""
    ids = [(3, 0, 4)], [(3, 0, 5)]
    found = [replace(data_of(reference), forgotten=Forgotten(as_spans(spans), FILLER)).identity() for spans in ids]
    assert found[0] != found[1] != data_of(reference).identity()
    manifest = read_manifest(Tokens, reference / path_of(Tokens))
    assert "forgotten" not in manifest.outputs and data_of(reference).forgotten is None
