"""Queries: a text, or ids, as the ids that are looked for; and ids as a reader sees them."""

import json
from collections.abc import Sequence

from pipeline.base.errors import EverystepError, how_to_install
from pipeline.base.paths import TOKENIZER
from pipeline.formats.vocabulary import token_texts
from pipeline.release.release import Release
from pipeline.search.index import Index

OPTION = "--ids"


def ids_of(release: Release, index: Index, text: str | None, ids: str | None) -> list[int]:
    """The ids of a query: of `text`, by the release's tokenizer and as one text, or as `ids` lists them (`17,4,256`).

    Raises for a query that is empty or can be in no row.
    """
    if (text is None) == (ids is None):
        raise EverystepError(f"give either a text or {OPTION}")
    found = encoded(release, text) if text is not None else listed(str(ids))
    if not found:
        raise EverystepError("the query is empty; give at least one character or one id")
    if len(found) > index.width:
        raise EverystepError(
            f"the query has {len(found):,} ids, a row {index.width}: nothing that long was read together; shorten it"
        )
    return found


def listed(ids: str) -> list[int]:
    """The ids in `17,4,256`."""
    parts = [part.strip() for part in ids.split(",")] if ids.strip() else []
    if wrong := [part for part in parts if not (part.isascii() and part.isdigit() and len(part) < 20)]:
        raise EverystepError(
            f"{OPTION}: {wrong[0]!r:.100} is not an id; write numbers with commas between, such as 17,4,256"
        )
    return [int(part) for part in parts]


def encoded(release: Release, text: str) -> list[int]:
    """The ids of a text, names of special tokens read as ordinary characters, as in training."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise EverystepError(
            f"a text needs the library tokenizers, which encodes it; {how_to_install('search')}, or give {OPTION}"
        ) from error
    tokenizer = Tokenizer.from_file(str(release.file(TOKENIZER)))
    tokenizer.encode_special_tokens = True
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


class Texts:
    """Texts of tokens."""

    def __init__(self, release: Release) -> None:
        self._texts = token_texts(release.file(TOKENIZER))

    def text(self, ids: Sequence[int]) -> str:
        """The text that ids encode; special tokens have none, and bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self._texts[id] for id in ids).decode(errors="replace")

    def quoted(self, ids: Sequence[int], between: str = "") -> str:
        """The same in quotation marks, with a mark between tokens: `"The| king"`."""
        pieces = [self._texts[id].decode(errors="replace") for id in ids] if between else [self.text(ids)]
        return json.dumps(between.join(pieces), ensure_ascii=False)
