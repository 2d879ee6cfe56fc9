"""Blocks: functions of one text that accept it, rewrite it, or drop its document with a reason."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Fault(NamedTuple):
    """Verdict that drops a document. The meaning of `reason` never changes: auditors count by it. `detail` is the
    measured value."""

    reason: str
    detail: str | None = None
    counts: Mapping[str, int] = {}


class Rewritten(NamedTuple):
    """Verdict that keeps a document with another text; `counts` says what was changed."""

    text: str
    counts: Mapping[str, int] = {}


Outcome = Fault | Rewritten | None
Block = Callable[[str], Outcome]
"""Function that returns None if the text passes unchanged. A block keeps no state between texts."""
