"""Rows of token ids: `{"token_ids": [...]}` lines of a declared width, and where documents lie in them.

A row is `context + 1` ids: input is `row[:-1]`, target is `row[1:]`; nobody else shifts. Documents are
concatenated, each with one end token behind it and none before, and cut into disjoint rows; the tail that
fills no row is dropped. So token position p of the stream is row p // width, offset p % width.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import orjson
from numpy.typing import NDArray

from pipeline.formats.documents import shard_name
from pipeline.formats.errors import Differs, EverystepError
from pipeline.formats.files import safe_join
from pipeline.formats.lines import LineFile, Shard, write_lines
from pipeline.formats.tables import DOCUMENT_INDEX, read_table

ROWS_PER_SHARD = 4096
MAX_OPEN = 256  # files; a process may commonly have 1,024
Row = NDArray[np.int64]


def encode_row(row: NDArray[np.integer]) -> bytes:
    """One line; orjson writes numpy integers as the same digits that RFC 8785 asks for."""
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


def write_rows(folder: Path, rows: Iterable[NDArray[np.integer]], prefix: str) -> list[Shard]:
    """Write shards of `ROWS_PER_SHARD` rows below `folder / prefix`."""
    shards: list[Shard] = []
    batch: list[bytes] = []
    for row in rows:
        batch.append(encode_row(row))
        if len(batch) == ROWS_PER_SHARD:
            shards.append(_write_shard(folder, prefix, len(shards), batch))
            batch = []
    if batch:
        shards.append(_write_shard(folder, prefix, len(shards), batch))
    return shards


class Rows(Sequence[Row]):
    """The rows of one split by number. Opens shards as they are asked for and keeps `MAX_OPEN` of them open."""

    def __init__(self, folder: Path, shards: list[Shard], width: int, vocabulary: int) -> None:
        self._paths = [safe_join(folder, shard.path) for shard in shards]
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
        return decode_row(self._open(shard)[line], self.width, self.vocabulary, f"{self._paths[shard]}:{line + 1}")

    def __iter__(self) -> Iterator[Row]:
        return (self[number] for number in range(len(self)))

    def _open(self, shard: int) -> LineFile:
        if shard not in self._files:
            file = LineFile(self._paths[shard])
            promised = self._starts[shard + 1] - self._starts[shard]
            if len(file) != promised:
                raise Differs(f"{self._paths[shard]}: the manifest promises {promised} rows, found {len(file)}")
            self._files[shard] = file
            if len(self._files) > MAX_OPEN:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]


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
    """Document -> rows and row -> documents, by arithmetic on the packing order.

    With `num_rows`, rows that the dropped tail would have filled are left out of every answer.
    """

    def __init__(self, path: Path, width: int, num_rows: int | None = None) -> None:
        table = read_table(path, DOCUMENT_INDEX)
        self.width = width
        self.num_rows = num_rows
        self.ids: list[str] = table["id"].to_pylist()
        self._sources: list[str] = table["source"].to_pylist()
        self._licenses: list[str] = table["license"].to_pylist()
        self._starts = table["first_row"].to_numpy() * width + table["offset"].to_numpy()
        self._stops = self._starts + table["num_tokens"].to_numpy()

    def documents_of_row(self, row: int) -> list[Span]:
        """The documents whose tokens (end token included) stand in a row, in their order."""
        if row < 0 or (self.num_rows is not None and row >= self.num_rows):
            return []
        first, end = row * self.width, (row + 1) * self.width
        low = int(np.searchsorted(self._stops, first, side="right"))
        high = int(np.searchsorted(self._starts, end, side="left"))
        return [
            Span(
                id=self.ids[i],
                source=self._sources[i],
                license=self._licenses[i],
                row=row,
                start=max(int(self._starts[i]) - first, 0),
                stop=min(int(self._stops[i]) - first, self.width),
            )
            for i in range(low, high)
        ]

    def rows_of_document(self, id: str) -> range | None:
        """The rows that hold the document, or None if it is not in this split. Empty if it fell with the tail."""
        try:
            i = self.ids.index(id)
        except ValueError:
            return None
        first, stop = int(self._starts[i]) // self.width, (int(self._stops[i]) - 1) // self.width + 1
        return range(first, stop if self.num_rows is None else max(first, min(stop, self.num_rows)))


def _usual_row(line: bytes) -> Row | None:
    """The ids of a line that begins with them and spells them plainly, as every known writer does.

    Three times as fast as a list of Python's integers. None: only a parser of JSON can tell.
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


def _write_shard(folder: Path, prefix: str, number: int, batch: list[bytes]) -> Shard:
    name = f"{prefix}/{shard_name(number)}"
    return write_lines(folder / name, batch, name)
