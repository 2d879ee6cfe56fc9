"""Retries with back-off, for fetches over networks that fail now and then."""

import time
from collections.abc import Callable
from typing import TypeVar

ATTEMPTS = 5
"""Failures in a row, without progress between them, after which a fetch gives up."""
WAITS = 200
"""Times that the other side may ask to wait, as a hub does of those who ask too often; these are no failures."""
Answer = TypeVar("Answer")


def with_retries(
    attempt: Callable[[], Answer],
    is_transient: Callable[[Exception], bool],
    first_wait_seconds: float,
    reached: Callable[[], int] = lambda: 0,
    progress: int = 1,
    wait: Callable[[Exception], float | None] = lambda error: None,
) -> Answer:
    """Call `attempt` again after a transient error; each wait is twice the one before, or the seconds that `wait` finds
    the other side to ask for.

    `reached` says how far the attempts have come; an attempt that comes `progress` further starts the count again. The
    last error is raised.
    """
    failures = waits = 0
    while True:
        before = reached()
        try:
            return attempt()
        except Exception as error:
            if not is_transient(error):
                raise
            asked = wait(error)
            if asked is not None and waits < WAITS:
                waits += 1
                time.sleep(asked)
                continue
            failures = 1 if reached() >= before + progress else failures + 1
            if failures == ATTEMPTS:
                raise
            time.sleep(first_wait_seconds * 2 ** (failures - 1))
