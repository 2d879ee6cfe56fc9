"""`everystep replay`: a stretch trained again from released bytes alone is the same, or the first step that differs."""

import json
import random
from contextlib import chdir, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.files import sha256_file
from pipeline.formats import checkpoints as ck
from pipeline.formats.digests import tensors_digest
from pipeline.formats.lines import LineFile, Shard
from pipeline.formats.rows import Row, decode_row
from pipeline.release.release import Release
from tests.project import recipe, run
from tests.releases import checkpoint, copied, edit_log, read_json, reseal, reseal_model, swap
from tests.shards import write_rows
from tests.trainer.runs import STEPS, make_run, train
from trainer import plain_rows
from trainer import replay as trainer_replay
from trainer.data import Checking, training_data
from trainer.recipe import load_recipe
from trainer.verified_rows import VerifiedRows

MODEL = "mobilellm"
CHUNKS = 3


def replay(release: Path, start: int, stop: int, *more: str, processes: str = "1", model: str = MODEL) -> Any:
    """The real command in its own processes, because it enters a numerics class."""
    command = ["everystep", "replay", release.name, "--model", model, "--from", str(start), "--to", str(stop), *more]
    return run(release.parent, *command, check=False, EVERYSTEP_PROCESSES=processes)


@pytest.mark.parametrize(("processes", "model"), [("1", "mobilellm"), ("2", "openelm")])
def test_a_stretch_comes_out_the_same(built_project: Path, processes: str, model: str) -> None:
    done = replay(built_project / "release", 2, 8, processes=processes, model=model)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"same: {model}, steps 2 to 8, 6 digests of all weights compared\n"


def test_replay_needs_the_release_alone_and_changes_nothing_in_it(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    before = {path: path.read_bytes() for path in release.rglob("*") if path.is_file()}
    done = replay(release, 0, 2, "--json")
    assert done.returncode == 0, done.stderr
    assert '"first_difference": null' in done.stdout
    assert {path: path.read_bytes() for path in release.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


@pytest.mark.long
def test_a_log_changed_by_an_attacker_who_recomputed_every_digest_is_found(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")

    def edit(entries: list[dict[str, Any]]) -> None:
        entries[6]["gradient_norm"] += 1e-9

    edit_log(release, MODEL, edit)
    reseal(release)
    assert run(tmp_path, "everystep", "verify", "release").returncode == 0  # no digest can tell
    done = replay(release, 4, 8)
    assert done.returncode == 1
    assert "first at step 7: gradient_norm" in done.stdout


@pytest.mark.long
def test_a_weight_that_is_a_little_off_in_the_log_too_is_found(built_project: Path, tmp_path: Path) -> None:
    """An edit within the reach of the optimizer, with which the log agrees, passes `verify`; only training again can
    tell."""
    release = copied(built_project / "release", tmp_path / "release")
    path = checkpoint(release, MODEL, 4) / ck.WEIGHTS
    tensors = ck.read_tensors(path)
    tensors["embedding.weight"] = np.add(tensors["embedding.weight"], 1e-6, dtype=np.float32)
    ck.write_tensors(path, tensors)
    edit_log(release, MODEL, lambda entries: entries[3].update(weights_digest=tensors_digest(tensors)))
    reseal_model(release, MODEL)
    reseal(release)
    assert run(tmp_path, "everystep", "verify", "release").returncode == 0
    done = replay(release, 1, 8)
    assert done.returncode == 1
    assert "first at step 4: weights_digest" in done.stdout


def test_rows_or_a_log_that_lack_something_are_refused_before_training(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    edit_log(release, MODEL, lambda entries: entries.pop(5))
    reseal(release)
    done = replay(release, 4, 8)
    assert done.returncode == 1
    assert f"runs/{MODEL}/log.jsonl: has no entry for step 6" in done.stderr
    (release / "data" / "tokens" / "train" / "000000.jsonl.zst").write_bytes(b"not rows")
    done = replay(release, 0, 1)
    assert done.returncode in (1, 2)
    assert "data/tokens/train/000000.jsonl.zst" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("start", "stop", "model", "named"),
    [
        (9, 12, MODEL, "stored are 0, 1, 2, 4, 8"),
        (4, 9, MODEL, "up to 8"),
        (4, 4, MODEL, "give a step after 4"),
        (0, 1, "gpt", "openelm"),
    ],
)
def test_a_step_without_a_state_is_misuse(built_project: Path, start: int, stop: int, model: str, named: str) -> None:
    done = replay(built_project / "release", start, stop, model=model)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def on_published_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that was trained on chunks of rows, as a release on LLM360's would be: nothing else is in it."""
    folder = tmp_path_factory.mktemp("project")
    data = recipe(MODEL)["data"] | {"layout": "llm360", "folder": "data/llm360", "global_batch": 4, "micro_batch": 2}
    make_run(folder, data=data, checkpoints=f"chunks {CHUNKS}")
    for path in (folder / "manifests" / "tokens.json", *(folder / "data" / "tokens" / "train").iterdir()):
        path.unlink()
    draw = random.Random(5)
    (folder / "data" / "llm360").mkdir()
    for number in range(CHUNKS):
        rows = [
            {"token_ids": [draw.randrange(320) for _ in range(33)], "source": "c4"} for _ in range(STEPS * 4 // CHUNKS)
        ]
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (folder / "data" / "llm360" / f"train_{number:03d}.jsonl").write_text(lines)
    train(folder)
    return folder


def test_a_training_on_published_rows_comes_out_the_same(on_published_rows: Path) -> None:
    done = replay(on_published_rows, 4, 12, "--json")
    assert done.returncode == 0, done.stderr
    assert '"first_difference": null' in done.stdout


HARMS = {"other rows": (1, "train_001.jsonl"), "a chunk more": (2, "4 chunks"), "other weights": (1, "step000004")}


@pytest.mark.parametrize("harm", HARMS)
def test_a_training_on_other_published_rows_is_told(on_published_rows: Path, tmp_path: Path, harm: str) -> None:
    project = copied(on_published_rows, tmp_path / "project")
    rows = project / "data" / "llm360"
    if harm == "other rows":
        lines = (rows / "train_001.jsonl").read_text().splitlines(keepends=True)
        (rows / "train_001.jsonl").write_text("".join(reversed(lines)))
    elif harm == "a chunk more":
        (rows / "train_003.jsonl").write_bytes((rows / "train_001.jsonl").read_bytes())
    else:
        swap(checkpoint(project, MODEL, 4) / "model.safetensors", checkpoint(project, MODEL, 8) / "model.safetensors")
    done = replay(project, 4, 12)
    code, named = HARMS[harm]
    assert done.returncode == code
    assert named in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("linked", ["the folder", "a file"])
def test_no_link_is_followed_to_published_rows(on_published_rows: Path, tmp_path: Path, linked: str) -> None:
    project = copied(on_published_rows, tmp_path / "project")
    path = project / "data" / "llm360"
    if linked == "a file":
        path /= "train_001.jsonl"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    done = replay(project, 4, 8)
    assert done.returncode == 4
    assert f"{path.relative_to(tmp_path)}: a symbolic link" in done.stderr


# What the audited folder says of itself


def believe(path: Path, cache: Path, sha256: str) -> None:
    """Have `.work/checked` say that the file at `path` has this digest, in every way in which it could."""
    shard = Shard(path="", lines=0, bytes=0, sha256=sha256)
    with suppress(EverystepError), LineFile(path) as file:
        key = VerifiedRows(path.parent, [shard], 33, 320)._key(file, shard)
        (cache / key[:2]).mkdir(parents=True, exist_ok=True)
        (cache / key[:2] / key[2:]).touch()
    if (cache / "files").is_dir():
        (cache / "files" / plain_rows._key(path)).write_text(sha256)


def test_rows_that_the_project_says_it_checked_are_checked_again(reference: Path, tmp_path: Path) -> None:
    project = copied(reference, tmp_path / "project")
    with chdir(tmp_path):
        path = Path("project/data/tokens/train/000000.jsonl.zst")
        shard = read_json(project / "manifests" / "tokens.json")["outputs"]["train"][0]
        write_rows(path.parent.parent, np.random.default_rng(8).integers(0, 320, (100, 33)), "train")
        believe(path, project / plain_rows.CHECKED, shard["sha256"])
        checking = Checking(folder=project / plain_rows.CHECKED)
        believed = training_data(Path("project"), *load_recipe(MODEL, project), checking).open()
        assert believed[0].shape == (33,)
    done = replay(project, 8, 9)
    assert done.returncode == 1
    assert "train/000000.jsonl.zst: its content is not what the manifests of this project promise" in done.stderr


def test_published_rows_that_the_project_says_it_checked_are_checked_again(
    on_published_rows: Path, tmp_path: Path
) -> None:
    project = copied(on_published_rows, tmp_path / "project")
    with chdir(tmp_path):
        path = Path("project/data/llm360/train_001.jsonl")
        digest = sha256_file(path)
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
        assert sha256_file(path) != digest
        for other in path.parent.iterdir():
            believe(other, project / plain_rows.CHECKED, digest if other == path else sha256_file(other))
        checking = Checking(folder=project / plain_rows.CHECKED)
        believed = training_data(Path("project"), *load_recipe(MODEL, project), checking)
        assert believed.shards[1].sha256 == digest
    done = replay(project, 4, 8)
    assert done.returncode == 1
    assert "train_001.jsonl: missing, or not the rows that mobilellm was trained on" in done.stderr


def test_a_replay_of_published_rows_reads_each_file_once_and_parses_no_other_row_than_it_trains_on(
    on_published_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    parsed: list[str] = []
    digest = plain_rows._digest

    def digested(task: Any) -> Any:
        read.append(task[0].name)
        return digest(task)

    def counted(line: bytes, width: int, vocabulary: int, where: str) -> Row:
        parsed.append(where)
        return decode_row(line, width, vocabulary, where)

    monkeypatch.setattr(plain_rows, "_digest", digested)
    monkeypatch.setattr(plain_rows, "decode_row", counted)
    recipe, spec = load_recipe(MODEL, on_published_rows)
    data = trainer_replay._rows_of_others(Release.open(on_published_rows), recipe, spec, tmp_path)
    assert (read, parsed) == ([f"train_{number:03d}.jsonl" for number in range(CHUNKS)], [])
    rows = data.open()
    for number in range(2):
        data.micro_batch_rows(rows, 4, number)
    assert len(set(parsed)) == len(parsed) == 4
