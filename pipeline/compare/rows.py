"""Rows of token ids that differ, by their numbers, and the document at the first difference.

Reads only the shards whose digests differ. A document that was added shifts every row after it, so that many rows
differ is no news; the first one is where to look.
"""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import numpy as np

from pipeline.base.errors import EverystepError
from pipeline.base.paths import SPLITS, TOKENS
from pipeline.compare.difference import Difference, Findings
from pipeline.compare.documents import STAGE, index_path
from pipeline.formats.canonical import Json
from pipeline.formats.index_groups import documents_of_rows
from pipeline.formats.lines import LineFile
from pipeline.formats.rows import decode_row
from pipeline.release.release import Release


def compare_rows(a: Release, b: Release, trees: tuple[Json, Json], findings: Findings) -> None:
    """Find the rows that differ; `trees` are the manifests of the rows."""
    for split in SPLITS:
        shards = [tree["outputs"].get(split, []) for tree in trees]
        if _digests(shards[0]) == _digests(shards[1]):
            continue
        numbers = [sum(shard["lines"] for shard in side) for side in shards]
        if trees[0]["width"] != trees[1]["width"]:
            value = [f"{number:,} rows of {tree['width']} ids" for number, tree in zip(numbers, trees, strict=True)]
            first = Difference(kind="row", where=f"{split} rows", a=value[0], b=value[1], stage=STAGE)
            findings.add_counted("row", max(numbers), [first])
            continue
        count, first_row = _differing(a, b, shards[0], shards[1], min(numbers))
        if count:
            findings.add_counted("row", count, [_described(a, b, trees, split, *first_row)])
        if numbers[0] != numbers[1]:
            where, more = f"{split} rows from {min(numbers)} on", abs(numbers[0] - numbers[1])
            longer = Difference(kind="row", where=where, only_in="A" if numbers[0] > numbers[1] else "B", stage=STAGE)
            findings.add_counted("row", more, [longer])


def _digests(shards: list[dict[str, Any]]) -> list[str]:
    return [shard["sha256"] for shard in shards]


def _differing(
    a: Release, b: Release, left: list[dict[str, Any]], right: list[dict[str, Any]], common: int
) -> tuple[int, tuple[int, bytes, bytes]]:
    """How many of the first `common` rows differ, and the first of them: its number and both lines."""
    count, first = 0, (0, b"", b"")
    number = 0
    for one, other in zip_longest(left, right):
        if one and other and (one["sha256"], one["lines"]) == (other["sha256"], other["lines"]):
            number += one["lines"]
            continue
        if one and other and one["lines"] == other["lines"]:
            pairs: Iterator[tuple[bytes, bytes]] = zip(_lines(a, one), _lines(b, other), strict=True)
        else:  # the last shard of one side, or shards of other sizes: all that is left, whatever the shards
            rest = left[left.index(one) :] if one else [], right[right.index(other) :] if other else []
            pairs = zip(_all(a, rest[0]), _all(b, rest[1]), strict=False)
        for old, new in pairs:
            if number < common and old != new:
                first = first if count else (number, old, new)
                count += 1
            number += 1
        if not (one and other and one["lines"] == other["lines"]):
            break
    return count, first


def _lines(release: Release, shard: dict[str, Any]) -> Iterator[bytes]:
    with LineFile(release.file(f"{TOKENS}/{shard['path']}")) as file:
        yield from file


def _all(release: Release, shards: list[dict[str, Any]]) -> Iterator[bytes]:
    for shard in shards:
        yield from _lines(release, shard)


def _described(
    a: Release, b: Release, trees: tuple[Json, Json], split: str, number: int, old: bytes, new: bytes
) -> Difference:
    """The first row that differs: its first id that does, and the document there in A and in B."""
    width = trees[0]["width"]
    rows = [decode_row(line, width, tree["vocabulary"], split) for line, tree in zip((old, new), trees, strict=True)]
    place = int(np.flatnonzero(rows[0] != rows[1])[0]) if (rows[0] != rows[1]).any() else 0
    values = [
        f"id {int(row[place])} of {_document(release, tree, split, number, place)}"
        for release, tree, row in zip((a, b), trees, rows, strict=True)
    ]
    where = f"{split} row {number}, place {place}"
    return Difference(kind="row", where=where, a=values[0], b=values[1], stage=STAGE)


def _document(release: Release, tree: Json, split: str, number: int, place: int) -> str:
    """The document that holds one place of a row."""
    groups = tree["outputs"][f"{split}_index"][0].get("groups")
    if groups is None:
        raise EverystepError(f"{release.folder}: outputs.{split}_index: has no digests of its row groups")
    with release.window(index_path(split)) as window:
        (spans,) = documents_of_rows(window, groups, tree["width"], number + 1, [number])
    return next(span.id for span in spans if span.start <= place < span.stop)
