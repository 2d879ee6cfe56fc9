"""`everystep export tokens`: our rows as other trainers' files, and the same training from either."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.files import list_files, sha256_file
from pipeline.formats.order import rows_of_step
from tests.releases import everystep
from tests.trainer.corpora import SEED, WIDTH, load, numbered, train, write_ours, write_recipe

ROWS = 70


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_ours(tmp_path, numbered(ROWS))
    return tmp_path


def exported(project: Path, layout: str, *more: str) -> Path:
    out = project / "data" / layout
    done = everystep("export", "tokens", project, "--layout", layout, "--out", out, *more)
    assert done.code == 0, done.said
    return out


def read(path: Path) -> list[list[int]]:
    return [json.loads(line)["token_ids"] for line in path.read_text().splitlines()]


def test_each_node_has_one_plain_file_in_which_ranks_take_turns(project: Path) -> None:
    out = exported(project, "mobilellm", "--nodes", "2", "--global-batch", "32")
    assert list_files(out) == ["1/train.jsonl", "2/train.jsonl"]
    rows = numbered(ROWS)
    for node in range(2):
        lines = read(out / str(node + 1) / "train.jsonl")
        expected = []
        for step in range(ROWS // 32):
            order = rows_of_step(step, 32, ROWS, SEED).tolist()
            ranks = [order[(8 * node + rank) * 2 :][:2] for rank in range(8)]  # two rows for each
            expected += [rows[ranks[rank][turn]] for turn in range(2) for rank in range(8)]
        assert lines == expected


def test_chunks_part_the_rows_and_leave_out_what_fills_no_step(project: Path) -> None:
    done = everystep("export", "tokens", project, "--layout", "llm360", "--chunks", "3", "--out", project / "out")
    assert done.out == (
        f"{project / 'out'}: 69 rows in 3 files, 69 steps of 1; 1 rows of the epoch are left out\n"
        f"a recipe reads it with layout: llm360, width: {WIDTH}, seed: {SEED}, global_batch: 1\n"
        "the trainers of Amber and MobiLlama read it with TRAIN_EXAMPLES_PER_CHUNK = 23, N_CHUNKS = 3\n"
    )
    chunks = [read(project / "out" / f"train_{chunk:03d}.jsonl") for chunk in range(3)]
    order = rows_of_step(0, 69, ROWS, SEED).reshape(3, 23).tolist()
    rows = numbered(ROWS)
    assert [sorted(chunk) for chunk in chunks] == [sorted(rows[number] for number in part) for part in order]


def test_one_digit_gives_the_names_that_ambers_trainer_opens(project: Path) -> None:
    """f'{TRAIN_DATA_DIR}/train_{chunk_idx}.jsonl', where MobiLlama's has `:03d`; the lines are the same."""
    out, padded = exported(project, "llm360", "--chunks", "12", "--digits", "1"), project / "padded"
    everystep("export", "tokens", project, "--layout", "llm360", "--chunks", "12", "--out", padded)
    for chunk in range(12):
        assert (out / f"train_{chunk}.jsonl").read_bytes() == (padded / f"train_{chunk:03d}.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("layout", "more"),
    [("mobilellm", ("--nodes", "1", "--steps", "12")), ("llm360", ("--chunks", "3", "--global-batch", "8"))],
)
def test_what_is_exported_is_read_in_the_published_order(project: Path, layout: str, more: tuple[str, ...]) -> None:
    """Past the end of the epoch too, if that many steps were asked for."""
    exported(project, layout, *more)
    steps = 12 if layout == "mobilellm" else 6
    reading: dict[str, Any] = {"global_batch": 8, "micro_batch": 1}
    write_recipe(project, "everystep", steps=steps, **reading)
    write_recipe(project, layout, steps=steps, **reading)
    ours, theirs = load(project, "everystep"), load(project, layout)
    opened = ours.open(), theirs.open()
    for step in range(steps):
        for number in range(8):
            expected = ours.micro_batch_rows(opened[0], step, number)
            assert (theirs.micro_batch_rows(opened[1], step, number) == expected).all(), (step, number)


def test_the_same_weights_come_from_our_rows_and_from_either_export(project: Path) -> None:
    exported(project, "mobilellm", "--nodes", "1")
    exported(project, "llm360", "--chunks", "2", "--global-batch", "8", "--steps", "4")
    logs = []
    for layout in ("everystep", "mobilellm", "llm360"):
        write_recipe(project, layout, "chunks 2", global_batch=8, micro_batch=1)
        train(project, layout)
        logs.append((project / "runs" / layout / "log.jsonl").read_text())
    assert len(set(logs)) == 1
    assert json.loads(logs[0].splitlines()[-1])["weights_digest"]


def test_exporting_twice_gives_the_same_bytes(project: Path) -> None:
    for layout, more in (("mobilellm", ("--nodes", "2")), ("llm360", ("--chunks", "4"))):
        one = exported(project, layout, *more)
        before = {path: sha256_file(one / path) for path in list_files(one)}
        one.rename(one.with_name(f"{layout}-before"))
        assert {path: sha256_file(one / path) for path in list_files(exported(project, layout, *more))} == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--layout mobilellm", "give --nodes with --layout mobilellm"),
        ("--layout mobilellm --nodes 1 --chunks 1", "give --nodes with --layout mobilellm"),
        ("--layout llm360 --nodes 1", "--chunks with --layout llm360"),
        ("--layout mobilellm --nodes 2 --global-batch 8", "--global-batch 8: not a multiple of 16"),
        ("--layout mobilellm --nodes 9", "70 rows do not fill one step of 72"),
        ("--layout llm360 --chunks 71", "--chunks 71: 70 steps of 1 rows do not divide"),
        ("--layout llm360 --chunks 3 --steps 4", "--chunks 3: 4 steps of 1 rows do not divide"),
    ],
)
def test_what_cannot_be_exported_is_refused(project: Path, options: str, named: str) -> None:
    done = everystep("export", "tokens", project, "--out", project / "out", *options.split())
    assert done.code == 2 and named in done.err
    assert not (project / "out").exists() and "Traceback" not in done.err


def test_an_export_replaces_nothing_and_takes_no_rows_that_nobody_promised(project: Path, tmp_path: Path) -> None:
    out = exported(project, "llm360", "--chunks", "2")
    again = everystep("export", "tokens", project, "--layout", "llm360", "--chunks", "2", "--out", out)
    assert again.code == 2 and "already exists" in again.err
    other = tmp_path / "other"
    write_ours(other, numbered(ROWS, first=1))
    shard = "data/tokens/train/000000.jsonl.zst"
    (project / shard).write_bytes((other / shard).read_bytes())
    done = everystep("export", "tokens", project, "--layout", "llm360", "--chunks", "2", "--out", project / "new")
    assert done.code == 1 and shard in done.err
    assert not (project / "new").exists()
