from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.batches import batched


@given(st.integers(0, 40), st.integers(1, 9))
def test_every_item_is_in_one_batch_and_only_the_last_is_short(number: int, size: int) -> None:
    items = iter(range(number))
    batches = list(batched(items, size))
    assert [item for batch in batches for item in batch] == list(range(number))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(batches)


def test_nothing_is_read_ahead() -> None:
    items = iter(range(10))
    assert next(batched(items, 4)) == [0, 1, 2, 3]
    assert next(items) == 4
