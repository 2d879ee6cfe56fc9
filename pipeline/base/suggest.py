"""Names that are nearly right: what was probably meant, in a bounded time and number."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

NAMED = 5
CANDIDATES = 1000
LONGEST = 500
"""Characters of a name for which alternatives are looked for."""


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """`, did you mean a, b?`, or nothing. Looks at the first `CANDIDATES` names."""
    near = get_close_matches(given, list(islice(names, CANDIDATES)), NAMED) if len(given) <= LONGEST else []
    return f"; did you mean {', '.join(near)}?" if near else ""
