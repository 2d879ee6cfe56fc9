"""Evaluations: on how much text the losses were measured, counted again.

The losses themselves take the models; `everystep replay --evaluation` computes them again.
"""

from collections.abc import Iterator
from itertools import islice

from pipeline.base.paths import TOKENIZER, TOKENS
from pipeline.formats.lines import LineFile
from pipeline.formats.manifests import Evaluated, Tokens
from pipeline.formats.rows import Row, decode_row
from pipeline.formats.vocabulary import token_bytes
from pipeline.release.release import Release


def evaluation_faults(release: Release) -> Iterator[str]:
    """Count the targets of the held-out rows that were read and the bytes of their text."""
    tokens, sizes = release.manifest(Tokens), token_bytes(release.file(TOKENIZER))
    counted: dict[int, tuple[int, int]] = {}
    for name in release.models():
        evaluated = release.manifest(Evaluated, name)
        read = evaluated.parameters.rows
        if read not in counted:
            rows = [sizes[row[1:]] for row in islice(_held_out(release, tokens), read)]
            counted[read] = sum(row.size for row in rows), sum(int(row.sum()) for row in rows)
        said = {"targets": evaluated.targets, "bytes": evaluated.bytes}
        for (key, number), found in zip(said.items(), counted[read], strict=True):
            if number != found:
                yield f"{evaluated.path}: {key} is {number}, the first {read} held-out rows have {found}"


def _held_out(release: Release, tokens: Tokens) -> Iterator[Row]:
    """Read the held-out rows in their order."""
    for shard in tokens.shards("validation"):
        path = release.file(TOKENS / shard.path)
        with LineFile(path) as lines:
            for number, line in enumerate(lines, 1):
                yield decode_row(line, tokens.width, tokens.vocabulary, f"{path}:{number}")
