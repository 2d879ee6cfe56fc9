"""Fill-in-the-middle: training documents whose middle is moved to their end (Bavarian et al. 2022, arXiv 2207.14255).

A text is cut at two places between its characters, drawn uniformly, into prefix, middle and suffix. Each is encoded by
itself, so that a model learns to go on from a cut within a word:

    prefix first (PSM)    PREFIX prefix SUFFIX suffix MIDDLE middle END
    suffix first (SPM)    PREFIX SUFFIX suffix MIDDLE prefix middle END

The second puts its sentinels where the first has them, so that a model learns from one for the other. All that is drawn
of a document depends on its id and a seed, on nothing else.
"""

from typing import NamedTuple

from pipeline.formats.documents import id_hash, share_limit
from pipeline.formats.vocabulary import END_OF_TEXT, FILL_MIDDLE, FILL_PREFIX, FILL_SUFFIX

Pieces = list[tuple[str, str]]
"""Texts that are encoded each by itself, with the special token behind each; none: the empty string."""


class Filling(NamedTuple):
    """The share of documents that are cut, and the share of these with the suffix first."""

    share: float
    suffix_first_share: float
    seed: int

    def chooses(self, id: str) -> bool:
        """Whether the document is cut."""
        return id_hash(id, "fill-in-the-middle", self.seed) < share_limit(self.share)

    def pieces(self, id: str, text: str) -> Pieces:
        """The document as it is encoded; one that is not cut is one piece."""
        if not self.chooses(id):
            return whole(text)
        begin, end = sorted(self._cut(id, number, len(text)) for number in (1, 2))
        prefix, middle, suffix = text[:begin], text[begin:end], text[end:]
        if id_hash(id, "fill-in-the-middle-order", self.seed) < share_limit(self.suffix_first_share):
            return [("", FILL_PREFIX), ("", FILL_SUFFIX), (suffix, FILL_MIDDLE), (prefix, ""), (middle, END_OF_TEXT)]
        return [("", FILL_PREFIX), (prefix, FILL_SUFFIX), (suffix, FILL_MIDDLE), (middle, END_OF_TEXT)]

    def _cut(self, id: str, number: int, length: int) -> int:
        """A place from 0 to `length`."""
        return id_hash(id, f"fill-in-the-middle-cut-{number}", self.seed) * (length + 1) >> 64


def whole(text: str) -> Pieces:
    """A document that is not cut."""
    return [(text, END_OF_TEXT)]
