"""The groups of documents that are left out: all that a stretch of training reads, cut into equal parts.

A group is documents of one source that follow each other by id: pages of one service, scenes of one play. So what a
group teaches is something, and not a sample of everything. Each source has groups in proportion to its tokens in the
stretch, and all groups of a source have about as many.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.base.errors import EverystepError
from pipeline.formats.manifests import Tokens
from pipeline.formats.order import rows_of_samples
from pipeline.formats.rows import DocumentIndex
from pipeline.release.forgetting import forgotten_of, index_of
from pipeline.release.release import Release


@dataclass(frozen=True)
class Read:
    """A document that a stretch reads: its id, and its tokens there."""

    id: str
    tokens: int


@dataclass(frozen=True)
class Group:
    """Documents of one source."""

    source: str
    documents: list[Read]

    @property
    def tokens(self) -> int:
        """Tokens of the documents in the stretch."""
        return sum(document.tokens for document in self.documents)


def rows_between(release: Release, model: str, start: int, stop: int) -> NDArray[np.int64]:
    """Number the rows that the training of a model reads from state `start` to state `stop`, in order."""
    recipe = release.model(model).parameters
    num_rows = release.manifest(Tokens).splits.train.rows
    return rows_of_samples(recipe.sample(start), recipe.sample(stop), num_rows, recipe.data.seed)


def groups_of(release: Release, model: str, start: int, stop: int, number: int) -> list[Group]:
    """Cut the documents that the training reads between two states into `number` groups, by source and id."""
    read = _documents(release, index_of(release), rows_between(release, model, start, stop))
    tokens = {source: sum(document.tokens for document in documents) for source, documents in sorted(read.items())}
    if number < len(tokens):
        raise EverystepError(f"{number} groups: the stretch reads {len(tokens)} sources, and each has a group at least")
    groups = []
    for source, share in _shares(tokens, number).items():
        parts: list[list[Read]] = [[] for _ in range(share)]
        before = 0
        for document in read[source]:
            parts[(2 * before + document.tokens) * share // (2 * tokens[source])].append(document)
            before += document.tokens
        groups += [Group(source, part) for part in parts]
    if not all(group.documents for group in groups):
        raise EverystepError(f"{number} groups: a document is larger than one; take fewer groups or more steps")
    return groups


def _documents(release: Release, index: DocumentIndex, rows: NDArray[np.int64]) -> dict[str, list[Read]]:
    """Each source with its documents that are in some rows, by id; copies of one are counted together."""
    chosen = np.zeros(release.manifest(Tokens).splits.train.rows, dtype=np.bool_)
    chosen[rows] = True
    tokens = index.tokens_in(chosen, slice(None))
    if (lost := forgotten_of(release)) is not None:
        tokens[index.having(lost.spans)] = 0
    counts: dict[str, Counter[str]] = {}
    read = tokens > 0
    for about, number in zip(index.names_of(read), tokens[read].tolist(), strict=True):
        counts.setdefault(about["source"], Counter())[about["id"]] += number
    return {source: [Read(id, ids[id]) for id in sorted(ids)] for source, ids in counts.items()}


def _shares(tokens: dict[str, int], number: int) -> dict[str, int]:
    """Divide a number of groups among sources in proportion to their tokens, one each at least: each next group goes
    to the source whose groups are the largest (D'Hondt)."""
    shares = dict.fromkeys(tokens, 1)
    for _ in range(number - len(tokens)):
        shares[max(tokens, key=lambda source: (tokens[source] / (shares[source] + 1), source))] += 1
    return shares
