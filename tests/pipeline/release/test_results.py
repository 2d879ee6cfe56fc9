"""Sums of a learning record: exact, and with a standard error over rows."""

import math

import numpy as np
import pytest

from pipeline.release.results import LN_2, measured


def test_the_standard_error_is_that_of_a_ratio_of_sums_over_rows() -> None:
    """With as many bytes in each row, it is that of a mean; in general, near what drawing rows again gives."""
    draw = np.random.default_rng(0)
    nats = draw.normal(700, 90, 200)
    even = measured(math.fsum(nats.tolist()), 51200, nats.tolist(), [800] * 200)
    assert even.standard_error == pytest.approx((nats / LN_2 / 800).std(ddof=1) / math.sqrt(200), rel=1e-12)

    sizes = draw.integers(300, 1300, 200)
    nats = sizes * draw.normal(0.9, 0.1, 200)
    found = measured(math.fsum(nats.tolist()), 51200, nats.tolist(), sizes.tolist())
    drawn = draw.integers(0, 200, (4000, 200))
    again = nats[drawn].sum(axis=1) / sizes[drawn].sum(axis=1) / LN_2
    assert found.standard_error == pytest.approx(again.std(), rel=0.05)
    assert found.bits_per_byte == pytest.approx(again.mean(), rel=0.01)


def test_one_row_has_no_standard_error() -> None:
    assert measured(10.0, 5, [10.0], [20]) == (2.0, 10.0 / LN_2 / 20, None)
