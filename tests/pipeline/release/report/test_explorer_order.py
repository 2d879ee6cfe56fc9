"""The explorer computes the order of the rows itself: a browser gives the rows and samples that the trainer reads."""

import random
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.formats.order import permute, rows_of_samples, unpermute
from pipeline.release.report import explorer
from tests.browser import needs_chromium

ORDER = Path(explorer.__file__).with_name("order.js").read_text("utf-8")
SIZES = (1, 2, 3, 5, 16, 17, 255, 256, 257, 30703, 2**31 + 11, 2**40 + 1, 2**52)


def in_browser(browser: Any, expression: str, argument: Any) -> Any:
    """What an expression about `argument` gives after the script of the order."""
    page = browser.new_page()
    found = page.evaluate(f"argument => {{ {ORDER}; return {expression} }}", argument)
    page.close()
    return found


@needs_chromium
def test_permutation_and_inverse_are_those_of_the_order(browser: Any) -> None:
    draw = random.Random(8)
    cases = [
        (size, draw.choice([0, 1, 20261122, 2**53 - 1]), draw.choice([0, 1, 2, 1000]), draw.randrange(size))
        for size in SIZES
        for _ in range(60)
    ]
    call = "argument.map(([n, seed, epoch, x]) => [permute(x, n, seed, epoch), unpermute(x, n, seed, epoch)])"
    expected = [
        [int(one(np.array([x], np.uint64), size, seed, epoch)[0]) for one in (permute, unpermute)]
        for size, seed, epoch, x in cases
    ]
    assert in_browser(browser, call, cases) == expected


@needs_chromium
def test_every_position_of_a_small_epoch_is_the_row_that_python_gives(browser: Any) -> None:
    for size in (1, 2, 7, 65):
        rows = rows_of_samples(0, 2 * size, size, seed=5).tolist()
        samples = in_browser(
            browser, "argument.map((sample) => rowOfSample(sample, argument.length / 2, 5))", [*range(2 * size)]
        )
        assert samples == rows
        call = "Array.from({length: argument}, (_, row) => samplesOfRow(row, argument, 5, 1, 2 * argument))"
        found = in_browser(browser, call, size)
        assert found == [[sample for sample in range(1, 2 * size) if rows[sample] == row] for row in range(size)]
