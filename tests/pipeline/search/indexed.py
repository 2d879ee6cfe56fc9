"""Rows with their index, as the stage `search` writes it, and a model that was trained on them; and brute force."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.base.paths import SEARCH, TOKENS
from pipeline.formats.manifests import RecipeParameters, Searchable, Tokens, Trained
from pipeline.formats.order import rows_of_step
from pipeline.release.release import Release
from pipeline.stages.search import cuts_of, write_cut
from tests.project import recipe
from tests.releases import unsealed
from tests.shards import write_rows
from tests.stubs import least_of, write_stub

END, PREFIX, SUFFIX, MIDDLE, FILLER = range(5)
"""Ids that no text has: the end of a document, the sentinels of fill-in-the-middle, the filler of a takedown."""
MODEL, SEED, STEPS, GLOBAL_BATCH = "small", 5, 20, 7


def packed(draw: random.Random, vocabulary: int, width: int, num_rows: int) -> NDArray[np.int64]:
    """Rows of documents, each with its end token, cut wherever a row is full. Some documents come several times, some
    with their middle at the end, and of some a span was taken down. Shape (rows, width)."""
    documents: list[list[int]] = []
    stream: list[int] = []
    while len(stream) < num_rows * width:
        if documents and draw.random() < 0.3:
            document = draw.choice(documents)
        else:
            length, letters = draw.choice([1, 3, width - 1, width, 3 * width]), draw.choice([1, 2, vocabulary - 5])
            document = [draw.randrange(5, 5 + letters) for _ in range(length)]
        if len(document) > 2 and draw.random() < 0.2:
            a, b = sorted(draw.sample(range(1, len(document)), 2))
            document = [PREFIX, *document[:a], SUFFIX, *document[b:], MIDDLE, *document[a:b]]
        if draw.random() < 0.1:
            document = document[:1] + [FILLER] * (len(document) - 1)
        documents.append(document)
        stream += [*document, END]
    return np.array(stream[: num_rows * width]).reshape(num_rows, width)


def indexed(folder: Path, rows: NDArray[np.int64], vocabulary: int, rows_per_shard: int | None = None) -> Release:
    """A release of these rows with their index, in shards of `rows_per_shard` rows, and a model of `STEPS` steps."""
    num_rows, width = rows.shape
    train = write_rows(folder / TOKENS, list(rows), "train")
    splits = least_of(Tokens)["splits"]
    splits["train"]["rows"] = num_rows
    facts = {"width": width, "vocabulary": vocabulary}
    parameters = {"context": width - 1, "seed": SEED}
    write_stub(Tokens, parameters=parameters, outputs={"train": train}, root=folder, splits=splits, **facts)
    outputs: dict[str, list[object]] = {"ids": [], "nodes": [], "tables": []}
    for cut in cuts_of(train, rows_per_shard or num_rows):
        written = write_cut(cut, folder=folder / SEARCH, rows=folder / TOKENS, width=width, vocabulary=vocabulary)
        for name, shard in written.items():
            outputs[name].append(shard)
    write_stub(Searchable, outputs=outputs, root=folder, places=rows.size, **facts)  # type: ignore[arg-type]
    tree = recipe("mobilellm")
    tree["data"] |= {"seed": SEED, "global_batch": GLOBAL_BATCH, "width": width}
    tree["schedule"] |= {"steps": STEPS}
    learned = RecipeParameters.from_json({key: tree[key] for key in tree}, "recipe").to_json()
    write_stub(Trained, MODEL, parameters=learned, root=folder)
    return unsealed(folder)


class Brute:
    """The rows, read from one end to the other for each question."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self.rows = rows
        self.width = rows.shape[1]
        self.reads = [Counter[int]()]
        """How often each row was read, at each step."""
        for step in range(STEPS):
            read = rows_of_step(step, GLOBAL_BATCH, len(rows), SEED).tolist()
            self.reads.append(self.reads[-1] + Counter(read))

    def places(self, ids: Sequence[int]) -> list[tuple[int, int]]:
        """Row and offset of each place."""
        stops = max(0, self.width - len(ids) + 1)
        if not ids:
            stops = self.width
        fits = np.ones((len(self.rows), stops), dtype=np.bool_)
        for i, id in enumerate(ids):
            fits &= self.rows[:, i : i + stops] == id
        return [(row, offset) for row, offset in np.argwhere(fits).tolist()]

    def count(self, ids: Sequence[int], step: int | None = None) -> int:
        """How often `ids` are there; at a step, how often they had been read."""
        return sum(1 if step is None else self.reads[step][row] for row, _ in self.places(ids))

    def following(self, ids: Sequence[int], step: int | None = None) -> Counter[int]:
        """What follows `ids` in a row, and how often."""
        found: Counter[int] = Counter()
        for row, offset in self.places(ids):
            at = offset + len(ids)
            if at < self.width:
                found[int(self.rows[row, at])] += 1 if step is None else self.reads[step][row]
        return +found


def queries(draw: random.Random, rows: NDArray[np.int64], vocabulary: int, number: int) -> list[list[int]]:
    """Runs of the rows (also whole rows, and runs over the border between two, which no row has), some with an id
    changed, and random ones."""
    num_rows, width = rows.shape
    stream = rows.ravel().tolist()
    found = []
    for _ in range(number):
        length = draw.choice([1, 1, 2, 3, 5, width // 2, width - 1, width])
        start = draw.randrange(len(stream) - length + 1)
        if draw.random() < 0.3:
            start = draw.randrange(num_rows) * width + draw.choice([0, width - length])
        ids = stream[start : start + length]
        kind = draw.random()
        if kind < 0.3:
            ids[draw.randrange(length)] = draw.choice([0, vocabulary - 1, draw.randrange(vocabulary)])
        elif kind < 0.4:
            ids = [draw.randrange(vocabulary) for _ in range(length)]
        elif kind < 0.5:
            ids = [draw.choice([END, FILLER, SUFFIX, vocabulary - 1])] * length
        found.append(ids)
    return found
