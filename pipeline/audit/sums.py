"""`SHA256SUMS` of a release, read without trust, and compared with the root manifest."""

import re
from collections.abc import Iterator, Mapping, Set

from pipeline.base.errors import EverystepError
from pipeline.formats.release import ROOT, SUMS


def parse_sums(content: bytes) -> dict[str, str]:
    """The SHA-256 of each path. A line of another form, or a path that is listed twice, is refused."""
    sums: dict[str, str] = {}
    for line in content.decode("utf-8", "replace").removesuffix("\n").split("\n"):
        parts = re.fullmatch(r"([0-9a-f]{64})  (.+)", line)
        if not parts or parts[2] in sums:
            raise EverystepError(
                f"{SUMS}: not a line of digest and path, or a path that it lists twice: {line[:100]!r}"
            )
        sums[parts[2]] = parts[1]
    return sums


def other_names(sums: Mapping[str, str], promised: Set[str]) -> Iterator[str]:
    """A fault for each file that only one of the two lists has; `promised` are the root manifest and its files."""
    yield from (f"{path}: {SUMS} lists it, {ROOT} does not" for path in sorted(sums.keys() - promised))
    yield from (f"{path}: {SUMS} does not list it" for path in sorted(promised - sums.keys()))
