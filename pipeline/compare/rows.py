"""Rows of token ids that differ, by their numbers, and the document at the first difference.

Reads only the shards whose digests differ. A document that was added shifts every row after it, so that many rows
differ is no news; the first one is where to look.
"""

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from pipeline.base.errors import EverystepError
from pipeline.base.paths import SPLITS, TOKENS
from pipeline.compare.difference import Difference, Findings
from pipeline.compare.documents import STAGE, index_path
from pipeline.formats.canonical import Json
from pipeline.formats.index_groups import documents_of_rows
from pipeline.formats.lines import LineFile
from pipeline.formats.rows import Span, decode_row
from pipeline.release.release import Release


class Pair(NamedTuple):
    """A row that differs: its number, and its line in A and B."""

    number: int
    a: bytes
    b: bytes


def compare_rows(a: Release, b: Release, trees: tuple[Json, Json], findings: Findings) -> None:
    """Find the rows that differ; `trees` are the manifests of the rows."""
    for split in SPLITS:
        shards = [tree["outputs"].get(split, []) for tree in trees]
        if _digests(shards[0]) == _digests(shards[1]):
            continue
        numbers = [sum(shard["lines"] for shard in side) for side in shards]
        if trees[0]["width"] != trees[1]["width"]:
            value = [f"{number:,} rows of {tree['width']} ids" for number, tree in zip(numbers, trees, strict=True)]
            whole = Difference(kind="row", where=f"{split} rows", a=value[0], b=value[1], stage=STAGE)
            findings.add_counted("row", max(numbers), [whole])
            continue
        count, first = _differing(a, b, shards[0], shards[1], min(numbers), findings.most)
        findings.add_counted("row", count, _described(a, b, trees, split, first))
        if numbers[0] != numbers[1]:
            where, more = f"{split} rows from {min(numbers)} on", abs(numbers[0] - numbers[1])
            longer = Difference(kind="row", where=where, only_in="A" if numbers[0] > numbers[1] else "B", stage=STAGE)
            findings.add_counted("row", more, [longer])


def _digests(shards: list[dict[str, Any]]) -> list[str]:
    return [shard["sha256"] for shard in shards]


def _differing(
    a: Release, b: Release, left: list[dict[str, Any]], right: list[dict[str, Any]], common: int, most: int
) -> tuple[int, list[Pair]]:
    """How many of the first `common` rows differ, and the first `most` of them."""
    count, number = 0, 0
    first: list[Pair] = []
    for place, (one, other) in enumerate(zip_longest(left, right)):
        if one and other and (one["sha256"], one["lines"]) == (other["sha256"], other["lines"]):
            number += one["lines"]
            continue
        aligned = one and other and one["lines"] == other["lines"]
        stop = place + 1 if aligned else None  # else shards of other sizes: all that is left, whatever the shards
        for old, new in zip(_lines(a, left[place:stop]), _lines(b, right[place:stop]), strict=False):
            if number < common and old != new:
                first += [Pair(number, old, new)] if count < most else []
                count += 1
            number += 1
        if not aligned:
            break
    return count, first


def _lines(release: Release, shards: list[dict[str, Any]]) -> Iterator[bytes]:
    for shard in shards:
        with LineFile(release.file(f"{TOKENS}/{shard['path']}")) as file:
            yield from file


def _described(a: Release, b: Release, trees: tuple[Json, Json], split: str, pairs: list[Pair]) -> Iterator[Difference]:
    """Each of these rows: its first id that differs, and the document there in A and in B."""
    numbers = [pair.number for pair in pairs]
    spans = [_documents(release, tree, split, numbers) for release, tree in zip((a, b), trees, strict=True)]
    for pair, left, right in zip(pairs, *spans, strict=True):
        rows = [
            decode_row(line, tree["width"], tree["vocabulary"], f"{split} row {pair.number}")
            for line, tree in zip((pair.a, pair.b), trees, strict=True)
        ]
        place = int(np.argmax(rows[0] != rows[1]))
        values = [
            f"id {int(row[place])} of {next(span.id for span in side if span.start <= place < span.stop)}"
            for row, side in zip(rows, (left, right), strict=True)
        ]
        where = f"{split} row {pair.number}, place {place}"
        yield Difference(kind="row", where=where, a=values[0], b=values[1], stage=STAGE)


def _documents(release: Release, tree: Json, split: str, numbers: list[int]) -> list[list[Span]]:
    """The documents that each of these rows holds."""
    if not numbers:
        return []
    groups = tree["outputs"][f"{split}_index"][0].get("groups")
    if groups is None:
        raise EverystepError(f"{release.folder}: outputs.{split}_index: has no digests of its row groups")
    with release.window(index_path(split)) as window:
        return documents_of_rows(window, groups, tree["width"], max(numbers) + 1, numbers)
