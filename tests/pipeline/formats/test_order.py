import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.formats.order import permute, rows_of_step, steps_of_rows, unpermute
from tests.pipeline.formats import second_reader as second

SIZES = st.integers(1, 5000)
SEEDS = st.integers(0, 2**53 - 1)
EPOCHS = st.integers(0, 1000)


def steps_of_row(row: int, global_batch: int, num_rows: int, seed: int, num_steps: int) -> list[int]:
    return steps_of_rows(np.array([row], dtype=np.uint64), global_batch, num_rows, seed, num_steps)


def numbers(num_rows: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.arange(num_rows, dtype=np.uint64)


@given(SIZES, SEEDS, EPOCHS)
def test_each_epoch_reads_each_row_once(num_rows: int, seed: int, epoch: int) -> None:
    rows = permute(numbers(num_rows), num_rows, seed, epoch)
    assert np.array_equal(np.sort(rows), numbers(num_rows))
    assert np.array_equal(unpermute(rows, num_rows, seed, epoch), numbers(num_rows))
    assert np.array_equal(
        permute(unpermute(numbers(num_rows), num_rows, seed, epoch), num_rows, seed, epoch), numbers(num_rows)
    )


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 4095, 4096, 4097])
def test_sizes_around_powers_of_two_are_permuted(num_rows: int) -> None:
    assert sorted(permute(numbers(num_rows), num_rows, 7, 0).tolist()) == list(range(num_rows))


@given(st.integers(1, 2**60), SEEDS, EPOCHS, st.data())
def test_any_size_is_permuted_as_the_document_says(num_rows: int, seed: int, epoch: int, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, num_rows - 1))
    row = int(permute(np.array([position], dtype=np.uint64), num_rows, seed, epoch)[0])
    assert row == second.permute(position, num_rows, seed, epoch)
    assert int(unpermute(np.array([row], dtype=np.uint64), num_rows, seed, epoch)[0]) == position


@given(st.integers(1, 60), st.integers(1, 25), SEEDS, st.integers(0, 12))
def test_steps_of_a_row_are_the_steps_whose_rows_hold_it(num_rows: int, batch: int, seed: int, num_steps: int) -> None:
    read = [set(rows_of_step(step, batch, num_rows, seed).tolist()) for step in range(num_steps)]
    for row in range(num_rows):
        expected = [step for step in range(num_steps) if row in read[step]]
        assert steps_of_row(row, batch, num_rows, seed, num_steps) == expected
    every_row = np.arange(num_rows, dtype=np.uint64)
    of_each = {step for row in range(num_rows) for step in steps_of_row(row, batch, num_rows, seed, num_steps)}
    assert steps_of_rows(every_row, batch, num_rows, seed, num_steps) == sorted(of_each)


@given(SIZES, st.integers(1, 64), SEEDS, st.integers(0, 10**6))
def test_a_step_reads_what_the_document_says(num_rows: int, batch: int, seed: int, step: int) -> None:
    expected = second.rows_of_step(step, batch, num_rows, seed)
    assert rows_of_step(step, batch, num_rows, seed).tolist() == expected


@given(SIZES, SEEDS, st.integers(1, 5))
def test_batches_of_another_size_read_the_same_sequence(num_rows: int, seed: int, batch: int) -> None:
    single = [int(rows_of_step(i, 1, num_rows, seed)[0]) for i in range(3 * batch)]
    batches = [rows_of_step(i, batch, num_rows, seed).tolist() for i in range(3)]
    assert [row for rows in batches for row in rows] == single


def test_input_is_left_as_it_was() -> None:
    positions = numbers(1000)
    permute(positions, 1000, 1, 0)
    unpermute(positions, 1000, 1, 0)
    assert np.array_equal(positions, numbers(1000))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(permute(numbers(100), 100, seed, epoch).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_no_structure_is_left_in_neighbours() -> None:
    """Differences of neighbours are spread as chance would: an affine shuffle has one."""
    rows = permute(numbers(4096), 4096, 3, 0).astype(np.int64)
    assert len(np.unique(np.diff(rows))) > 2000
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.1
    assert abs(np.corrcoef(np.arange(4096), rows)[0, 1]) < 0.1


@pytest.mark.parametrize("outside", [10, 11, 15, 2**63])
def test_a_row_that_does_not_exist_is_refused(outside: int) -> None:
    for function in (permute, unpermute):
        with pytest.raises(EverystepError, match=rf"no row {outside}: rows are 0\.\.9"):
            function(np.array([0, outside], dtype=np.uint64), 10, 0, 0)
    with pytest.raises(EverystepError, match="no row"):
        steps_of_row(outside, 4, 10, 0, 100)


def test_where_there_are_no_rows_none_is_read() -> None:
    with pytest.raises(EverystepError):
        rows_of_step(0, 4, 0, 0)
