"""Virtual states: rebuilt from released bytes, they are what a training that stores them would have written."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import EverystepError, how_to_install
from pipeline.base.files import list_files
from pipeline.base.paths import CACHE, RUNS
from pipeline.base.yaml import load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.release.release import Release, Virtual
from tests.project import ROOT, environment, run
from tests.releases import checkpoint, copied, edit_log, everystep, flip, read_json, reseal, write_json
from tests.trainer.runs import MODEL, make_run, reaches, start, train
from trainer.recipe import load_recipe

VIRTUAL = [3, 6, 9]
"""Steps of the reference run with a digest (one in three) that its schedule does not store: 0, 1, 2, 4, 8 and 12."""
REBUILD = """
import sys
from pipeline.base.console import exit_codes
from pipeline.release.release import Release
from trainer.rebuild import rebuild
with exit_codes():
    release = Release.open(sys.argv[1])
    steps = [int(step) for step in sys.argv[2:]]
    rebuild(release, [*release.states_at("mobilellm", steps).values()])
"""

SLOWLY = """
import time
from trainer import numerics
numerics.prepare("portable")
from trainer.parallel import World
gather = World.gather
def slowly(self, owned, whole):
    gather(self, owned, whole)
    time.sleep(0.3)
World.gather = slowly
"""
"""The first process takes its time after each exchange, so the others run ahead."""


def rebuild(
    project: Path, cache: Path, *steps: int, check: bool = True, processes: int = 1, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """Rebuild in a process of its own, because it enters a numerics class."""
    command = [sys.executable, "-c", before + REBUILD, str(project), *map(str, steps)]
    env = {CACHE: str(cache), "PYTHONPATH": str(ROOT), "EVERYSTEP_PROCESSES": str(processes)}
    return run(cache.parent, *command, check=check, **env)


def virtual(project: Path, step: int) -> Virtual:
    state = Release.open(project).state(MODEL, step)
    assert isinstance(state, Virtual)
    return state


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in list_files(folder)}


def folders(cache: Path) -> list[str]:
    """The states in a cache, and what is half written there."""
    return sorted(path.name for path in cache.glob(f"states/{MODEL}/*/*") if path.is_dir())


@pytest.fixture(scope="module")
def rebuilt(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with every virtual state of the reference run."""
    cache = tmp_path_factory.mktemp("rebuilt") / "cache"
    rebuild(reference, cache, *VIRTUAL)
    return cache


@pytest.fixture
def own_cache(rebuilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that cache, which this process uses too."""
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return copied(rebuilt, tmp_path / "cache")


# What is rebuilt


def test_rebuilt_states_are_those_of_a_training_that_stores_every_step(
    reference: Path, own_cache: Path, tmp_path: Path
) -> None:
    every = make_run(tmp_path / "every", checkpoints="every 1")
    train(every)
    assert folders(own_cache) == [path.name for path in sorted((every / RUNS / MODEL).glob("step*[369]-*"))]
    for step in VIRTUAL:
        state, stored = virtual(reference, step), checkpoint(every, MODEL, step)
        assert state.is_rebuilt()
        ours, theirs = files(state.place), files(stored)
        record, said = json.loads(ours.pop(ck.RECORD)), json.loads(theirs.pop(ck.RECORD))
        assert ours == theirs  # weights, moments and config, byte for byte
        nearest = {3: 2, 6: 4, 9: 8}[step]
        differ = {key for key in record if record[key] != said[key]}
        assert differ == {"storage", "nearest_stored_step"} | ({"parent"} if nearest < step - 1 else set())
        parent = read_json(checkpoint(reference, MODEL, nearest) / ck.RECORD)["state_digest"]
        assert (record["storage"], record["nearest_stored_step"], record["parent"]) == ("virtual", nearest, parent)


def test_one_replay_serves_all_steps_that_are_wanted_and_a_process_that_is_ahead_waits(
    reference: Path, rebuilt: Path, tmp_path: Path
) -> None:
    done = rebuild(reference, tmp_path / "cache", 9, 6, processes=2, before=SLOWLY)
    assert done.stderr.count("rebuild mobilellm: ") == 1
    ours, theirs = files(tmp_path / "cache"), files(rebuilt)
    assert ours.items() <= theirs.items()
    again = rebuild(reference, tmp_path / "cache", 9, 6)
    assert again.stderr == ""  # found, compared, not made again


def test_which_steps_are_virtual_and_what_the_log_knows_of_them(reference: Path) -> None:
    release = Release.open(reference)
    trained = release.model(MODEL)
    assert (trained.stored_steps, trained.virtual_steps(), trained.num_virtual) == ([0, 1, 2, 4, 8, 12], VIRTUAL, 3)
    state = virtual(reference, 6)
    assert (state.step, state.tokens, state.revision) == (6, 6 * 24 * 32, "step000006-tokens4608")
    assert state.logged.weights_digest is not None and state.nearest.step == 4
    assert list(release.states_at(MODEL, [9, 0, 3, 12])) == [9, 0, 3, 12]
    with pytest.raises(EverystepError, match=r"step 5: .* nearest are 4, 8; stored are 0, 1, 2, 4, 8, 12; .* 3 div"):
        release.state(MODEL, 5)
    with pytest.raises(EverystepError, match="step 15: no checkpoint"):
        release.state(MODEL, 15)


def test_a_state_that_is_not_rebuilt_says_how_it_can_be(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path))
    state = virtual(reference, 6)
    assert not state.is_rebuilt()
    with pytest.raises(EverystepError, match="step 6 of mobilellm is virtual, and is not rebuilt yet; `everystep pull"):
        state.weights()


@pytest.mark.parametrize(
    ("env", "place"),
    [
        ({CACHE: "/c", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/c/states"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/everystep/states"),
        ({"XDG_CACHE_HOME": "x", "HOME": "/h"}, "/h/.cache/everystep/states"),
        ({"HOME": "/h"}, "/h/.cache/everystep/states"),
    ],
)
def test_the_cache_is_where_users_expect_it(
    reference: Path, monkeypatch: pytest.MonkeyPatch, env: dict[str, str], place: str
) -> None:
    for name in (CACHE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert str(virtual(reference, 3).place).startswith(f"{place}/{MODEL}/")


def test_the_demo_stores_at_most_a_tenth_of_its_states() -> None:
    for name in load_yaml(ROOT / "params.yaml")["models"]:
        recipe, _ = load_recipe(name, ROOT)
        stored = len(recipe.checkpoint_steps)
        states = len({*recipe.checkpoint_steps, *range(recipe.digest_every, recipe.schedule.steps + 1)})
        assert recipe.digest_every == 1 and states == recipe.schedule.steps + 1
        assert stored <= states / 10, name


# Damage


@pytest.mark.parametrize("name", [ck.WEIGHTS, ck.OPTIMIZER, ck.CONFIG, ck.RECORD])
@pytest.mark.parametrize("harm", ["flipped", "missing", "cut"])
def test_a_damaged_state_in_the_cache_is_never_used(reference: Path, own_cache: Path, name: str, harm: str) -> None:
    path = virtual(reference, 6).place / name
    if harm == "flipped":
        flip(path, 0.6)
    elif harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    state = virtual(reference, 6)
    assert not state.is_rebuilt() and state.damage is not None
    with pytest.raises(EverystepError, match="what was rebuilt is damaged"):
        state.file(ck.WEIGHTS)
    assert virtual(reference, 3).is_rebuilt()


@pytest.mark.parametrize("key", ["loss", "parent", "storage", "step", "optimizer_digest", "applied_updates"])
def test_a_record_in_the_cache_that_says_something_else_is_never_used(
    reference: Path, own_cache: Path, key: str
) -> None:
    path = virtual(reference, 6).place / ck.RECORD
    tree = read_json(path)
    other = {"loss": 0.5, "parent": tree["state_digest"], "storage": "stored", "step": 7, "applied_updates": 5}
    write_json(path, tree | {key: other.get(key, tree["weights_digest"])})
    assert not virtual(reference, 6).is_rebuilt()


def test_a_state_of_another_step_in_its_place_is_never_used(reference: Path, own_cache: Path) -> None:
    here, there = virtual(reference, 6).place, virtual(reference, 9).place
    there.rename(here.with_name("aside"))
    here.rename(there)
    here.with_name("aside").rename(here)
    assert not virtual(reference, 6).is_rebuilt() and not virtual(reference, 9).is_rebuilt()


def test_a_damaged_state_is_rebuilt_and_said_and_what_a_kill_left_is_swept(reference: Path, own_cache: Path) -> None:
    place = virtual(reference, 6).place
    before = files(place)
    flip(place / ck.OPTIMIZER, 0.7)
    left = place.with_name(f".{place.name}.0123456789abcdef.partial")
    left.mkdir()
    done = rebuild(reference, own_cache, 6)
    assert done.stderr.count("the copy in the cache is damaged, and is rebuilt") == 1
    assert files(place) == before and virtual(reference, 6).is_rebuilt()
    assert not left.exists()


def damage_stored_weights(project: Path) -> None:
    flip(checkpoint(project, MODEL, 4) / ck.WEIGHTS, 0.9)


def damage_stored_moments(project: Path) -> None:
    flip(checkpoint(project, MODEL, 4) / ck.OPTIMIZER, 0.9)


def damage_rows(project: Path) -> None:
    flip(project / "data" / "tokens" / "train" / "000000.jsonl.zst", 0.5)


def damage_log(project: Path) -> None:
    flip(project / RUNS / MODEL / "log.jsonl", 0.5)


def change_a_loss_and_the_manifest(project: Path) -> None:
    """An attacker who makes the digest of the log fit again: only the replay can tell."""

    def edit(entries: list[dict[str, Any]]) -> None:
        entries[4]["gradient_norm"] += 1e-9

    edit_log(project, MODEL, edit)
    path = project / "manifests" / "models" / f"{MODEL}.json"
    content = (project / RUNS / MODEL / "log.jsonl").read_bytes()
    tree = read_json(path)
    tree["outputs"]["log"][0] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(path, tree)


FAULTS: dict[Callable[[Path], None], str] = {
    damage_stored_weights: "step000004-tokens3072/model.safetensors",
    damage_stored_moments: "step000004-tokens3072/optimizer.safetensors",
    damage_rows: "train/000000.jsonl.zst",
    damage_log: "log.jsonl",
    change_a_loss_and_the_manifest: "step 5 does not come out as it was released: gradient_norm: released",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_damage_on_the_way_is_found_and_nothing_is_handed_over(
    reference: Path, tmp_path: Path, fault: Callable[[Path], None]
) -> None:
    project = copied(reference, tmp_path / "project")
    fault(project)
    done = rebuild(project, tmp_path / "cache", 6, 9, check=False)
    assert done.returncode in (1, 2)
    assert FAULTS[fault] in done.stderr and "Traceback" not in done.stderr
    assert folders(tmp_path / "cache") == []


FULL = """
mount -t tmpfs -o size=1m tmpfs "$1" || exit 77
cache=$1
shift
"$@"
echo "code $?"
find "$cache" -name "*step*"
"""


def test_a_disk_that_gets_full_is_said_and_nothing_half_written_is_left(reference: Path, tmp_path: Path) -> None:
    """Room for one state, of 0.7 MB, and not for the second."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-B", "-c", REBUILD, str(reference), "6", "9"]
    done = run(
        tmp_path,
        *["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, "sh", str(disk), *command],
        check=False,
        PYTHONPATH=str(ROOT),
        EVERYSTEP_PROCESSES="1",
        **{CACHE: str(disk)},
    )
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    code, *left = done.stdout.split()[1:]
    assert code == "2" and [path.rpartition("/")[2] for path in left] == ["step000006-tokens4608"]
    assert "the disk is full; free some room and run the same command again" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_kill_leaves_no_state_that_is_not_whole(reference: Path, rebuilt: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    os.environ[CACHE], before = str(cache), os.environ.get(CACHE)
    try:
        process = start(tmp_path, 1, sys.executable, "-c", REBUILD, str(reference), *map(str, VIRTUAL))
        reaches(process, lambda: bool(list(cache.glob("states/*/*/*step*"))))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        left = [folder for folder in folders(cache) if not folder.startswith(".")]
        whole = {f"step{step:06d}-tokens{step * 768}": virtual(reference, step).is_rebuilt() for step in VIRTUAL}
        assert all(whole[folder] for folder in left) and len(left) < len(VIRTUAL)
    finally:
        del os.environ[CACHE]
        if before is not None:
            os.environ[CACHE] = before
    rebuild(reference, cache, *VIRTUAL)
    assert files(cache) == files(rebuilt)


@pytest.mark.long
def test_two_at_once_rebuild_once(reference: Path, rebuilt: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", REBUILD, str(reference), "6", "9"]
    env = environment(PYTHONPATH=str(ROOT), EVERYSTEP_PROCESSES="1", **{CACHE: str(cache)})
    both = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "".join(said).count("rebuild mobilellm: ") == 1
    assert "".join(said).count("another process rebuilds its states; waiting for it") <= 1
    assert files(cache).items() <= files(rebuilt).items() and len(folders(cache)) == 2


# A release that is elsewhere

LAZY = """
import shutil, sys
from pathlib import Path
from pipeline.base.console import exit_codes
from pipeline.release.release import Release
from trainer.rebuild import rebuild

origin, here = Path(sys.argv[1]), Path(sys.argv[2])

class Elsewhere(Release):
    def file(self, path):
        self.fetch(path)
        return super().file(path)

    def read(self, path):
        self.fetch(path)
        return super().read(path)

    def fetch(self, path):
        if not (here / path).exists():
            (here / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin / path, here / path)

with exit_codes():
    there = Release.open(origin)
    release = Elsewhere(here, there.name, there.version, there.files)
    rebuild(release, [release.state("mobilellm", 6)])
"""


def test_only_the_files_that_a_rebuild_needs_are_asked_for(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    env: dict[str, Any] = {CACHE: str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "EVERYSTEP_PROCESSES": "1"}
    run(tmp_path, sys.executable, "-c", LAZY, str(reference), str(tmp_path / "here"), **env)
    state = f"runs/{MODEL}/step000004-tokens3072"
    assert list_files(tmp_path / "here") == [
        "data/tokens/train/000000.jsonl.zst",
        f"manifests/models/{MODEL}.json",
        "manifests/tokens.json",
        f"recipes/{MODEL}.yaml",
        f"runs/{MODEL}/log.jsonl",
        *(f"{state}/{name}" for name in (ck.WEIGHTS, ck.OPTIMIZER, ck.RECORD)),
    ]


# The commands, on a release


@pytest.fixture(scope="module")
def pulled(built_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All checkpoints of a model, stored and virtual, each in its folder; the cache is beside them."""
    folder = tmp_path_factory.mktemp("pulled")
    command = ["everystep", "pull", str(built_project / "release"), "--model", MODEL, "--all", "--virtual"]
    run(folder, *command, "--out", "all", EVERYSTEP_CACHE=str(folder / "cache"))
    return folder


@pytest.fixture
def release(built_project: Path, pulled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The release, where this process finds every virtual state in the cache."""
    monkeypatch.setenv(CACHE, str(pulled / "cache"))
    return built_project / "release"


def test_pull_writes_every_state_and_says_how_a_virtual_one_was_proved(release: Path, pulled: Path) -> None:
    assert sorted(path.name for path in (pulled / "all").iterdir()) == [f"step{step}" for step in range(9)]
    entries = [json.loads(line) for line in (release / RUNS / MODEL / "log.jsonl").read_text().splitlines()]
    digests = [json.loads((pulled / "all" / f"step{step}" / "everystep.json").read_text()) for step in range(9)]
    assert [said["weights_digest"] for said in digests[1:]] == [entry["weights_digest"] for entry in entries]
    storages = [said["storage"] for said in digests]
    assert [step for step in range(9) if storages[step] == "virtual"] == [3, 5, 6, 7]
    assert digests[7]["proof"] == (
        "rebuilt from step000004-tokens1024, which the release stores: steps 5 to 7 came out as in "
        f"runs/{MODEL}/log.jsonl, which has the digest of the weights at step 7"
    )
    assert "proof" not in digests[4]
    card = (pulled / "all" / "step7" / "README.md").read_text()
    assert "which stores step 4 and, of this step, the digest of its weights" in card


def test_a_virtual_checkpoint_that_is_in_the_cache_needs_no_torch(release: Path, pulled: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_TORCH)
    env: dict[str, Any] = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", CACHE: str(pulled / "cache")}
    command = ["everystep", "pull", str(release), "--model", MODEL, "--step", "6", "--out", "one"]
    run(tmp_path, *command, **env)
    assert files(tmp_path / "one") == files(pulled / "all" / "step6")
    done = run(tmp_path, *command[:-1], "two", check=False, **env | {CACHE: str(tmp_path / "empty")})
    assert done.returncode == 2
    assert "step 6 is virtual; rebuilding it: needs torch, which a reader's installation lacks" in done.stderr
    assert how_to_install("train") in done.stderr
    assert not (tmp_path / "two").exists()


WITHOUT_TORCH = """
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "torch" else find_spec(name, package)
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
"""


def test_chosen_states_are_averaged(release: Path, tmp_path: Path) -> None:
    done = everystep("average", release, "--model", MODEL, "--step", "7", "--step", "8", "--out", tmp_path / "mean")
    assert (done.code, "rung 1 of 5 (files)" in done.err) == (0, True)
    assert "mean of step000007-tokens1792, step000008-tokens2048" in done.out
    said = read_json(tmp_path / "mean" / "everystep.json")["mean_of"]
    assert [(state["step"], state["storage"]) for state in said] == [(7, "virtual"), (8, "stored")]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["average"], "either --last, or --step"),
        (["average", "--last", "2", "--step", "3"], "either --last, or --step"),
        (["average", "--step", "3", "--step", "3"], "twice at least"),
        (["average", "--step", "3", "--step", "0"], "untrained"),
        (["average", "--step", "3", "--step", "9"], "step 9: no checkpoint"),
        (["pull", "--virtual"], "--virtual adds to --all"),
        (["pull", "--step", "9"], "stored are 0, 1, 2, 4, 8; the others up to 8 are virtual"),
    ],
    ids=str,
)
def test_misuse_is_named(release: Path, tmp_path: Path, more: list[str], named: str) -> None:
    command, *options = more
    done = everystep(command, release, "--model", MODEL, *options, "--out", tmp_path / "out")
    assert done.code == 2
    assert named in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_virtual_checkpoint_is_sampled_and_replayed_from(built_project: Path, tmp_path: Path) -> None:
    env: dict[str, Any] = {CACHE: str(tmp_path / "cache"), "EVERYSTEP_PROCESSES": "1"}
    command = ["everystep", "replay", str(built_project / "release"), "--model", MODEL, "--from", "5", "--to", "8"]
    done = run(tmp_path, *command, **env)
    assert done.stdout == f"same: {MODEL}, steps 5 to 8, 3 digests of all weights compared\n"
    command = ["everystep", "sample", str(built_project), "--model", MODEL, "--step", "6", "--tokens", "3", "--json"]
    answer = json.loads(run(tmp_path, *command, **env).stdout)
    assert answer["revision"] == "step000006-tokens1536"
    assert folders(tmp_path / "cache") == ["step000005-tokens1280", "step000006-tokens1536"]


def test_show_counts_states_and_their_bytes(release: Path) -> None:
    facts = json.loads(everystep("show", release, "--json").out)
    parameters = {model["name"]: model["parameters"] for model in facts["models"]}
    for states in facts["states"]:
        each = 12 * parameters[states["model"]]
        assert (states["stored"], states["virtual"]) == (5, 4)
        assert (states["bytes_stored"], states["bytes_raw"]) == (5 * each, 9 * each)
        written = [*(release / RUNS / states["model"]).glob("*/*.safetensors")]
        assert len(written) == 2 * 5
        assert 0 <= sum(path.stat().st_size for path in written) / states["bytes_stored"] - 1 < 0.05  # their headers
    assert "bytes stored" in everystep("show", release).out


def test_a_release_that_lists_a_virtual_state_as_its_own_is_refused(release: Path, tmp_path: Path) -> None:
    harmed = copied(release, tmp_path / "release")
    path = harmed / "manifests" / "models" / f"{MODEL}.json"
    tree = read_json(path)
    tree["checkpoints"][3]["storage"] = "virtual"
    write_json(path, tree)
    reseal(harmed)
    done = everystep("show", harmed)
    assert done.code == 2
    assert "storage is virtual; a release lists what it stores" in done.err
