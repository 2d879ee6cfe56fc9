"""The probability of one language by fastText's model, from sums over runs: enough where a text is clearly in it.

The library (`pipeline.blocks.language`) looks up every n-gram of every word again. What a word adds to the model's
hidden vector depends on the word alone, so it is remembered here for each distinct run, and a text is a sum of rows.
The sums are in another order than the library's, and so are their roundings: what is computed here is within `MARGIN`
of what the library says, and decides nothing nearer to a threshold.

Format of the model: `dictionary.cc`, `quantmatrix.cc` and `loss.cc` of fastText 0.9 (Joulin et al. 2016); it holds
arguments, dictionary, product-quantized input matrix and output matrix, for a softmax over a Huffman tree.
"""

import re
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import int8, uint32
from numpy.typing import NDArray

from pipeline.blocks.runs import Numbers, Runs, grown
from pipeline.blocks.shingles import Bytes, compiled

MARGIN = 0.01
"""Bound on the difference to the library's probability; the largest that was seen is in docs/benchmarks.md."""
MAGIC, VERSION = 793712314, 12
HIERARCHICAL_SOFTMAX = 1
END, LABEL = b"</s>", b"__label__"
SURROGATE = re.compile("[\ud800-\udfff]")
CENTROIDS = 256
COUNT = -1  # column of the number of rows that were added

Rows = NDArray[np.float32]
Vectors = NDArray[np.float64]


class Model(NamedTuple):
    """Parts of the model that a prediction needs."""

    rows: Rows
    """Input matrix: words, then the n-grams that were not pruned."""
    words: dict[bytes, int]
    row_of_bucket: NDArray[np.int32]
    """Row of the n-grams with a hash, or -1."""
    sizes: tuple[int, int]
    """Least and most characters of an n-gram."""
    paths: dict[str, tuple[Rows, Vectors]]
    """For each language the output rows on its path, and -1 or 1 for each: left or right."""


class Identifier:
    """Vectors of the runs that were seen, and the probability of a text's language from them."""

    def __init__(self, path: Path) -> None:
        self._model = read_model(path)
        self._forget()

    @property
    def codes(self) -> Collection[str]:
        """Languages that the model knows."""
        return self._model.paths.keys()

    def _forget(self) -> None:
        self._runs = Runs()
        self._known = 0
        self._vectors = np.zeros((1 << 10, self._model.rows.shape[1] + 1), dtype=np.float32)

    def probability(self, sample: str, code: str) -> float:
        """Compute the probability that a sample of one line is in the language `code`; not a number if unknown."""
        if self._runs.is_full:
            self._forget()
        numbers = self._runs.number(sample)
        if self._known < len(self._runs):
            self._learn()
        return _probability(numbers, self._vectors, self._model.rows[0], *self._model.paths[code])

    def _learn(self) -> None:
        """Embed the runs that are new."""
        model = self._model
        runs = self._runs.since(self._known)
        words = [run.encode("utf-8", "surrogatepass") for run in runs]
        if len(self._runs) > len(self._vectors):
            self._vectors = grown(self._vectors, 2 * len(self._runs))
        vectors = self._vectors[self._known : len(self._runs)]
        marked = np.frombuffer(b"".join([b"<%b>" % word for word in words]), dtype=np.uint8)
        stops = np.cumsum([len(word) + 2 for word in words])
        rows = np.array([model.words.get(word, -1) for word in words])
        _embed(marked, stops, rows, model.rows, len(model.words), model.row_of_bucket, *model.sizes, vectors)
        odd = [
            b"\0" in word or word == END or word.startswith(LABEL) or SURROGATE.search(run) is not None
            for run, word in zip(runs, words, strict=True)
        ]
        vectors[odd] = np.nan  # these mean something else to the library
        self._known = len(self._runs)


@compiled
def _embed(
    marked: Bytes,
    stops: Numbers,
    rows_W: Numbers,
    rows: Rows,
    first: int,
    row_of_bucket: NDArray[np.int32],
    least: int,
    most: int,
    vectors: Rows,
) -> None:
    """Sum the rows of each word and of its n-grams, which are those of `Dictionary::computeSubwords`."""
    start = 0
    for w in range(len(stops)):
        vectors[w] = 0
        if rows_W[w] >= 0:
            _add(vectors[w], rows[rows_W[w]])
        for i in range(start, stops[w]):
            if marked[i] & 0xC0 == 0x80:
                continue
            value: Any = uint32(2166136261)
            j = i
            for n in range(1, most + 1):
                if j == stops[w]:
                    break
                value = _hashed(value, marked[j])
                j += 1
                while j < stops[w] and marked[j] & 0xC0 == 0x80:
                    value = _hashed(value, marked[j])
                    j += 1
                if n >= least and not (n == 1 and (i == start or j == stops[w])):
                    found = row_of_bucket[value % uint32(len(row_of_bucket))]
                    if found >= 0:
                        _add(vectors[w], rows[first + found])
        start = stops[w]


@compiled
def _hashed(value: Any, byte: int) -> Any:
    """Take one byte, as a signed one, into the hash."""
    return uint32((value ^ uint32(int8(byte))) * uint32(16777619))


@compiled
def _add(vector: Rows | Vectors, row: Rows) -> None:
    for d in range(len(row)):
        vector[d] += row[d]
    vector[COUNT] += 1


@compiled
def _probability(numbers: Numbers, vectors: Rows, end: Rows, path: Rows, signs: Vectors) -> float:
    hidden = np.zeros(vectors.shape[1])
    _add(hidden, end)
    for number in numbers:
        for d in range(len(hidden)):
            hidden[d] += vectors[number, d]
    probability = 1.0
    for p in range(len(path)):
        score = 0.0
        for d in range(path.shape[1]):
            score += hidden[d] * path[p, d]
        probability /= 1 + np.exp(-signs[p] * score / hidden[COUNT])
    return probability


def read_model(path: Path) -> Model:
    """Read a quantized model."""
    reader = _Reader(path.read_bytes())
    magic, version = reader.take("2i")
    dimension, _, _, _, _, word_n_grams, loss, _, buckets, least, most, _, _ = reader.take("12id")
    size, num_words, _, _, pruned = reader.take("3i2q")
    assert (magic, version, word_n_grams, loss) == (MAGIC, VERSION, 1, HIERARCHICAL_SOFTMAX)
    entries = [(reader.text(), *reader.take("qb")) for _ in range(size)]
    row_of_bucket = np.full(buckets, -1, dtype=np.int32)
    bucket_P, row_P = reader.array("<i4", 2 * pruned).reshape(-1, 2).T
    row_of_bucket[bucket_P] = row_P
    rows = _read_quantized(reader, dimension)
    (quantized,) = reader.take("?")
    assert not quantized
    num_rows, columns = reader.take("2q")
    output = reader.array("<f4", num_rows * columns).reshape(num_rows, columns)
    labels = [word.removeprefix(LABEL).decode() for word, _, _ in entries[num_words:]]
    return Model(
        rows,
        {word: number for number, (word, _, _) in enumerate(entries[:num_words])},
        row_of_bucket,
        (least, most),
        _paths(labels, [count for _, count, _ in entries[num_words:]], output),
    )


class _Reader:
    """Little-endian values, one after another."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._place = 0

    def take(self, form: str) -> tuple[Any, ...]:
        values = struct.unpack_from("<" + form, self._content, self._place)
        self._place += struct.calcsize("<" + form)
        return values

    def text(self) -> bytes:
        end = self._content.index(b"\0", self._place)
        text, self._place = self._content[self._place : end], end + 1
        return text

    def array(self, kind: str, count: int) -> NDArray[Any]:
        array = np.frombuffer(self._content, kind, count, self._place)
        self._place += array.nbytes
        return array


def _read_quantized(reader: _Reader, dimension: int) -> Rows:
    """Read a product-quantized matrix with quantized norms, and give it in full."""
    quantized, with_norms = reader.take("2?")
    num_rows, columns = reader.take("2q")
    (num_codes,) = reader.take("i")
    assert quantized and with_norms and columns == dimension
    codes = reader.array("u1", num_codes).reshape(num_rows, -1)
    _, parts, width, last = reader.take("4i")
    assert width == last and parts * width == dimension
    centroids = reader.array("<f4", parts * CENTROIDS * width).reshape(parts, CENTROIDS, width)
    norm_codes = reader.array("u1", num_rows)
    reader.take("4i")
    norms = reader.array("<f4", CENTROIDS)
    rows = centroids[np.arange(parts), codes].reshape(num_rows, dimension)
    scaled: Rows = rows * norms[norm_codes][:, None]
    return scaled


def _paths(labels: list[str], counts: list[int], output: Rows) -> dict[str, tuple[Rows, Vectors]]:
    """Build the Huffman tree as `HierarchicalSoftmaxLoss::buildTree` does, with labels from the most common on."""
    leaves = len(labels)
    counts = counts + [10**15] * (leaves - 1)
    parent: dict[int, tuple[int, float]] = {}
    leaf, node = leaves - 1, leaves
    for inner in range(leaves, 2 * leaves - 1):
        children = []
        for _ in range(2):
            if leaf >= 0 and counts[leaf] < counts[node]:
                children.append(leaf)
                leaf -= 1
            else:
                children.append(node)
                node += 1
        counts[inner] = sum(counts[child] for child in children)
        parent |= {children[0]: (inner, -1.0), children[1]: (inner, 1.0)}
    paths = {}
    for number, label in enumerate(labels):
        way, signs = [], []
        at = number
        while at in parent:
            at, sign = parent[at]
            way.append(at - leaves)
            signs.append(sign)
        paths[label] = (output[way], np.array(signs))
    return paths
