"""Texts: every document, decoded from its rows, is the one that the index names; and the rows are its encoding.

Documents follow one another in the stream of ids, each with one end token. A document whose middle was moved to its end
is turned back first. The text must have the `text_sha256` and the `bytes` of the index, and its ids must be those that
the released tokenizer gives it (`pipeline.blocks.byte_pairs`). No two documents are the same text in lower case, blanks
aside: dedup would have removed one. Of a document that ends in the dropped tail, the rows hold only the beginning, and
of a forgotten one nothing; neither is checked here.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.recompute.columns import Keys, index_batches, index_path, joined, repeated
from pipeline.base.paths import SPLITS, TOKENIZER, TOKENS
from pipeline.blocks.byte_pairs import BytePairs, is_known
from pipeline.blocks.fill_in_the_middle import Filling
from pipeline.formats.canonical import parse
from pipeline.formats.manifests import Tokens
from pipeline.formats.rows import DocumentIndex
from pipeline.formats.vocabulary import FILL_MIDDLE, FILL_PREFIX, FILL_SUFFIX, special_token, token_texts
from pipeline.release.forgetting import forgotten_of
from pipeline.release.release import Release
from pipeline.release.row_blocks import row_blocks

Ids = NDArray[np.uint32]
NAMED = ["id", "text_sha256", "num_tokens", "bytes"]


class _Tokenizer(NamedTuple):
    """The released tokenizer, in both directions."""

    texts: list[bytes]
    encode: Callable[[str], bytes]
    filling: Filling | None
    end: bytes
    marks: dict[str, int]

    def text(self, id: str, ids: list[int], is_filled: bool) -> str:
        """Decode a document without its end token."""
        if is_filled:
            at_suffix, at_middle = ids.index(self.marks[FILL_SUFFIX]), ids.index(self.marks[FILL_MIDDLE])
            ids = [*ids[1:at_suffix], *ids[at_middle + 1 :], *ids[at_suffix + 1 : at_middle]]
        return b"".join(map(self.texts.__getitem__, ids)).decode()

    def ids(self, id: str, text: str) -> bytes:
        """Encode a document as the stage `tokenize` does, end token included."""
        if self.filling is None:
            return self.encode(text) + self.end
        pieces = [self.encode(piece) + self._mark(mark) for piece, mark in self.filling.pieces(id, text)]
        return b"".join(pieces)

    def _mark(self, name: str) -> bytes:
        return self.marks[name].to_bytes(4, "little") if name in self.marks else self.end if name else b""


def text_faults(release: Release) -> Iterator[str]:
    """Each document whose rows do not hold the text of the index."""
    tokens = release.manifest(Tokens)
    folded: list[Keys] = []
    for split in SPLITS:
        yield from _split(release, tokens, split, folded)
    yield from _copies(release, joined(folded))


def _split(release: Release, tokens: Tokens, split: str, folded: list[Keys]) -> Iterator[str]:
    """The faults of a split. The keys of its folded texts are added to `folded`, one for each line of the index."""
    tokenizer = _tokenizer(release, tokens, split)
    where, stream = index_path(split), _Stream(release, tokens, split)
    forgotten = iter(_forgotten(release, tokens) if split == "train" else ())
    for batch in index_batches(release, split, NAMED):
        keys: list[bytes] = []
        ids, digests, counts, sizes = (batch.column(name).to_pylist() for name in NAMED)
        for id, sha256, count, size in zip(ids, digests, counts, sizes, strict=True):
            own = stream.take(count)
            if own is None or next(forgotten, False):
                keys.append(_key(id))  # in place of a text that nobody has
                continue
            is_filled = tokenizer.filling is not None and tokenizer.filling.chooses(id)
            try:
                text = tokenizer.text(id, own[:-1].tolist(), is_filled)
            except ValueError:  # not UTF-8, or a sentinel is missing
                yield f"{where}: {id}: its ids in the rows are not a text"
                text = ""
            content = text.encode()
            keys.append(_key(" ".join(text.lower().split())))
            if hashlib.sha256(content).hexdigest() != sha256:
                yield f"{where}: {id}: its rows hold another text than the one with the text_sha256 {sha256}"
            elif len(content) != size:
                yield f"{where}: {id}: bytes is {size}, its rows hold {len(content)}"
            elif is_known(text) and tokenizer.ids(id, text) != own.tobytes():
                yield f"{TOKENS / split}: {id}: {TOKENIZER} encodes its text otherwise"
        folded.append(np.frombuffer(b"".join(keys), dtype="<u8").astype(np.uint64))
    held = tokens.splits.train if split == "train" else tokens.splits.validation
    if divmod(stream.end, tokens.width) != (held.rows, held.dropped_tail_tokens):
        told = f"{held.rows:,} rows and {held.dropped_tail_tokens:,} dropped ids"
        yield f"{where}: covers {stream.end:,} ids, which are not the {told} of {tokens.path}"


def _forgotten(release: Release, tokens: Tokens) -> list[bool]:
    """Whether each training document, in the order of the index, is gone from the rows; empty if none is."""
    lost = forgotten_of(release)
    if lost is None:
        return []
    found: list[bool] = DocumentIndex(release.file(index_path("train")), tokens.width).having(lost.spans).tolist()
    return found


class _Stream:
    """The ids of a split in the order of its rows. Holds a frame, or a document if that is longer."""

    def __init__(self, release: Release, tokens: Tokens, split: str) -> None:
        self._blocks = (rows.reshape(-1) for rows in row_blocks(release, tokens, split))
        self._rest: Ids = np.empty(0, dtype=np.uint32)
        self.end = 0
        """Ids that were asked for."""

    def take(self, number: int) -> Ids | None:
        """The next ids, or none if the rows end before them."""
        self.end += number
        if len(self._rest) < number:
            pieces, held = [self._rest], len(self._rest)
            while held < number and (block := next(self._blocks, None)) is not None:
                pieces.append(block)
                held += len(block)
            self._rest = np.concatenate(pieces)
        found, self._rest = self._rest[:number], self._rest[number:]
        return found if len(found) == number else None


def _tokenizer(release: Release, tokens: Tokens, split: str) -> _Tokenizer:
    path = release.file(TOKENIZER)
    tree = parse(release.read(TOKENIZER), TOKENIZER)["model"]
    rule = tokens.parameters.to_json().get("fill_in_the_middle") if split == "train" else None
    names = (FILL_PREFIX, FILL_SUFFIX, FILL_MIDDLE) if rule else ()
    return _Tokenizer(
        texts=token_texts(path),
        encode=BytePairs(tree["vocab"], tree["merges"]).encode,
        filling=Filling(rule["share"], rule["suffix_first_share"], tokens.parameters.seed) if rule else None,
        end=tokens.end_token.to_bytes(4, "little"),
        marks={name: special_token(path, name) for name in names},
    )


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]


def _copies(release: Release, folded: Keys) -> Iterator[str]:
    """Different documents that are the same text after folding."""
    suspects, begin = repeated(folded), 0
    ids_of: dict[int, set[str]] = {}
    for split in SPLITS if len(suspects) else ():
        for batch in index_batches(release, split, ["id"]):
            keys = folded[begin : begin + batch.num_rows]
            for place in np.flatnonzero(np.isin(keys, suspects)).tolist():
                ids_of.setdefault(int(keys[place]), set()).add(batch.column("id")[place].as_py())
            begin += batch.num_rows
    for ids in ids_of.values():
        if len(ids) > 1:  # a mixture repeats one document
            yield f"{index_path('train')}: the same text is in the rows as {', '.join(sorted(ids))}"
