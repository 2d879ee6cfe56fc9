"""Fill-in-the-middle: training documents whose middle is moved to their end (Bavarian et al. 2022, arXiv 2207.14255).

A text is cut at two uniformly drawn places between characters, into prefix, middle and suffix. Each is encoded by
itself, so that a model learns to continue from a cut within a word:

    prefix first (PSM)    PREFIX prefix SUFFIX suffix MIDDLE middle END
    suffix first (SPM)    PREFIX SUFFIX suffix MIDDLE prefix middle END

The second begins with the sentinels of the first, so that a model learns from one for the other. All draws for a
document depend only on its id and a seed.
"""

from typing import NamedTuple

from pipeline.formats.documents import id_hash, share_limit
from pipeline.formats.vocabulary import END_OF_TEXT, FILL_MIDDLE, FILL_PREFIX, FILL_SUFFIX

Pieces = list[tuple[str, str]]
"""Texts that are encoded each by itself, with the special token after each, or an empty string for none."""


class Filling(NamedTuple):
    """Share of documents that are cut, and share of these with the suffix first."""

    share: float
    suffix_first_share: float
    seed: int

    def chooses(self, id: str) -> bool:
        """Tell whether the document is cut."""
        return id_hash(id, "fill-in-the-middle", self.seed) < share_limit(self.share)

    def pieces(self, id: str, text: str) -> Pieces:
        """Cut a document into pieces as they are encoded; one that is not chosen is one piece."""
        if not self.chooses(id):
            return whole(text)
        begin, end = sorted(self._cut(id, number, len(text)) for number in (1, 2))
        prefix, middle, suffix = text[:begin], text[begin:end], text[end:]
        if id_hash(id, "fill-in-the-middle-order", self.seed) < share_limit(self.suffix_first_share):
            return [("", FILL_PREFIX), ("", FILL_SUFFIX), (suffix, FILL_MIDDLE), (prefix, ""), (middle, END_OF_TEXT)]
        return [("", FILL_PREFIX), (prefix, FILL_SUFFIX), (suffix, FILL_MIDDLE), (middle, END_OF_TEXT)]

    def _cut(self, id: str, number: int, length: int) -> int:
        """Draw a place from 0 to `length`."""
        return id_hash(id, f"fill-in-the-middle-cut-{number}", self.seed) * (length + 1) >> 64


def whole(text: str) -> Pieces:
    """Give the single piece of a document that is not cut."""
    return [(text, END_OF_TEXT)]
