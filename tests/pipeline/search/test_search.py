"""The index answers what reading all rows would: places, counts, what follows, and all of it at a step."""

import hashlib
import math
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import write_bytes
from pipeline.base.paths import SEARCH
from pipeline.formats import search_index
from pipeline.formats.canonical import parse
from pipeline.formats.lines import LineFile, encode_line, write_lines
from pipeline.formats.manifests import Searchable, path_of
from pipeline.formats.order import rows_of_samples
from pipeline.search.answers import count, following, likelihoods
from pipeline.search.faults import search_faults
from pipeline.search.index import Index, open_index
from pipeline.search.timeline import NEVER, Stretch, Timeline, timeline_of
from pipeline.stages.search import sorted_suffixes
from tests.pipeline.formats import second_reader as second
from tests.pipeline.search.indexed import MODEL, STEPS, Brute, indexed, packed, queries
from tests.releases import copied, flip, read_json, unsealed, write_json
from tests.shards import read_lines

# vocabulary, ids of a row, rows, rows of a shard
KINDS = [(9, 6, 300, 300), (9, 33, 1500, 700), (300, 9, 2000, 300), (65536, 17, 600, 600), (100_000, 8, 400, 150)]
LONG = (40, 300, 60, 60)
"""Rows that share more ids than the tree of a node can say."""


class Case:
    """Rows, their index, and brute force."""

    def __init__(self, folder: Path, opened: ExitStack, kind: tuple[int, int, int, int], seed: int = 1) -> None:
        self.vocabulary, width, num_rows, per_shard = kind
        self.draw = random.Random(seed)
        self.rows = packed(self.draw, self.vocabulary, width, num_rows)
        self.release = indexed(folder, self.rows, self.vocabulary, per_shard)
        self.brute = Brute(self.rows)
        self.index: Index = opened.enter_context(open_index(self.release))

    def compare(self, number: int) -> None:
        """Ask `number` questions of both."""
        for ids in queries(self.draw, self.rows, self.vocabulary, number):
            step = self.draw.randrange(STEPS + 1)
            timeline = timeline_of(self.release, MODEL, step)
            found, places = self.index.find(ids), self.brute.places(ids)
            assert found.count == len(places), ids
            rows, offsets = self.index.rows(found)
            assert sorted(zip(rows.tolist(), offsets.tolist(), strict=True)) == places, ids
            at_step = count(self.index, ids, timeline)
            assert at_step.reads == self.brute.count(ids, step), (ids, step)
            assert at_step.places_read == sum(self.brute.reads[step][row] > 0 for row, _ in places), (ids, step)
            length = self.index.longest(ids)
            assert not length or self.brute.places(ids[:length]), ids
            assert length == len(ids) or not self.brute.places(ids[: length + 1]), ids
            assert self.index.ends(ids) == sum(offset + len(ids) == self.index.width for _, offset in places), ids


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("kind", [*KINDS, LONG], ids=str)
def test_places_counts_and_steps_are_those_of_brute_force(
    tmp_path: Path, opened: ExitStack, kind: tuple[int, int, int, int]
) -> None:
    """Borders of rows and documents, repeated documents, moved middles, takedowns; small nodes would hide nothing."""
    Case(tmp_path, opened, kind).compare(60)


@pytest.mark.long
@pytest.mark.parametrize("kind", [*KINDS, LONG], ids=str)
def test_ten_thousand_questions_are_answered_as_by_brute_force(
    tmp_path: Path, opened: ExitStack, kind: tuple[int, int, int, int]
) -> None:
    Case(tmp_path, opened, kind, seed=2).compare(1 + 10_000 // (len(KINDS) + 1))


@pytest.mark.parametrize("kind", KINDS[:3], ids=str)
def test_what_follows_is_what_brute_force_sees_follow(
    tmp_path: Path, opened: ExitStack, kind: tuple[int, int, int, int]
) -> None:
    """The longest end of the context that something follows, with each id as often as it does."""
    case = Case(tmp_path, opened, kind)
    for ids in queries(case.draw, case.rows, case.vocabulary, 12):
        for step in (None, 3):
            timeline = None if step is None else timeline_of(case.release, MODEL, step)
            found = following(case.index, ids, timeline, limit=10**6)
            used = next(ids[i:] for i in range(len(ids) + 1) if case.brute.following(ids[i:], step))
            expected = case.brute.following(used, step)
            assert found.used == used
            assert {one.id: one.count for one in found.shown} == expected
            assert found.total == expected.total() and found.different == len(expected)
            assert math.isclose(sum(one.probability for one in found.shown), 1)


@pytest.mark.parametrize("step", [None, 4])
def test_a_text_is_as_probable_as_its_longest_contexts_say(tmp_path: Path, opened: ExitStack, step: int | None) -> None:
    case = Case(tmp_path, opened, (12, 12, 200, 80))
    timeline = None if step is None else timeline_of(case.release, MODEL, step)
    for ids in queries(case.draw, case.rows, case.vocabulary, 12):
        for i, one in enumerate(likelihoods(case.index, ids, timeline)):
            contexts = (ids[start:i] for start in range(i + 1))
            context = next(c for c in contexts if case.brute.following(c, step))
            expected = case.brute.following(context, step)
            assert (one.used, one.count, one.total) == (len(context), expected[ids[i]], expected.total())


def test_a_timeline_says_when_a_row_was_read_first_last_and_how_often() -> None:
    """Also of a model that goes on from another, with another order, in the middle of an epoch."""
    draw = random.Random(0)
    for _ in range(100):
        num_rows, batch, at = draw.randrange(1, 30), draw.randrange(1, 12), 0
        stretches, read = [], []
        for _ in range(draw.randrange(1, 4)):
            start, steps, seed = draw.randrange(3 * num_rows), draw.randrange(8), draw.randrange(2)
            stretches.append(Stretch(at, batch, seed, start, start + steps * batch))
            for step in range(steps):
                begin = start + step * batch
                read += [(at + step + 1, row) for row in rows_of_samples(begin, begin + batch, num_rows, seed).tolist()]
            at += steps
        timeline, rows = Timeline("m", at, num_rows, tuple(stretches)), np.arange(num_rows)
        steps_of = [[step for step, row in read if row == number] for number in range(num_rows)]
        assert timeline.reads(rows).tolist() == [*map(len, steps_of)]
        assert timeline.first_steps(rows).tolist() == [steps[0] if steps else NEVER for steps in steps_of]
        assert timeline.last_steps(rows).tolist() == [steps[-1] if steps else NEVER for steps in steps_of]


@pytest.mark.parametrize("vocabulary", [3, 255, 256, 65535, 65536, 70000])
def test_suffixes_are_sorted_as_python_sorts_them(vocabulary: int) -> None:
    rows = np.random.default_rng(vocabulary).integers(0, vocabulary, (60, 7)).astype(np.uint32)
    rows[30:] = rows[:30]
    rows[0] = vocabulary - 1
    ended = [id for row in rows.tolist() for id in [*(id + 1 for id in row), 0]]
    expected = sorted(range(rows.size), key=lambda place: ended[place + place // 7 :])
    assert sorted_suffixes(rows, vocabulary).tolist() == expected


@pytest.mark.parametrize("kind", [(9, 6, 2100, 2100), (70_000, 20, 450, 450), (8, 300, 30, 30)], ids=str)
def test_every_byte_is_what_the_document_of_formats_says(tmp_path: Path, kind: tuple[int, int, int, int]) -> None:
    """As a second reader writes it who knows only that document: several nodes, and suffixes that share much."""
    vocabulary, width, num_rows, _ = kind
    rows = packed(random.Random(8), vocabulary, width, num_rows)
    folder = indexed(tmp_path, rows, vocabulary).folder / SEARCH
    order, ids, nodes, table = second.search_index(rows.tolist(), vocabulary)
    assert sorted_suffixes(rows.astype(np.uint32), vocabulary).tolist() == order
    assert (folder / "000000.ids").read_bytes() == ids
    assert (folder / "000000.nodes").read_bytes() == nodes
    assert [parse(line) for line in read_lines(folder / "000000.jsonl.zst")] == table


def test_how_rows_are_cut_into_shards_changes_no_answer(tmp_path: Path) -> None:
    rows = packed(random.Random(3), 20, 10, 500)
    asked = queries(random.Random(4), rows, 20, 50)
    answers = []
    for number in (500, 250, 17):
        with open_index(indexed(tmp_path / str(number), rows, 20, number)) as index:
            answers.append([(index.find(ids).count, index.longest(ids)) for ids in asked])
            assert [index.row(row) for row in (0, 16, 17, 499)] == rows[[0, 16, 17, 499]].tolist()
    assert answers[0] == answers[1] == answers[2]


def test_an_index_takes_six_bytes_a_token_at_most(tmp_path: Path) -> None:
    """Of a vocabulary up to 65,536: two for the id, three for the place, the rest for trees, digests and the table."""
    rows = packed(random.Random(5), 2000, 65, 3000)
    release = indexed(tmp_path, rows, 2000)
    size = sum(path.stat().st_size for path in (release.folder / SEARCH).iterdir())
    assert 5.5 < size / rows.size < 6


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "release"
    indexed(folder, packed(random.Random(6), 30, 12, 900), 30, 500)
    return folder


def test_the_index_of_a_build_has_no_fault(small: Path) -> None:
    assert [*search_faults(unsealed(small))] == []


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("kind", ["ids", "nodes"])
def test_an_index_of_which_every_digest_fits_is_still_compared_with_the_rows(
    small: Path, tmp_path: Path, kind: str, place: float
) -> None:
    folder = copied(small, tmp_path / "release")
    flip(folder / SEARCH / f"000000.{kind}", place)
    refit(folder)
    (fault, *_) = search_faults(unsealed(folder))
    assert f"000000.{kind}" in fault


def test_swapped_suffixes_and_a_wrong_table_are_faults(small: Path, tmp_path: Path) -> None:
    folder = copied(small, tmp_path / "release")
    nodes = folder / SEARCH / "000000.nodes"
    content = bytearray(nodes.read_bytes())
    content[-3:], content[-6:-3] = content[-6:-3], content[-3:]
    write_bytes(nodes, bytes(content))
    refit(folder)
    (fault,) = search_faults(unsealed(folder))
    assert "not in order" in fault
    other = indexed(tmp_path / "other", packed(random.Random(7), 30, 12, 900), 30, 500)
    folder = copied(small, tmp_path / "again")
    write_bytes(folder / SEARCH / "000000.jsonl.zst", (other.folder / SEARCH / "000000.jsonl.zst").read_bytes())
    faults = [*search_faults(unsealed(folder))]
    assert faults and all("000000.jsonl.zst" in fault for fault in faults)


def test_bytes_that_are_not_the_promised_ones_are_never_used(small: Path, tmp_path: Path) -> None:
    folder = copied(small, tmp_path / "release")
    for kind in ("ids", "nodes"):
        flip(folder / SEARCH / f"000000.{kind}", 0.01)
    with open_index(unsealed(folder)) as index, pytest.raises(Differs, match="block 0 is not what its table promises"):
        index.find([7, 8])


def test_an_index_of_other_rows_is_refused(small: Path, tmp_path: Path) -> None:
    for key, value in {"places": 12, "width": 13, "vocabulary": 31}.items():
        folder = copied(small, tmp_path / key)
        path = folder / path_of(Searchable)
        write_json(path, read_json(path) | {key: value})
        with pytest.raises(Differs, match="is not an index of the rows"), open_index(unsealed(folder)):
            pass


def test_ids_outside_the_vocabulary_are_refused(small: Path) -> None:
    with open_index(unsealed(small)) as index:
        for ids in ([30], [-1], [3, 10**9]):
            with pytest.raises(EverystepError, match=r"outside the vocabulary, whose ids are 0\.\.29"):
                index.find(ids)


def refit(folder: Path) -> None:
    """Make each table fit the files beside it, as somebody who alters an index can."""
    manifest = read_json(folder / path_of(Searchable))
    for ids in manifest["outputs"]["ids"]:
        name = ids["path"].removesuffix(".ids")
        table = folder / SEARCH / f"{name}.jsonl.zst"
        with LineFile(table) as file:
            blocks = [block.to_json() for block in search_index.parse_table(file, table)]
        places = ids["lines"] * manifest["width"]
        text, nodes = ((folder / SEARCH / f"{name}.{kind}").read_bytes() for kind in ("ids", "nodes"))
        at = 0
        for number, block in enumerate(blocks):
            suffixes = min(search_index.NODE, places - number * search_index.NODE)
            end = at + search_index.node_bytes(suffixes, 2)
            part = text[number * search_index.NODE * 2 : (number + 1) * search_index.NODE * 2]
            block |= {
                "ids_sha256": hashlib.sha256(part).hexdigest(),
                "node_sha256": hashlib.sha256(nodes[at:end]).hexdigest(),
            }
            at = end
        write_lines(table, map(encode_line, blocks), table.name)
