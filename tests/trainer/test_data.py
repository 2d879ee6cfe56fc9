"""Training data: three layouts read in their order, and bad rows found before the first step."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from threading import Event
from typing import NamedTuple

import numpy as np
import pytest

from pipeline.base.errors import Differs, EverystepError
from pipeline.formats import rows as rows_format
from pipeline.formats.lines import LineFile
from pipeline.formats.order import permute, rows_of_step
from pipeline.formats.rows import Row, decode_row
from pipeline.release.release import Release
from tests.releases import flip, read_json
from tests.trainer.corpora import (
    SEED,
    VOCABULARY,
    WIDTH,
    load,
    numbered,
    train,
    write_ours,
    write_plain,
    write_recipe,
)
from trainer import plain_rows
from trainer.data import Checking, EverystepData, Llm360Data, TrainingData, training_data
from trainer.recipe import load_recipe
from trainer.replay import _own_rows
from trainer.verified_rows import VerifiedRows


def numbers_of(data: TrainingData, step: int, number: int) -> list[int]:
    """The numbers that the rows of a micro-batch tell."""
    rows = data.micro_batch_rows(data.open(), step, number)
    assert rows.shape == (data.section.micro_batch, WIDTH) and rows.dtype == np.int64
    return [int(row[0]) * VOCABULARY + int(row[1]) for row in rows]


def step_of(data: TrainingData, step: int) -> list[int]:
    return [n for number in range(data.section.num_micro_batches) for n in numbers_of(data, step, number)]


# Ours


def test_our_rows_come_in_the_published_order(tmp_path: Path) -> None:
    write_ours(tmp_path, numbered(70))
    write_recipe(tmp_path, "everystep")
    data = load(tmp_path, "everystep")
    assert [step_of(data, step) for step in range(20)] == [rows_of_step(s, 8, 70, SEED).tolist() for s in range(20)]


SHARDS = 12


@pytest.fixture
def many_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of twelve shards of 64 rows; a step reads 8 of these 768 rows."""
    monkeypatch.setattr("tests.shards.ROWS_PER_SHARD", 64)
    write_ours(tmp_path, numbered(64 * SHARDS))
    write_recipe(tmp_path, "everystep")
    return tmp_path


def verified(project: Path) -> VerifiedRows:
    rows = load(project, "everystep").open()
    assert isinstance(rows, VerifiedRows)
    return rows


def shard_path(project: Path, number: int) -> Path:
    return project / "data" / "tokens" / rows_format.row_shard("train", number)


class Read(NamedTuple):
    """The names of files that were opened and of those that were digested, each time."""

    opened: list[str]
    digested: list[str]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    found = Read([], [])
    begin, digest = LineFile.__init__, LineFile.digest

    def opened(file: LineFile, path: Path) -> None:
        found.opened.append(path.name)
        begin(file, path)

    def digested(file: LineFile) -> tuple[int, int, str]:
        found.digested.append(file.path.name)
        return digest(file)

    monkeypatch.setattr(LineFile, "__init__", opened)
    monkeypatch.setattr(LineFile, "digest", digested)
    return found


def test_a_start_opens_no_shard_of_ours(many_shards: Path, read: Read) -> None:
    data = load(many_shards, "everystep")
    assert len(data.shards) == SHARDS
    data.open()
    assert read == Read([], [])


def test_a_step_digests_the_shards_that_it_reads_each_once_and_no_other(many_shards: Path, read: Read) -> None:
    data = load(many_shards, "everystep")
    assert isinstance(data, EverystepData)
    rows = data.open()
    seen: set[int] = set()
    for step in range(6):
        wanted = rows_of_step(step, 8, 64 * SHARDS, SEED).tolist()
        assert [
            int(row[0]) * VOCABULARY + int(row[1]) for n in range(4) for row in data.micro_batch_rows(rows, step, n)
        ] == wanted
        seen |= {row // 64 for row in wanted}
        assert sorted(read.digested) == sorted(shard_path(many_shards, shard).name for shard in seen)
        assert data.shards_of_steps(0, step + 1) == sorted(seen)
    assert 4 < len(seen) <= SHARDS


def test_a_replay_digests_only_the_shards_of_its_stretch_each_once(
    many_shards: Path, tmp_path: Path, read: Read
) -> None:
    recipe, spec = load_recipe("everystep", many_shards)
    found = tmp_path / "found"
    data = _own_rows(Release.open(many_shards), recipe, spec, found, [range(2, 3)], [])
    needed = sorted({row // 64 for row in rows_of_step(2, 8, 64 * SHARDS, SEED).tolist()})
    assert sorted(read.digested) == [shard_path(many_shards, shard).name for shard in needed]
    for _ in range(2):  # processes
        step_of(data, 2)
    assert len(read.digested) == len(needed) < SHARDS
    assert not (many_shards / plain_rows.CHECKED).exists()


def test_a_later_start_digests_only_what_changed_or_was_not_read(many_shards: Path, read: Read) -> None:
    everything = range(64 * SHARDS)
    verified(many_shards).check(everything)
    assert len(read.digested) == SHARDS
    verified(many_shards).check(everything)
    assert len(read.digested) == SHARDS
    touched, replaced = shard_path(many_shards, 3), shard_path(many_shards, 5)
    os.utime(touched)
    aside = replaced.with_name("aside")
    shutil.copy2(replaced, aside)
    aside.replace(replaced)  # the same bytes and times in another file
    verified(many_shards).check(everything)
    assert sorted(read.digested[SHARDS:]) == [touched.name, replaced.name]


@pytest.mark.parametrize("place", [0.02, 0.5, 0.98])
@pytest.mark.parametrize("shard", range(0, SHARDS, 4))
def test_a_flipped_byte_is_found_before_a_row_of_its_shard_is_used(many_shards: Path, shard: int, place: float) -> None:
    flip(shard_path(many_shards, shard), place)
    data = load(many_shards, "everystep")
    rows = data.open()
    used: set[int] = set()
    with pytest.raises(EverystepError, match=rf"train/{shard:06d}\.jsonl\.zst: "):
        for step in range(96):
            numbers = data.row_numbers(step, 0).tolist()
            data.micro_batch_rows(rows, step, 0)
            used |= {number // 64 for number in numbers}
    assert shard not in used


def test_another_shard_of_good_rows_is_found_by_name_before_its_rows_are_used(many_shards: Path) -> None:
    shard_path(many_shards, 3).write_bytes(shard_path(many_shards, 4).read_bytes())
    rows = verified(many_shards)
    rows.check(range(64 * 3))
    with pytest.raises(Differs, match=r"train/000003\.jsonl\.zst: the manifest promises 64 lines with sha256"):
        rows[64 * 3]


def test_a_shard_that_is_replaced_after_it_was_digested_is_digested_again(many_shards: Path) -> None:
    rows = verified(many_shards)
    rows.check(range(64 * SHARDS))
    shard_path(many_shards, 4).with_name("aside").write_bytes(shard_path(many_shards, 3).read_bytes())
    shard_path(many_shards, 4).with_name("aside").replace(shard_path(many_shards, 4))
    assert rows[64 * 5].shape == (WIDTH,)
    with pytest.raises(Differs, match=r"train/000004\.jsonl\.zst"):
        rows[64 * 4]


def test_a_missing_shard_is_named_at_the_start(many_shards: Path) -> None:
    shard_path(many_shards, 7).rename(shard_path(many_shards, 99))
    with pytest.raises(EverystepError, match=r"train/000007\.jsonl\.zst: no such file; .*tokens\.json lists it"):
        load(many_shards, "everystep")


def test_a_bad_row_that_the_manifest_promises_stops_the_step_that_reads_it(tmp_path: Path) -> None:
    write_ours(tmp_path, [*numbered(69), [VOCABULARY] * WIDTH])
    write_recipe(tmp_path, "everystep")
    data = load(tmp_path, "everystep")
    with pytest.raises(EverystepError, match=r"train/000000\.jsonl\.zst:70: a token id outside 0\.\.319"):
        for step in range(9):
            step_of(data, step)


# LLM360


def chunks_of(project: Path, *counts: int, name: str = "train_{:03d}.jsonl") -> None:
    """Chunks with these numbers of rows, numbered through."""
    first = 0
    for chunk, count in enumerate(counts):
        write_plain(project / "data" / "llm360" / name.format(chunk), numbered(count, first), source="c4")
        first += count


@pytest.mark.parametrize("name", ["train_{:03d}.jsonl", "train_{}.jsonl"])
def test_chunks_are_read_one_after_the_other_each_in_its_keyed_order(tmp_path: Path, name: str) -> None:
    counts = [17, 19, 16, *[16] * 9]  # two steps of 8 each; 12 chunks: train_10 sorts before train_2 as a name
    chunks_of(tmp_path, *counts, name=name)
    write_recipe(tmp_path, "llm360", "chunks 12", steps=24)
    data = load(tmp_path, "llm360")
    for chunk, count in enumerate(counts):
        order = permute(np.arange(16, dtype=np.uint64), count, SEED, chunk).astype(int) + sum(counts[:chunk])
        assert step_of(data, 2 * chunk) + step_of(data, 2 * chunk + 1) == order.tolist()
    assert data.counts() == {"rows": sum(counts), "dropped_rows": 1 + 3}


def test_checkpoints_follow_chunks(tmp_path: Path) -> None:
    chunks_of(tmp_path, 24, 25, 26)
    recipe = write_recipe(tmp_path, "llm360", "chunks 3", steps=9)
    data = load(tmp_path, "llm360")
    assert isinstance(data, Llm360Data)
    assert recipe.checkpoint_steps == [0, 3, 6, 9]
    for chunk, (step, first) in enumerate(zip(recipe.checkpoint_steps, (0, 24, 49), strict=False)):
        seen = {n for s in range(step, step + 3) for n in step_of(data, s)}
        assert len(seen) == 24 and min(seen) >= first and max(seen) < first + 24 + chunk


def test_a_step_does_not_depend_on_the_steps_before(tmp_path: Path) -> None:
    """The shuffle of MobiLlama's loader does: its generator is seeded once for each start of the job."""
    chunks_of(tmp_path, 24, 24)
    write_recipe(tmp_path, "llm360", steps=6)
    straight = [step_of(load(tmp_path, "llm360"), step) for step in range(6)]
    data = load(tmp_path, "llm360")
    assert [step_of(data, step) for step in reversed(range(6))] == straight[::-1]


@pytest.mark.parametrize(
    ("counts", "checkpoints", "steps", "named"),
    [
        ((16, 16), "chunks 3", 6, "'chunks 3', but data/llm360 holds 2 chunks"),
        ((16, 24), "chunks 2", 4, "the 24 rows of data/llm360/train_001.jsonl make 3 steps of 8"),
        ((16, 16), "chunks 2", 6, "are 3 a chunk, but the 16 rows of data/llm360/train_000.jsonl make 2 steps"),
        ((16, 17), "every 2", 5, "steps: 5, but the chunks in data/llm360 hold 4 steps of 8 rows"),
    ],
)
def test_chunks_that_do_not_fit_the_recipe_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...], checkpoints: str, steps: int, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    chunks_of(Path(), *counts)
    write_recipe(Path(), "llm360", checkpoints, steps=steps)
    with pytest.raises(EverystepError, match=rf"^recipes/llm360\.yaml: .*{named}"):
        load(Path(), "llm360")


def test_a_missing_or_double_or_compressed_chunk_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "llm360"
    write_recipe(tmp_path, "llm360")
    with pytest.raises(EverystepError, match="data/llm360: no such folder"):
        load(tmp_path, "llm360")
    folder.mkdir(parents=True)
    with pytest.raises(EverystepError, match=r"the first would be train_000\.jsonl"):
        load(tmp_path, "llm360")
    chunks_of(tmp_path, 16, 16, 16)
    (folder / "train_001.jsonl").rename(folder / "train_003.jsonl")
    with pytest.raises(EverystepError, match="number 1 is missing; there are 0, 2, 3"):
        load(tmp_path, "llm360")
    (folder / "train_003.jsonl").rename(folder / "train_02.jsonl")
    with pytest.raises(EverystepError, match=r"train_002\.jsonl and train_02\.jsonl have the same number"):
        load(tmp_path, "llm360")
    (folder / "train_02.jsonl").rename(folder / "train_001.jsonl.zst")
    with pytest.raises(EverystepError, match=r"train_001\.jsonl\.zst: .*decompress it first"):
        load(tmp_path, "llm360")


# MobileLLM


def published_loader(base: Path, node: int, local_rank: int) -> Iterator[list[int]]:
    """What a rank of the published trainer reads, line by line, for ever (reference/systems.md, 1c)."""
    (file,) = (base / str(node)).glob("*.jsonl")
    while True:
        for n, line in enumerate(file.read_text().splitlines()):
            if n % 8 == local_rank:
                yield json.loads(line)["token_ids"]


def nodes_of(project: Path, *counts: int) -> Path:
    for node, count in enumerate(counts, start=1):
        write_plain(project / "data" / "mobilellm" / str(node) / f"rows-{node}.jsonl", numbered(count, 100 * node))
    return project / "data" / "mobilellm"


@pytest.mark.parametrize("micro_batch", [1, 3])
@pytest.mark.parametrize("counts", [(16,), (8, 40), (17, 31), (29, 8, 23)])
def test_ranks_read_what_the_published_loader_gives_them(
    tmp_path: Path, counts: tuple[int, ...], micro_batch: int
) -> None:
    """With files that end in the middle of a round of ranks, and many times around."""
    base = nodes_of(tmp_path, *counts)
    write_recipe(tmp_path, "mobilellm", global_batch=8 * len(counts) * micro_batch, micro_batch=micro_batch)
    data = load(tmp_path, "mobilellm")
    rows = data.open()
    ranks = [published_loader(base, node + 1, rank) for node in range(len(counts)) for rank in range(8)]
    for step in range(12):
        for number, rank in enumerate(ranks):
            expected = list(islice(rank, micro_batch))
            assert data.micro_batch_rows(rows, step, number).tolist() == expected


def test_ten_folders_are_read_by_number_not_by_name(tmp_path: Path) -> None:
    nodes_of(tmp_path, *[8] * 10)
    write_recipe(tmp_path, "mobilellm", global_batch=80, micro_batch=1)
    assert numbers_of(load(tmp_path, "mobilellm"), 0, 8 * 9) == [1000]


def test_folders_without_exactly_one_file_are_refused(tmp_path: Path) -> None:
    base = nodes_of(tmp_path, 8, 8)
    write_recipe(tmp_path, "mobilellm", global_batch=16, micro_batch=1)
    write_plain(base / "2" / "another.jsonl", numbered(8))
    with pytest.raises(EverystepError, match=r"mobilellm/2: exactly one .* found another\.jsonl, rows-2\.jsonl"):
        load(tmp_path, "mobilellm")
    for path in (base / "2").iterdir():
        path.unlink()
    with pytest.raises(EverystepError, match=r"mobilellm/2: exactly one .* found none"):
        load(tmp_path, "mobilellm")
    (base / "2").rename(base / "3")
    with pytest.raises(EverystepError, match="number 2 is missing; there are 1, 3"):
        load(tmp_path, "mobilellm")


def test_a_global_batch_that_is_not_that_of_the_ranks_is_refused(tmp_path: Path) -> None:
    nodes_of(tmp_path, 8, 8)
    write_recipe(tmp_path, "mobilellm", global_batch=16, micro_batch=2)
    with pytest.raises(EverystepError, match=r"global_batch: 16 is declared; 2 folders of 8 ranks .* make 32"):
        load(tmp_path, "mobilellm")


def test_a_file_that_leaves_a_rank_without_rows_is_refused(tmp_path: Path) -> None:
    nodes_of(tmp_path, 7)
    write_recipe(tmp_path, "mobilellm", global_batch=8, micro_batch=1)
    with pytest.raises(EverystepError, match=r"rows-1\.jsonl: 7 rows; each of 8 ranks needs one"):
        load(tmp_path, "mobilellm")


# Refused before the first step

GOOD = json.dumps({"token_ids": numbered(1)[0]}).encode()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (json.dumps({"token_ids": [1] * (WIDTH - 1)}).encode(), "a row of 32 ids; 33 are declared"),
        (json.dumps({"token_ids": [1] * (WIDTH + 1)}).encode(), "a row of 34 ids; 33 are declared"),
        (json.dumps({"token_ids": [VOCABULARY] + [1] * (WIDTH - 1)}).encode(), r"a token id outside 0\.\.319"),
        (json.dumps({"token_ids": [-1] + [1] * (WIDTH - 1)}).encode(), r"a token id outside 0\.\.319"),
        (GOOD.replace(b", 1,", b", 01,", 1), "not a row"),
        (GOOD.replace(b", 1,", b", 1.0,", 1), "not a row"),
        (GOOD.replace(b", 1,", b", true,", 1), "not a row"),
        (GOOD.replace(b", 1,", b", , 1,", 1), "not a row"),
        (GOOD.replace(b"]", b",]"), "not a row"),
        (GOOD.replace(b"]}", b'], "source": c4}'), "not a row"),
        (GOOD.replace(b"]}", b'], "token_ids": []}'), "a row of 0 ids"),
        (GOOD + b" more", "not a row"),
        (GOOD[:-1], "not a row"),
        (GOOD.replace(b"token_ids", b"tokens"), "not a row"),
        (b"", "not a row"),
        (b"\xff" + GOOD, "not a row"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(tmp_path: Path, line: bytes, named: str) -> None:
    path = tmp_path / "data" / "llm360" / "train_000.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes((GOOD + b"\n") * 16 + line + b"\n" + (GOOD + b"\n") * 16)
    write_recipe(tmp_path, "llm360")
    with pytest.raises(EverystepError, match=rf"train_000\.jsonl:17: {named}"):
        load(tmp_path, "llm360")
    assert not list((tmp_path / plain_rows.CHECKED).glob(f"*/{plain_rows.READY}"))


@pytest.mark.parametrize(
    "line",
    [
        GOOD.replace(b", ", b","),
        GOOD.replace(b": ", b" : ").replace(b", ", b" , "),
        GOOD + b"\r",
        b'{"source": ["]", {"token_ids": [9]}], ' + GOOD[1:],
        GOOD.replace(b"]}", b'], "source": "\\"]\\u00e9"}'),
    ],
)
def test_a_row_is_the_same_however_its_json_is_written(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "data" / "llm360" / "train_000.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes((line + b"\n") * 32)
    write_recipe(tmp_path, "llm360")
    assert load(tmp_path, "llm360").open()[31].tolist() == numbered(1)[0]


def test_a_last_line_may_lack_its_end_but_not_more(tmp_path: Path) -> None:
    chunks_of(tmp_path, 32)
    write_recipe(tmp_path, "llm360")
    path = tmp_path / "data" / "llm360" / "train_000.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert load(tmp_path, "llm360").open()[31].tolist() == numbered(32)[31]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EverystepError, match=r"train_000\.jsonl:32: the last line is cut off"):
        load(tmp_path, "llm360")
    path.write_bytes(b"")
    with pytest.raises(EverystepError, match=r"train_000\.jsonl: is empty"):
        load(tmp_path, "llm360")


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    """Half a gigabyte without a line feed, in a process that may take 100 MB more than it has."""
    folder = tmp_path / "data" / "llm360"
    folder.mkdir(parents=True)
    with (folder / "train_000.jsonl").open("wb") as file:
        file.write((GOOD + b"\n") * 3 + b'{"token_ids": [')
        file.truncate(1 << 29)  # zeros, and sparse
    write_recipe(tmp_path, "llm360")
    code = (
        "import resource; from pathlib import Path; from tests.trainer.corpora import load\n"
        "used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)\n"
        f"load(Path({str(tmp_path)!r}), 'llm360')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert "train_000.jsonl:4: a line of more than" in done.stderr.splitlines()[-1]


# Once


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The places of all lines that were parsed by the check, as it goes on."""
    places: list[str] = []

    def counted(line: bytes, width: int, vocabulary: int, where: str) -> Row:
        places.append(where)
        return decode_row(line, width, vocabulary, where)

    monkeypatch.setattr(plain_rows, "decode_row", counted)
    return places


def test_a_second_start_digests_and_parses_nothing(tmp_path: Path, parsed: list[str]) -> None:
    chunks_of(tmp_path, 16, 17)
    write_recipe(tmp_path, "llm360")
    first = load(tmp_path, "llm360")
    assert len(parsed) == 33
    assert load(tmp_path, "llm360") == first
    assert len(parsed) == 33
    offsets = [np.load(path) for path in sorted((tmp_path / plain_rows.CHECKED).glob("*.npy"), key=str)]
    assert sorted(len(array) - 1 for array in offsets) == [16, 17]


def test_only_a_changed_file_is_parsed_again_whatever_it_is_called(tmp_path: Path, parsed: list[str]) -> None:
    chunks_of(tmp_path, 16, 16)
    write_recipe(tmp_path, "llm360")
    before = load(tmp_path, "llm360").identity()
    folder = tmp_path / "data" / "llm360"
    one, two = folder / "train_000.jsonl", folder / "train_001.jsonl"
    one.rename(folder / "aside")
    two.rename(one)
    (folder / "aside").rename(two)
    assert load(tmp_path, "llm360").identity() != before
    assert len(parsed) == 32
    content = bytearray(two.read_bytes())
    content[content.index(b"5")] = ord("6")  # the same size and, as far as it matters, the same time
    two.write_bytes(content)
    load(tmp_path, "llm360")
    assert len(parsed) == 48 and all("train_001.jsonl" in place for place in parsed[32:])


def test_a_check_goes_on_where_it_stopped(tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few rows; the check is interrupted in the third one."""
    monkeypatch.setattr(plain_rows, "PIECE", 1000)
    monkeypatch.setattr(plain_rows, "_processes", lambda num_bytes: 1)
    chunks_of(tmp_path, 32)
    write_recipe(tmp_path, "llm360")
    parse = plain_rows._parse

    def interrupted(piece: plain_rows.Piece) -> None:
        if piece.first > 10:
            raise KeyboardInterrupt
        parse(piece)

    monkeypatch.setattr(plain_rows, "_parse", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, "llm360")
    before = len(parsed)
    monkeypatch.setattr(plain_rows, "_parse", parse)
    load(tmp_path, "llm360")
    assert 8 < before < 32
    assert len(parsed) == len(set(parsed)) == 32


def test_files_are_checked_by_several_processes_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks_of(tmp_path, 16, 17, 24)
    write_recipe(tmp_path, "llm360")
    alone = load(tmp_path, "llm360").shards
    shutil.rmtree(tmp_path / plain_rows.CHECKED)
    monkeypatch.setattr(plain_rows, "PIECE", 1500)
    monkeypatch.setattr(plain_rows, "_processes", lambda num_bytes: 2)
    before = {*multiprocessing.active_children()}
    assert load(tmp_path, "llm360").shards == alone
    path = tmp_path / "data" / "llm360" / "train_002.jsonl"
    path.write_bytes(path.read_bytes().replace(b"]}", b",1]}").replace(b'], "source"', b', 1], "source"'))
    with pytest.raises(EverystepError, match=r"train_002\.jsonl:1: a row of 34 ids"):
        load(tmp_path, "llm360")
    assert {*multiprocessing.active_children()} <= before


def test_a_rank_that_waits_finds_what_another_checked_and_gives_up_when_nothing_comes(
    tmp_path: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks_of(tmp_path, 16, 17)
    recipe = write_recipe(tmp_path, "llm360")
    checking = Checking(folder=tmp_path / plain_rows.CHECKED, waits=True)
    spec = load_recipe("llm360", tmp_path)[1]
    monkeypatch.setattr(plain_rows, "SECONDS_TO_WAIT", 0.5)
    with pytest.raises(EverystepError, match="data/llm360: the process that checks these rows has shown no sign"):
        training_data(tmp_path, recipe, spec, checking)
    assert parsed == []
    found = load(tmp_path, "llm360")
    assert training_data(tmp_path, recipe, spec, checking) == found
    assert len(parsed) == 33


def test_a_rank_waits_as_long_as_the_check_of_another_shows_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of one file takes four times as long as a rank would wait without a sign."""
    chunks_of(tmp_path, 32)
    recipe = write_recipe(tmp_path, "llm360")
    spec = load_recipe("llm360", tmp_path)[1]
    monkeypatch.setattr(plain_rows, "SECONDS_TO_WAIT", 0.5)
    monkeypatch.setattr(plain_rows, "SECONDS_BETWEEN_BEATS", 0.05)
    digest, began = plain_rows._digest, Event()

    def slow(task: tuple[Path, int, Path]) -> None:
        began.set()
        time.sleep(2)
        digest(task)

    monkeypatch.setattr(plain_rows, "_digest", slow)
    with ThreadPoolExecutor(1) as other:
        checked = other.submit(load, tmp_path, "llm360")
        assert began.wait(timeout=60)
        checking = Checking(folder=tmp_path / plain_rows.CHECKED, waits=True)
        assert training_data(tmp_path, recipe, spec, checking) == checked.result()


def test_a_file_that_changes_after_its_check_is_not_read(tmp_path: Path) -> None:
    chunks_of(tmp_path, 16, 17)
    write_recipe(tmp_path, "llm360")
    rows = load(tmp_path, "llm360").open()
    path = tmp_path / "data" / "llm360" / "train_001.jsonl"
    path.write_bytes(path.read_bytes().replace(b" 1, ", b" 2, "))
    assert rows[15].shape == (WIDTH,)
    with pytest.raises(Differs, match=r"train_001\.jsonl: changed since its rows were checked"):
        rows[16]


def test_another_vocabulary_is_another_question(tmp_path: Path) -> None:
    chunks_of(tmp_path, 16, 16)
    write_recipe(tmp_path, "llm360")
    load(tmp_path, "llm360")
    path = tmp_path / "recipes" / "llm360.yaml"
    path.write_text(path.read_text().replace('"vocabulary": 320', '"vocabulary": 40'))
    with pytest.raises(EverystepError, match=r"a token id outside 0\.\.39"):
        load(tmp_path, "llm360")


# Training on them


def cut_after(project: Path, name: str, steps: int) -> Path:
    """Train, then take back what came after some steps, as a kill would have left it."""
    train(project, name)
    (work,) = [path for path in (project / ".work" / "train" / name).iterdir() if path.is_dir()]
    for path in work.glob("step*"):
        if int(path.name[4:10]) > steps:
            for file in sorted(path.rglob("*"), reverse=True):
                file.unlink()
            path.rmdir()
    return work


def test_a_started_run_is_neither_continued_nor_replaced_on_other_bytes(tmp_path: Path) -> None:
    chunks_of(tmp_path, 16, 16)
    write_recipe(tmp_path, "llm360", "chunks 2")
    work = cut_after(tmp_path, "llm360", 2)
    path = tmp_path / "data" / "llm360" / "train_001.jsonl"
    right = path.read_bytes()
    write_plain(path, numbered(16, first=500))
    kept = sorted(work.rglob("*"))
    done = train(tmp_path, "llm360", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"error: data/llm360: not the bytes of the run that has reached step 2 in {work.relative_to(tmp_path)}: "
        "train_001.jsonl. Put them back to go on with it, or remove that folder to start over"
    )
    assert sorted(work.rglob("*")) == kept
    path.write_bytes(right)
    assert "llm360: goes on from step 2" in train(tmp_path, "llm360").stderr


def test_rebuilt_rows_of_ours_begin_a_new_run_and_say_so(tmp_path: Path) -> None:
    write_ours(tmp_path, numbered(70))
    write_recipe(tmp_path, "everystep")
    work = cut_after(tmp_path, "everystep", 2)
    write_ours(tmp_path, numbered(71))
    done = train(tmp_path, "everystep")
    assert f"run at step 2 in {work.relative_to(tmp_path)} is not continued, because its data changed" in done.stderr
    assert not work.exists()


def test_the_manifest_of_a_run_names_the_files_it_read(tmp_path: Path) -> None:
    from pipeline.base.files import sha256_file

    base = nodes_of(tmp_path, 9, 10)
    write_recipe(tmp_path, "mobilellm", global_batch=16, micro_batch=1)
    train(tmp_path, "mobilellm", EVERYSTEP_PROCESSES="2")
    inputs = read_json(tmp_path / "manifests" / "models" / "mobilellm.json")["inputs"]
    assert inputs == {
        path: sha256_file(tmp_path / path)
        for path in (
            "data/mobilellm/1/rows-1.jsonl",
            "data/mobilellm/2/rows-2.jsonl",
            "recipes/mobilellm.yaml",
        )
    }
    assert base.is_dir()


def test_bad_rows_cost_no_step(tmp_path: Path) -> None:
    chunks_of(tmp_path, 16, 16)
    write_recipe(tmp_path, "llm360", "chunks 2")
    path = tmp_path / "data" / "llm360" / "train_001.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    done = train(tmp_path, "llm360", check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: data/llm360/train_001.jsonl:16: the last line is cut off")
    assert not (tmp_path / "runs").exists() and not (tmp_path / ".work" / "train").exists()
