"""Evaluations: on how much text the losses were measured, counted again.

The losses themselves take the models; `everystep replay --evaluation` computes them again.
"""

from collections.abc import Iterator

import numpy as np

from pipeline.base.paths import TOKENIZER, TOKENS
from pipeline.formats.manifests import Evaluated, Tokens
from pipeline.formats.rows import Rows
from pipeline.formats.vocabulary import token_bytes
from pipeline.release.release import Release


def evaluation_faults(release: Release) -> Iterator[str]:
    """Count the targets of the held-out rows that were read and the bytes of their text."""
    tokens, sizes = release.manifest(Tokens), token_bytes(release.file(TOKENIZER))
    for shard in tokens.shards("validation"):
        release.file(TOKENS / shard.path)
    rows = Rows(release.folder / TOKENS, tokens.shards("validation"), tokens.width, tokens.vocabulary)
    counted: dict[int, tuple[int, int]] = {}
    for name in release.models():
        evaluated = release.manifest(Evaluated, name)
        read = min(evaluated.parameters.rows, len(rows))
        if read not in counted:
            num_bytes = sum(int(sizes[np.asarray(rows[number][1:])].sum()) for number in range(read))
            counted[read] = read * (tokens.width - 1), num_bytes
        for key, said, found in zip(
            ("targets", "bytes"), (evaluated.targets, evaluated.bytes), counted[read], strict=True
        ):
            if said != found:
                yield f"{evaluated.path}: {key} is {said}, the first {read} held-out rows have {found}"
