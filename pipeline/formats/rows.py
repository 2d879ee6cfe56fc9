"""Rows of token ids: `{"token_ids": [...]}` lines of a declared width, and where documents lie in them.

A row is `context + 1` ids: input is `row[:-1]`, target is `row[1:]`; nobody else shifts. Documents are
concatenated, each followed by one end token, and cut into disjoint rows; the tail that fills no row is
dropped. So token position p of the stream is row p // width, offset p % width.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.base.arrow import arrow_numbers, arrow_string, arrow_strings
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import safe_join
from pipeline.base.parquet import batches, damage_named, open_parquet
from pipeline.formats.documents import shard_name
from pipeline.formats.lines import LINES_PER_FRAME, LineFile, Shard, write_frames
from pipeline.formats.order import permute
from pipeline.formats.tables import BATCH, DOCUMENT_INDEX, open_table, read_columns, text_of

ROWS_PER_SHARD = 4096
IDS_WRITTEN_AT_ONCE = 1 << 17
SAMPLES_AT_ONCE = 1024 * LINES_PER_FRAME
IDS_AT_ONCE = 65536
HEAD = b'{"token_ids":['
NAMES = ("id", "source", "license")
MAX_OPEN = 256  # files; a process may commonly have 1,024
Row = NDArray[np.int64]


def encode_row(row: NDArray[np.integer]) -> bytes:
    """Encode one line; orjson writes numpy integers with the digits that RFC 8785 asks for."""
    return orjson.dumps({"token_ids": row}, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def decode_row(line: bytes, width: int, vocabulary: int, where: str) -> Row:
    """Parse one line; another width, an id outside the vocabulary or a broken line is refused by `where`."""
    row = _usual_row(line)
    if row is None:
        row = _any_row(line, where)
    if row.shape != (width,):
        raise EverystepError(f"{where}: a row of {row.size} ids; {width} are declared (context + 1)")
    if row.min() < 0 or row.max() >= vocabulary:
        raise EverystepError(f"{where}: a token id outside 0..{vocabulary - 1}")
    return row


def write_row_shard(folder: Path, name: str, blocks: Iterable[NDArray[np.unsignedinteger]], vocabulary: int) -> Shard:
    """Write one shard of rows from blocks of them, each but the last of `rows_at_once(width)` rows."""
    frames = (frame for block in blocks for frame in _written_rows(block, vocabulary))
    return write_frames(folder / name, frames, name, digits=True)


def read_written_rows(frame: bytes, width: int, vocabulary: int, where: str) -> NDArray[np.uint32]:
    """Parse a frame of rows, shape (rows, width), which must have the bytes that `write_row_shard` writes for them.

    Ten times as fast as `decode_row`; it refuses every other way to write the same ids.
    """
    digits = frame.replace(HEAD, b"").replace(b"]}\n", b",")[:-1]
    if not digits.translate(None, b"0123456789,"):
        ids = np.fromstring(digits, dtype=np.int64, sep=",")
        if len(ids) and len(ids) % width == 0 and ids.min() >= 0 and ids.max() < vocabulary:
            rows = ids.astype(np.uint32).reshape(-1, width)
            if b"".join(_written_rows(rows, vocabulary)) == frame:
                return rows
    raise Differs(f"{where}: is not rows of {width} ids below {vocabulary}, written as `write_row_shard` writes them")


def rows_at_once(width: int) -> int:
    """Return how many rows are written at a time: whole frames, of about as many ids as fit a processor's cache."""
    return LINES_PER_FRAME * max(1, IDS_WRITTEN_AT_ONCE // (LINES_PER_FRAME * width))


def row_shard(prefix: str, number: int) -> str:
    return f"{prefix}/{shard_name(number)}"


def write_order(path: Path, name: str, num_rows: int, seed: int) -> Shard:
    """Write epoch 0 of the order as data: line i is `{"row": row of sample i}`."""
    return write_frames(path, order_frames(num_rows, seed), name, digits=True)


def order_frames(num_rows: int, seed: int) -> Iterator[bytes]:
    """Yield the lines of epoch 0 of the order, `LINES_PER_FRAME` at a time."""
    for start in range(0, num_rows, SAMPLES_AT_ONCE):
        samples = np.arange(start, min(start + SAMPLES_AT_ONCE, num_rows), dtype=np.uint64)
        rows = arrow_numbers(permute(samples, num_rows, seed, epoch=0)).cast(pa.string())
        line = arrow_string(b'{"row":'), rows, arrow_string(b"}\n"), arrow_string(b"")
        text, ends = text_of(pc.binary_join_element_wise(*line))
        bounds = [*ends[:-1:LINES_PER_FRAME].tolist(), len(text)]
        yield from (bytes(text[begin:end]) for begin, end in pairwise(bounds))


class Rows(Sequence[Row]):
    """Rows of one split by number. Opens shards on demand and keeps `MAX_OPEN` of them open."""

    def __init__(self, folder: Path, shards: Sequence[Shard], width: int, vocabulary: int) -> None:
        self._folder, self._shards = folder, shards
        self._starts = list(accumulate((shard.lines for shard in shards), initial=0))
        self._files: OrderedDict[int, LineFile] = OrderedDict()
        self.width = width
        self.vocabulary = vocabulary

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> Row:  # type: ignore[override]  # slices are not offered
        if not 0 <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        shard = bisect_right(self._starts, number) - 1
        line = number - self._starts[shard]
        file = self._open(shard)
        return decode_row(file[line], self.width, self.vocabulary, f"{file.path}:{line + 1}")

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def _open(self, shard: int) -> LineFile:
        if shard not in self._files:
            self._files[shard] = self._opened(shard)
            if len(self._files) > MAX_OPEN:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]

    def _opened(self, shard: int) -> LineFile:
        """Open the file of a shard, which must hold as many rows as promised."""
        file = LineFile(safe_join(self._folder, self._shards[shard].path))
        if len(file) != self._shards[shard].lines:
            raise Differs(f"{file.path}: the manifest promises {self._shards[shard].lines} rows, found {len(file)}")
        return file


@dataclass(frozen=True)
class Span:
    """A piece of a document inside one row: ids `start..stop` (stop excluded) of the row."""

    id: str
    source: str
    license: str
    row: int
    start: int
    stop: int


class DocumentIndex:
    """An index from documents to rows and from rows to documents, by arithmetic on the packing order.

    With `num_rows`, rows that the dropped tail would have filled are left out of every answer. Holds 16 bytes a
    document; names are read from the file when an answer needs them.
    """

    def __init__(self, path: Path, width: int, num_rows: int | None = None) -> None:
        self.width = width
        self.num_rows = num_rows
        self._path = path
        self._file = open_table(path, DOCUMENT_INDEX)
        self._names = open_parquet(path, as_dictionaries=("source", "license"))
        self._groups = range(self._file.num_row_groups)
        with damage_named(path):
            places = read_columns(self._file, path, ("first_row", "offset", "num_tokens"), self._groups)
            groups = [self._file.metadata.row_group(group).num_rows for group in self._groups]
        self._starts = places["first_row"].to_numpy() * width + places["offset"].to_numpy()
        self._stops = self._starts + places["num_tokens"].to_numpy()
        expected = np.concatenate([[0], self._stops])[:-1]
        if (self._starts != expected).any() or (self._stops <= self._starts).any():
            raise EverystepError(f"{path}: its documents do not follow one another without gaps")
        self._group_starts = np.cumsum([0, *groups])

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def num_full_rows(self) -> int:
        """Rows that the documents fill."""
        return int(self._stops[-1]) // self.width if len(self) else 0

    def documents_of_row(self, row: int) -> list[Span]:
        """List the documents whose tokens (end token included) are in a row, in order."""
        return self.documents_of_rows([row])[0]

    def documents_of_rows(self, rows: Sequence[int]) -> list[list[Span]]:
        """List `documents_of_row` for each row, in one pass over the names."""
        last = len(self) and int(self._stops[-1] - 1) // self.width
        limit = last + 1 if self.num_rows is None else self.num_rows
        firsts = np.array([row if 0 <= row < limit else -1 for row in rows], dtype=np.int64) * self.width
        lows = np.searchsorted(self._stops, firsts, side="right")
        highs = np.where(firsts < 0, lows, np.searchsorted(self._starts, firsts + self.width, side="left"))
        members = np.concatenate([np.arange(low, high) for low, high in zip(lows, highs, strict=True)] or [lows])
        about = iter(self._about(members))
        return [
            [
                Span(
                    **next(about),
                    row=row,
                    start=max(int(self._starts[i]) - first, 0),
                    stop=min(int(self._stops[i]) - first, self.width),
                )
                for i in range(low, high)
            ]
            for row, first, low, high in zip(rows, firsts.tolist(), lows.tolist(), highs.tolist(), strict=True)
        ]

    def counts_in(
        self, chosen: NDArray[np.bool_], forgotten: NDArray[np.bool_] | None = None
    ) -> dict[tuple[str, str], tuple[int, int]]:
        """Count, for each (source, licence), the documents with a token in the chosen rows, and those tokens.

        `chosen` has shape (rows,). A document that is packed twice counts twice; one that is `forgotten`, of shape
        (documents,), not at all.
        """
        found: dict[tuple[str, str], tuple[int, int]] = {}
        begin = 0
        with damage_named(self._path):
            for batch in batches(self._names, self._path, IDS_AT_ONCE, ("source", "license"), self._groups):
                columns = {name: batch.column(name).cast(pa.string()) for name in ("source", "license")}
                tokens = self.tokens_in(chosen, slice(begin, begin + batch.num_rows))
                if forgotten is not None:
                    tokens[forgotten[begin : begin + batch.num_rows]] = 0
                table = pa.table(columns | {"tokens": tokens}).filter(tokens > 0)
                grouped = table.group_by(["source", "license"], use_threads=False)
                for group in grouped.aggregate([("tokens", "count"), ("tokens", "sum")]).to_pylist():
                    key = group["source"], group["license"]
                    documents, sum_tokens = found.get(key, (0, 0))
                    found[key] = documents + group["tokens_count"], sum_tokens + group["tokens_sum"]
                begin += batch.num_rows
        return found

    def tokens_in(self, chosen: NDArray[np.bool_], documents: slice) -> NDArray[np.int64]:
        """Count the tokens that each of some consecutive documents has in the chosen rows."""
        starts, stops = self._starts[documents], self._stops[documents]
        first = int(starts[0]) // self.width
        rows = np.append(chosen[first : int(stops[-1]) // self.width + 1], False)  # the tail fills no row
        before = np.cumsum(rows) - rows

        def tokens_before(places: NDArray[np.int64]) -> NDArray[np.int64]:
            row = np.minimum(places // self.width - first, len(rows) - 1)
            tokens: NDArray[np.int64] = self.width * before[row] + places % self.width * rows[row]
            return tokens

        return tokens_before(stops) - tokens_before(starts)

    def chosen(self, ids: Collection[str], sources: Collection[str]) -> NDArray[np.bool_]:
        """Mark the documents, every copy of each, that have one of these ids or sources; shape (documents,)."""
        found = [np.zeros(0, dtype=np.bool_)]
        wanted = {"id": pa.array(sorted(ids), pa.string()), "source": pa.array(sorted(sources), pa.string())}
        with damage_named(self._path):
            for batch in batches(self._file, self._path, IDS_AT_ONCE, ("id", "source"), self._groups):
                fits = [pc.is_in(batch.column(name), values) for name, values in wanted.items()]
                found.append(pc.or_(*fits).to_numpy(zero_copy_only=False))
        return np.concatenate(found)

    def spans_of(self, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        """List the pieces of the chosen documents, end tokens included, as row, start and stop; shape (pieces, 3).

        What is in the dropped tail is in no row, and so not in the list.
        """
        starts, stops = self._starts[chosen], self._stops[chosen]
        limit = self.num_full_rows if self.num_rows is None else self.num_rows
        first, last = starts // self.width, np.minimum((stops - 1) // self.width, limit - 1)
        pieces = np.maximum(last - first + 1, 0)
        which = np.repeat(np.arange(len(starts)), pieces)
        row = first[which] + np.arange(len(which)) - (np.cumsum(pieces) - pieces)[which]
        start = np.maximum(starts[which] - row * self.width, 0)
        stop = np.minimum(stops[which] - row * self.width, self.width)
        return np.stack([row, start, stop], axis=1)

    def having(self, spans: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Mark the documents of which each of these spans is a piece, shape (documents,)."""
        found = np.zeros(len(self), dtype=np.bool_)
        found[np.searchsorted(self._stops, spans[:, 0] * self.width + spans[:, 1], side="right")] = True
        return found

    def names_of(self, chosen: NDArray[np.bool_]) -> list[dict[str, str]]:
        """Read id, source and licence of each chosen document, in order."""
        return self._about(np.flatnonzero(chosen))

    def bounds(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the places of each document's first token, and of the token after its last, in the stream of ids."""
        return self._starts, self._stops

    def rows_of_document(self, id: str) -> list[range]:
        """List the rows that hold the document: one range for each copy, in order; none if it is not in this split.

        A range is empty if the copy is in the dropped tail.
        """
        found: list[NDArray[np.int64]] = []
        begin = 0
        with damage_named(self._path):
            for batch in batches(self._file, self._path, IDS_AT_ONCE, ("id",), self._groups):
                found.append(begin + np.flatnonzero(pc.equal(batch.column(0), id).to_numpy(zero_copy_only=False)))
                begin += batch.num_rows
        return [self._rows(int(i)) for numbers in found for i in numbers]

    def _rows(self, i: int) -> range:
        first, stop = int(self._starts[i]) // self.width, (int(self._stops[i]) - 1) // self.width + 1
        return range(first, stop if self.num_rows is None else max(first, min(stop, self.num_rows)))

    def _about(self, members: NDArray[np.int64]) -> list[dict[str, str]]:
        """Read id, source and licence of each of these documents, from the row groups that hold them."""
        wanted, which = np.unique(members, return_inverse=True)
        in_group = np.searchsorted(self._group_starts, wanted, side="right") - 1
        groups, first = np.unique(in_group, return_inverse=True)
        sizes = np.diff(self._group_starts)[groups]
        places = wanted - (self._group_starts[groups] - (sizes.cumsum() - sizes))[first]  # in what is read
        about: list[dict[str, str]] = []
        begin = 0
        with damage_named(self._path):
            for batch in batches(self._names, self._path, BATCH, NAMES, groups.tolist()):
                start, stop = np.searchsorted(places, [begin, begin + batch.num_rows])
                found = (places[start:stop] - begin).tolist()
                about += [{name: batch[name][place].as_py() for name in NAMES} for place in found]
                begin += batch.num_rows
        return [about[i] for i in which.tolist()]


def _written_rows(rows: NDArray[np.unsignedinteger], vocabulary: int) -> Iterator[bytes]:
    """Write the lines of `encode_row`, `LINES_PER_FRAME` a piece, by looking ids up in a table of their digits."""
    width = rows.shape[1]
    entries = rows.astype(np.uint32)
    entries[:, -1] += vocabulary
    text, ends = text_of(pc.take(_digits_of_ids(vocabulary), arrow_numbers(entries.ravel())))
    bounds = [*ends[: -1 : LINES_PER_FRAME * width].tolist(), len(text)]
    yield from (HEAD + text[begin : end - len(HEAD)] for begin, end in pairwise(bounds))


@lru_cache(2)
def _digits_of_ids(vocabulary: int) -> pa.Array:
    """Tabulate what is written for an id; from `vocabulary` on, for an id that ends a row and opens the next."""
    between = "]}\n" + HEAD.decode()
    digits = [str(id) for id in range(vocabulary)]
    return arrow_strings(f"{id}{end}".encode() for end in (",", between) for id in digits).cast(pa.string())


def _usual_row(line: bytes) -> Row | None:
    """Parse a line that begins with its ids and writes them plainly, as every known writer does.

    Three times as fast as a list of Python's integers. None: only a JSON parser can tell.
    """
    head, _, rest = line.partition(b"]")
    key, _, ids = head.partition(b"[")
    ids = ids.replace(b", ", b",")
    plain = not ids.translate(None, b"0123456789,") and b",," not in ids and ids[:1].isdigit() and ids[-1:].isdigit()
    if not plain or key not in (b'{"token_ids":', b'{"token_ids": ') or not _ends_an_object(rest):
        return None
    row = np.fromstring(ids, dtype=np.int64, sep=",")
    num_digits = row.size + sum(int(np.count_nonzero(row >= 10**k)) for k in range(1, len(str(row.max()))))
    return row if len(ids) == num_digits + row.size - 1 else None  # else zeros lead, or an id is past 64 bits


def _ends_an_object(rest: bytes) -> bool:
    """Whether `rest` closes the object, perhaps after other keys than `token_ids`."""
    try:
        return rest == b"}" or "token_ids" not in orjson.loads(b'{"":[]' + rest)
    except orjson.JSONDecodeError:
        return False


def _any_row(line: bytes, where: str) -> Row:
    try:
        ids = orjson.loads(line)["token_ids"]
        if not isinstance(ids, list) or not set(map(type, ids)) <= {int}:
            raise TypeError("token_ids is not a list of whole numbers")
        return np.array(ids, dtype=np.int64)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise EverystepError(f"{where}: not a row: {error}") from error
