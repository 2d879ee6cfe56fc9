"""A release that is elsewhere: what moves, what is compared, what is said. Real servers on this machine."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.verify import verify
from pipeline.base.errors import Differs, EverystepError
from pipeline.formats.release import ROOT, SUMS
from pipeline.release import mirror
from pipeline.release.notices import PLACE as NOTICE
from pipeline.release.release import Release
from pipeline.stores import download
from tests.project import ROOT as CHECKOUT
from tests.releases import copied, everystep, flip
from tests.servers.faults import ALWAYS, Faults
from tests.servers.web import Web, serve_folder

MODEL, STEP, REVISION = "mobilellm", 4, "step000004-tokens1024"
WEIGHTS = f"runs/{MODEL}/{REVISION}/model.safetensors"
INDEX = "data/tokens/train.parquet"


@pytest.fixture
def released(built_project: Path) -> Path:
    return built_project / "release"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and short waits between attempts."""
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for module in (download, mirror):
        monkeypatch.setattr(module, "FIRST_WAIT_SECONDS", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def web(released: Path) -> Iterator[Web]:
    with serve_folder(released) as server:
        yield server


def paths(web: Web) -> list[str]:
    return [request.path.lstrip("/") for request in web.counted.requests]


def mirror_folder(cache: Path, released: Path) -> Path:
    return cache / "releases" / hashlib.sha256((released / ROOT).read_bytes()).hexdigest()


def test_a_pulled_checkpoint_moves_itself_the_root_and_what_proves_the_way_between(
    web: Web, released: Path, tmp_path: Path
) -> None:
    done = everystep("pull", web.url, "--model", MODEL, "--step", str(STEP), "--out", tmp_path / "out")
    assert done.code == 0, done.said
    here = everystep("pull", released, "--model", MODEL, "--step", str(STEP), "--out", tmp_path / "here")
    assert here.code == 0
    for file in sorted((tmp_path / "here").iterdir()):
        assert (tmp_path / "out" / file.name).read_bytes() == file.read_bytes(), file.name
    asked = set(paths(web))
    moved = asked - {NOTICE}
    assert NOTICE in asked  # and there is none
    state = {path for path in moved if path.startswith("runs/")}
    assert state == {f"runs/{MODEL}/{REVISION}/{name}" for name in ("config.json", "model.safetensors", "record.json")}
    proofs = {
        ROOT,
        f"manifests/models/{MODEL}.json",
        "data/tokenizer/tokenizer.json",
        "LICENSE",
        "NOTICE",
        "params.yaml",
    }
    sources = {f"manifests/sources/{name}.json" for name in ("letters", "notes", "tales")}
    assert moved <= state | proofs | sources
    assert web.counted.sent() == sum((released / path).stat().st_size for path in moved)


def test_what_was_fetched_is_not_fetched_again(web: Web, released: Path) -> None:
    first = Release.open(web.url)
    first.state(MODEL, STEP).weights()
    web.counted.clear()
    again = Release.open(web.url)
    again.state(MODEL, STEP).weights()
    assert paths(web) == [ROOT]


def test_every_command_that_takes_a_folder_takes_an_address(web: Web, released: Path, tmp_path: Path) -> None:
    of_step = ["--model", MODEL, "--step", "3", "--json"]
    for command in (["show", "--json"], ["trace", *of_step], ["duplicates", "--json"], ["personal-data", "--json"]):
        there = everystep(command[0], web.url, *command[1:])
        here = everystep(command[0], released, *command[1:])
        assert (there.code, here.code) == (0, 0), there.said
        theirs, ours = json.loads(there.out), json.loads(here.out)
        if command[0] == "show":
            assert theirs.pop("bytes") is None and ours.pop("bytes") > 0
            assert theirs.pop("files") >= ours.pop("files")
        assert theirs == ours, command
    averaged = everystep("average", web.url, "--model", MODEL, "--last", "2", "--out", tmp_path / "mean")
    assert averaged.code == 0, averaged.said
    rows: list[str | Path] = ["tokens", web.url, "--layout", "mobilellm", "--nodes", "1", "--out", tmp_path / "rows"]
    assert everystep("export", *rows).code == 0


@pytest.mark.parametrize("arguments", [["replay", "--from", "4", "--to", "6"], ["sample", "--step", "8"]])
def test_the_trainer_reads_a_release_elsewhere(web: Web, cache: Path, arguments: list[str]) -> None:
    """In a process of its own: the class of numerics may start the program again."""
    command = [sys.executable, "-m", "pipeline.cli", arguments[0], web.url, "--model", MODEL, *arguments[1:]]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    moved = set(paths(web))
    assert not [path for path in moved if path.startswith("runs/openelm") or path == INDEX]


def test_a_step_is_traced_by_the_row_groups_that_hold_it(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index of the small project has one row group; formats/test_index_groups.py has many."""
    with serve_folder(released) as web:
        found = everystep("trace", web.url, "--model", MODEL, "--step", "2", "--json")
        here = everystep("trace", released, "--model", MODEL, "--step", "2", "--json")
        assert json.loads(found.out) == json.loads(here.out)
        of_index = [request for request in web.counted.requests if request.path.endswith("train.parquet")]
        assert 0 < len(of_index) <= 4
        assert all(request.status == 206 for request in of_index)


def test_a_changed_row_group_is_found(released: Path, tmp_path: Path) -> None:
    folder = copied(released, tmp_path / "copy")
    content = bytearray((folder / INDEX).read_bytes())
    content[200] ^= 1
    (folder / INDEX).write_bytes(content)
    with serve_folder(folder) as web:
        found = everystep("trace", web.url, "--model", MODEL, "--step", "2", "--json")
    assert found.code != 0
    assert "train.parquet" in found.err


def test_a_whole_release_is_verified_elsewhere(web: Web, released: Path) -> None:
    report = verify(web.url)
    assert (report.faults, report.others, report.exit_code) == ([], [], 0)
    assert report.root_sha256 == hashlib.sha256((released / ROOT).read_bytes()).hexdigest()


def test_what_is_wrong_elsewhere_is_told_file_by_file(released: Path, tmp_path: Path) -> None:
    folder = copied(released, tmp_path / "copy")
    (folder / "NOTICE").write_bytes(b"another notice\n")
    (folder / WEIGHTS).unlink()
    with serve_folder(folder) as web:
        report = verify(web.url)
    assert report.exit_code == 1
    assert sorted(fault.partition(": ")[0] for fault in report.faults) == ["NOTICE", WEIGHTS]
    assert any("missing" in fault for fault in report.faults)


def test_a_connection_that_breaks_is_gone_on_with(released: Path) -> None:
    size = (released / WEIGHTS).stat().st_size
    faults = Faults(cut={WEIGHTS: [size // 2]}, busy={"record.json": [503, 429]})
    with serve_folder(released, faults) as web:
        Release.open(web.url).state(MODEL, STEP).weights()
        of_weights = [request for request in web.counted.requests if request.path.endswith(WEIGHTS)]
        assert [request.sent for request in of_weights] == [size // 2, size - size // 2]


def test_a_server_without_ranges_is_good_enough(released: Path) -> None:
    faults = Faults(cut={WEIGHTS: [1000]})
    with serve_folder(released, faults, plain=True) as web:
        Release.open(web.url).state(MODEL, STEP).weights()


def test_wrong_bytes_once_are_asked_for_again_and_wrong_bytes_always_are_refused(released: Path, cache: Path) -> None:
    with serve_folder(released, Faults(wrong={WEIGHTS: 1})) as web:
        Release.open(web.url).state(MODEL, STEP).weights()
    shutil.rmtree(cache)
    with serve_folder(released, Faults(wrong={WEIGHTS: ALWAYS})) as web:
        with pytest.raises(Differs, match=r"its content is not what release\.json promises; nothing of it was kept"):
            Release.open(web.url).state(MODEL, STEP).weights()
        assert not [path for path in mirror_folder(cache, released).rglob("*model.safetensors*") if path.is_file()]


def test_damage_in_the_cache_is_fetched_again(web: Web, released: Path, cache: Path) -> None:
    Release.open(web.url).file(WEIGHTS)
    kept = mirror_folder(cache, released) / WEIGHTS
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    Release.open(web.url).file(WEIGHTS)
    assert kept.read_bytes() == (released / WEIGHTS).read_bytes()


def test_a_server_that_is_gone_is_named_and_the_part_so_far_is_kept(released: Path, cache: Path) -> None:
    size = (released / WEIGHTS).stat().st_size
    faults = Faults(cut={WEIGHTS: [size // 2]}, busy={})
    with serve_folder(released, faults) as web:
        release = Release.open(web.url)
        assert release.state(MODEL, STEP).record.revision == REVISION  # its files come
        faults.busy[WEIGHTS] = []
        faults.cut[WEIGHTS] = [size // 2, 0, 0, 0, 0, 0]
        with pytest.raises(EverystepError, match="the connection broke 5 times"):
            release.file(WEIGHTS)
        web.counted.clear()
        faults.cut.clear()
        Release.open(web.url).file(WEIGHTS)
        assert sum(request.sent for request in web.counted.requests if request.path.endswith(WEIGHTS)) < size


def test_a_full_disk_is_said_and_nothing_is_lost(released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with serve_folder(released) as web:
        release = Release.open(web.url)
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(EverystepError, match="the disk is full; free some room"):
            release.file(WEIGHTS)
        monkeypatch.setattr(os, "fsync", real)
        assert Release.open(web.url).file(WEIGHTS).read_bytes() == (released / WEIGHTS).read_bytes()


def test_a_redirect_elsewhere_brings_promised_bytes_or_nothing(released: Path, tmp_path: Path) -> None:
    other = copied(released, tmp_path / "other")
    flip(other / WEIGHTS, 0.5)
    with serve_folder(released) as right, serve_folder(other) as wrong, serve_folder(released) as web:
        web.faults.moved[WEIGHTS] = wrong.url
        with pytest.raises(Differs, match="its content is not what"):
            Release.open(web.url).file(WEIGHTS)
        web.faults.moved[WEIGHTS] = right.url
        Release.open(web.url).file(WEIGHTS)
    faults = Faults(moved={"LICENSE": "ftp://127.0.0.1:9"})
    with serve_folder(released, faults) as web, pytest.raises(EverystepError, match="is not allowed"):
        Release.open(web.url).file("LICENSE")


@pytest.mark.parametrize("command", [["show"], ["verify"], ["verify", "--metadata"]])
def test_a_server_that_is_not_there_is_named(command: list[str]) -> None:
    done = everystep(command[0], "http://127.0.0.1:9/demo", *command[1:])
    assert done.code == 2
    assert "http://127.0.0.1:9/demo/release.json: the connection broke 5 times" in done.err


def test_an_address_without_a_release_is_named(tmp_path: Path) -> None:
    with (
        serve_folder(tmp_path) as web,
        pytest.raises(EverystepError, match=r"has no release\.json; correct the address"),
    ):
        Release.open(f"{web.url}/nowhere")


def test_a_checkpoint_on_a_web_server_sends_nobody_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "everystep.json").write_text('{"release_address": "http://127.0.0.1:9", "root_sha256": "0"}')
    with serve_folder(tmp_path) as web, pytest.raises(EverystepError, match="give the address of its release"):
        Release.open(web.url)


def test_a_path_in_a_root_manifest_cannot_leave_the_cache(released: Path, tmp_path: Path) -> None:
    folder = copied(released, tmp_path / "copy")
    root = json.loads((folder / ROOT).read_bytes())
    root["files"]["../../escaped"] = {"kind": "file", "digest": hashlib.sha256(b"x").hexdigest()}
    (folder / ROOT).write_text(json.dumps(root))
    with serve_folder(folder) as web, pytest.raises(EverystepError, match="not a plain relative path"):
        Release.open(web.url).file("../../escaped")


def test_two_processes_that_pull_at_once_fetch_each_file_once(web: Web, tmp_path: Path, cache: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "pull", web.url, "--model", MODEL, "--step", str(STEP), "--out"]
    both = [subprocess.Popen([*command, str(tmp_path / name)], cwd=CHECKOUT, env=os.environ) for name in ("a", "b")]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert paths(web).count(WEIGHTS) == 1
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


def test_a_release_in_a_dvc_repository_is_opened(built_project: Path, tmp_path: Path) -> None:
    release = Release.open(f"dvc:{built_project}")
    assert release.name == "everystep-demo"
    assert release.state(MODEL, STEP).weights()
    sizes: Any = release.sizes()
    assert SUMS in sizes
