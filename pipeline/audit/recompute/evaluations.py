"""Evaluations: on how much text the losses were measured, counted again.

The losses themselves take the models; `everystep replay --evaluation` computes them again.
"""

from collections.abc import Iterator
from itertools import islice

from pipeline.base.paths import TOKENIZER
from pipeline.formats.manifests import Evaluated, Tokens
from pipeline.formats.vocabulary import token_bytes
from pipeline.release.release import Release
from pipeline.release.row_blocks import row_blocks


def evaluation_faults(release: Release) -> Iterator[str]:
    """Count the targets of the held-out rows that were read and the bytes of their text."""
    tokens, sizes = release.manifest(Tokens), token_bytes(release.file(TOKENIZER))
    counted: dict[int, tuple[int, int]] = {}
    for name in release.models():
        evaluated = release.manifest(Evaluated, name)
        read = evaluated.parameters.rows
        if read not in counted:
            rows = (row for block in row_blocks(release, tokens, "validation") for row in block)
            bytes_of = [sizes[row[1:]] for row in islice(rows, read)]
            counted[read] = sum(row.size for row in bytes_of), sum(int(row.sum()) for row in bytes_of)
        said = {"targets": evaluated.targets, "bytes": evaluated.bytes}
        for (key, number), found in zip(said.items(), counted[read], strict=True):
            if number != found:
                yield f"{evaluated.path}: {key} is {number}, the first {read} held-out rows have {found}"
