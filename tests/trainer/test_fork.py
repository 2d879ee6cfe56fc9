"""`everystep fork`: a training goes on from a released state, is proved by it, and begins with no other."""

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.audit.chain import chain_faults
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files, sha256_file
from pipeline.base.params import load_params
from pipeline.base.yaml import load_yaml
from pipeline.build.fork import fork
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import pretty
from pipeline.formats.manifests import Parent
from pipeline.formats.order import rows_of_samples, steps_of_rows
from pipeline.formats.release import FORMAT, REVISIONS, ROOT, Root, revision_line
from pipeline.release.ancestors import ancestors
from pipeline.release.gate import check_model
from pipeline.release.release import Release
from tests.conftest import Once
from tests.project import ROOT as CHECKOUT
from tests.project import commit, environment, params, repro, run
from tests.releases import Done, copied, everystep, flip, read_json, unsealed, write_json
from tests.trainer.corpora import load, numbered, write_ours, write_plain, write_recipe
from tests.trainer.runs import MODEL
from trainer.begun import begun_from, here
from trainer.parent import parent as bring
from trainer.recipe import load_recipe

STEP, LAST = 4, 12


def seal(folder: Path, name: str) -> Path:
    """Make a release of a folder: a root manifest of all that is there, and the list of revisions."""
    (folder / ROOT).unlink(missing_ok=True)
    records = [ck.read_record(path) for _, path in ck.find_checkpoints(folder / "runs" / MODEL)]
    (folder / REVISIONS).write_bytes(b"".join(map(revision_line, records)))
    root = Root(format=FORMAT, name=name, version="1", files=dict(unsealed(folder).files))
    write_json(folder / ROOT, root.to_json())
    return folder


@pytest.fixture(autouse=True)
def _somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """An identity for Git's first commit."""
    for name, value in environment().items():
        if name.startswith("GIT_"):
            monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def parent(once: Once, corpora: Path, reference: Path) -> Path:
    """A release of one tiny model: its training, its rows, and what a card needs."""

    def build(folder: Path) -> None:
        for name in ("data", "manifests", "recipes", "runs"):
            shutil.copytree(reference / name, folder / name)
        (folder / "params.yaml").write_bytes(pretty(params(corpora) | {"models": [MODEL]}))
        shutil.copy(CHECKOUT / "LICENSE", folder)
        seal(folder, "tiny")

    return once("released-run", build)


def forked(release: Path, folder: Path, step: int = STEP) -> Path:
    """A fork whose stage `parent` has run."""
    fork(str(release), Release.open(release).state(MODEL, step), folder, CHECKOUT)
    (folder / "manifests" / "code.json").unlink()  # of the last build of this checkout; the code may be newer
    with contextlib.chdir(folder):
        bring()
    return folder


@pytest.fixture(scope="module")
def untrained(once: Once, parent: Path) -> Path:
    """A fork before its training."""
    return once("fork", lambda folder: forked(parent, folder))


@pytest.fixture
def child(untrained: Path, tmp_path: Path) -> Path:
    """One to change: a copy without its code and documents."""
    ignored = shutil.ignore_patterns("pipeline", "trainer", "docs", ".git")
    shutil.copytree(untrained, tmp_path / "child", ignore=ignored)
    return tmp_path / "child"


@pytest.fixture(scope="module")
def trained(once: Once, untrained: Path) -> Path:
    """The fork, trained with its recipe as it is."""

    def build(folder: Path) -> None:
        shutil.copytree(untrained, folder, ignore=shutil.ignore_patterns(".git"))
        train_in(folder)

    return once("trained-fork", build)


def train_in(folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run_stage(folder, "train", MODEL, check=check)


def run_stage(folder: Path, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a stage in a process of its own, for it may enter a numerics class, which starts a program again."""
    env = environment(EVERYSTEP_PROCESSES="1", PYTHONPATH=str(CHECKOUT))
    command = [sys.executable, "-m", "pipeline.stages", *words]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


@contextlib.contextmanager
def edited(path: Path) -> Iterator[Any]:
    """A YAML or JSON file as a tree that is written back."""
    tree = load_yaml(path)
    yield tree
    path.write_bytes(pretty(tree))


def begin(folder: Path) -> Path | None:
    """What the training in `folder` would begin with."""
    with contextlib.chdir(folder):
        return begun_from(here(), *load_recipe(MODEL))


# What comes out


def test_a_fork_left_as_it_is_gives_the_published_digests(parent: Path, trained: Path) -> None:
    ours, theirs = (folder / "runs" / MODEL for folder in (trained, parent))
    found = dict(ck.find_checkpoints(ours))
    assert list(found) == [8, 12]
    for folder in found.values():
        for name in list_files(folder):
            assert (folder / name).read_bytes() == (theirs / folder.name / name).read_bytes()
    assert (ours / "log.jsonl").read_bytes().splitlines() == (theirs / "log.jsonl").read_bytes().splitlines()[STEP:]
    assert ck.read_record(found[8]).parent == ck.read_record(dict(ck.find_checkpoints(theirs))[STEP]).state_digest


def test_a_fork_passes_the_gate_and_names_its_ancestor(trained: Path) -> None:
    project = Release.open(trained)
    assert [record.step for record in check_model(project, MODEL)] == [8, 12]
    (state,) = ancestors(project, MODEL)
    assert (state.release.name, state.model, state.entry.step) == ("tiny", MODEL, STEP)


def test_a_fork_of_a_fork_is_followed_to_its_first_ancestor(trained: Path, tmp_path: Path) -> None:
    second = seal(copied(trained, tmp_path / "second"), "second")
    assert faults(second) == []
    third = forked(second, tmp_path / "third", step=8)
    assert begin(third) is not None
    with edited(third / "recipes" / f"{MODEL}.yaml") as tree:
        tree["schedule"] |= {"steps": 9, "decay_steps": 7}
    train_in(third)
    seal(third, "third")
    assert faults(third) == []
    found = [(state.release.name, state.entry.step) for state in ancestors(Release.open(third), MODEL)]
    assert found == [("second", 8), ("tiny", STEP)]
    assert not list((third / "data/parent/data/parent").rglob("*.safetensors"))
    root = third / "data/parent/data/parent" / ROOT  # an attacker makes every digest in the release fit
    tree = read_json(root)
    write_json(root, tree | {"version": "2"})
    assert "manifests/parent.json" in faults(seal(third, "third"))[0]


def faults(release: Path) -> list[str]:
    """What the chain of manifests has against a release."""
    """The faults of the chain, but for what the stubs of the rows do not say: from what they were made."""
    found = chain_faults(Release.open(release), {path: sha256_file(release / path) for path in list_files(release)})
    return [
        fault for fault in found if "with which it was built" not in fault and "from which it was built" not in fault
    ]


# A wrong parent


def test_another_release_at_the_address_is_refused(parent: Path, child: Path, tmp_path: Path) -> None:
    other = seal(copied(parent, tmp_path / "other"), "other")
    with edited(child / "params.yaml") as tree:
        tree["parent_address"] = str(other)
    with contextlib.chdir(child), pytest.raises(Differs, match=r"release\.json: SHA-256 .* correct parent_address"):
        bring()


def test_a_recipe_that_names_another_state_trains_nothing(parent: Path, child: Path) -> None:
    record = ck.read_record(dict(ck.find_checkpoints(parent / "runs" / MODEL))[8])
    with edited(child / "recipes" / f"{MODEL}.yaml") as tree:
        tree["parent"]["state_digest"] = record.state_digest
    done = train_in(child, check=False)
    assert done.returncode == 1
    assert f"recipes/{MODEL}.yaml: parent.state_digest: {record.state_digest}, but {MODEL} at step 4" in done.stderr
    assert not (child / "runs").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("step", 5, "parent.step: 5, but"),
        ("tokens", 1, "parent.tokens: 1, but"),
        ("first_sample", 24, "parent.first_sample: 24; write 96"),
    ],
)
def test_a_recipe_must_count_on_from_its_parent(child: Path, key: str, value: int, said: str) -> None:
    with edited(child / "recipes" / f"{MODEL}.yaml") as tree:
        tree["parent"][key] = value
    with pytest.raises(EverystepError, match=said):
        begin(child)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "record.json"])
def test_a_state_that_was_changed_is_not_begun_with(child: Path, name: str) -> None:
    (path,) = (child / "data/parent/runs").rglob(name)
    flip(path, 0.9)
    with pytest.raises(EverystepError, match=name):
        begin(child)


def test_a_state_of_other_weights_with_a_fitting_record_is_found(parent: Path, child: Path) -> None:
    """The final weights under an early name, as public suites have had them: the root manifest promises others."""
    folder = child / "data/parent/runs" / MODEL
    (early,) = folder.iterdir()
    late = dict(ck.find_checkpoints(parent / "runs" / MODEL))[LAST]
    for name in ("model.safetensors", "optimizer.safetensors"):
        shutil.copy(late / name, early / name)
    with edited(child / "manifests/parent.json") as tree:
        for name in ("model.safetensors", "optimizer.safetensors"):
            tree["files"][f"runs/{MODEL}/{early.name}/{name}"] = (
                unsealed(parent).files[f"runs/{MODEL}/{late.name}/{name}"].digest
            )
    with pytest.raises(Differs, match=r"files: .*safetensors is not what the parent's release\.json promises"):
        begin(child)


def test_weights_of_another_shape_are_not_begun_with(child: Path) -> None:
    with edited(child / "recipes" / f"{MODEL}.yaml") as tree:
        tree["model"]["layers"] = 3
    with pytest.raises(Differs, match=f"not the tensors of the model in recipes/{MODEL}"):
        begin(child)


def test_rows_that_are_not_the_parents_are_a_fault(trained: Path, tmp_path: Path) -> None:
    release = copied(trained, tmp_path / "release")
    with edited(release / "manifests/tokens.json") as tree:
        tree["available"]["documents"] += 1
    with edited(release / f"manifests/models/{MODEL}.json") as tree:
        tree["inputs"]["manifests/tokens.json"] = sha256_file(release / "manifests/tokens.json")
    found = faults(seal(release, "release"))
    assert "manifests/parent.json: carried: manifests/tokens.json is another one in" in found[0]


def test_a_first_record_that_names_no_parent_is_a_fault(trained: Path, tmp_path: Path) -> None:
    release = copied(trained, tmp_path / "release")
    with edited(release / f"manifests/models/{MODEL}.json") as tree:
        tree["checkpoints"][0]["parent"] = None
        record = release / "runs" / MODEL / tree["checkpoints"][0]["revision"] / "record.json"
    with edited(record) as tree:
        tree["parent"] = None
    assert "its parent is not the checkpoint before it" in faults(seal(release, "release"))[0]


# What is declared


def test_the_order_goes_on_or_begins_again_and_tokens_are_counted_on(child: Path) -> None:
    recipe, spec = load_recipe(MODEL, child)
    assert recipe.parent is not None
    assert (recipe.begun_at, recipe.checkpoint_steps) == (STEP, [8, 12])
    plain = recipe.model_copy(update={"parent": None})
    for step in range(STEP, LAST):
        assert (recipe.sample(step), recipe.tokens(step)) == (plain.sample(step), plain.tokens(step))
    larger = recipe.model_copy(update={"data": recipe.data.model_copy(update={"global_batch": 48})})
    assert [larger.sample(step) for step in (4, 5, 6)] == [96, 144, 192]
    assert larger.tokens(5) - larger.tokens(4) == 48 * spec.context
    again = recipe.model_copy(update={"parent": recipe.parent.model_copy(update={"first_sample": 0})})
    assert [again.sample(step) for step in (4, 5)] == [0, 24]


@pytest.mark.parametrize("layout", ["everystep", "llm360", "mobilellm"])
def test_every_layout_reads_on_where_its_parent_stopped(layout: str, tmp_path: Path) -> None:
    rows = numbered(32)
    if layout == "everystep":
        write_ours(tmp_path, rows)
    else:
        write_plain(tmp_path / f"data/{layout}" / ("1/a.jsonl" if layout == "mobilellm" else "train_0.jsonl"), rows)
    write_recipe(tmp_path, layout, global_batch=8, micro_batch=1 if layout == "mobilellm" else 2)
    whole = load(tmp_path, layout)
    with edited(tmp_path / "recipes" / f"{layout}.yaml") as tree:
        tree["parent"] = {"state_digest": f"tensors-v1:{'0' * 64}", "step": 2, "tokens": 512, "first_sample": 16}
    on = load(tmp_path, layout)
    again = replace(on, parent=load_recipe(layout, tmp_path)[0].parent.model_copy(update={"first_sample": 0}))  # type: ignore[union-attr]
    for step in (2, 3):
        for number in range(whole.section.num_micro_batches):
            assert on.row_numbers(step, number).tolist() == whole.row_numbers(step, number).tolist()
            assert again.row_numbers(step, number).tolist() == whole.row_numbers(step - 2, number).tolist()


def test_steps_of_rows_begin_with_the_first_sample() -> None:
    for first in (0, 5, 37):
        reads = [rows_of_samples(first + 4 * step, first + 4 * step + 4, 10, 7).tolist() for step in range(6)]
        for row in range(10):
            expected = [step for step, read in enumerate(reads) if row in read]
            assert steps_of_rows(np.array([row], dtype=np.uint64), 4, 10, 7, 6, first) == expected


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schedule": {"steps": 4, "warmup_steps": 1, "decay_steps": 3}, "digest_every": 1}, "write more"),
        ({"parent": {"first_sample": 8}, "data": {"layout": "llm360"}}, "is not a multiple of data.global_batch 24"),
    ],
)
def test_a_recipe_that_cannot_go_on_is_refused(child: Path, change: dict[str, Any], said: str) -> None:
    with edited(child / "recipes" / f"{MODEL}.yaml") as tree:
        for key, value in change.items():
            tree[key] = tree[key] | value if isinstance(value, dict) else value
    with pytest.raises(EverystepError, match=said):
        load_recipe(MODEL, child)


def test_address_of_the_parent_decides_nothing(parent: Path, child: Path, tmp_path: Path) -> None:
    before = (child / "manifests/parent.json").read_bytes()
    shutil.copytree(parent, tmp_path / "elsewhere")
    with edited(child / "params.yaml") as tree:
        tree["parent_address"] = "../elsewhere"
    with contextlib.chdir(child):
        bring()
    assert (child / "manifests/parent.json").read_bytes() == before
    assert b"elsewhere" not in before


# The command


def test_the_command_makes_a_repository_whose_stages_dvc_would_run(parent: Path, tmp_path: Path) -> None:
    done = everystep("fork", parent, "--model", MODEL, "--step", "4", "--out", tmp_path / "made", "--json")
    assert done.code == 0, done.err
    said = json.loads(done.out)
    assert (said["step"], said["steps"], said["release_sha256"]) == (4, 12, sha256_file(parent / ROOT))
    made = tmp_path / "made"
    assert load_params(made / "params.yaml")["release"]["name"] == "made"
    assert run(made, "dvc", "stage", "list", "--name-only").stdout.split() == [
        *("code", "parent", f"train@{MODEL}", f"evaluate@{MODEL}", "release")
    ]
    assert run(made, "git", "status", "--short").stdout == ""


def test_the_same_fork_has_the_same_bytes(parent: Path, tmp_path: Path) -> None:
    state = Release.open(parent).state(MODEL, STEP)
    copies = [fork(str(parent), state, tmp_path / at / "made", CHECKOUT).folder for at in ("a", "b")]
    first, second = ({name: (f / name).read_bytes() for name in list_files(f) if ".git/" not in name} for f in copies)
    assert first == second


def refused(parent: Path, *words: str) -> Done:
    done = everystep("fork", parent, *words)
    assert (done.code, "Traceback" in done.err) == (2, False)
    return done


def test_what_is_not_there_or_in_the_way_is_refused_and_nothing_written(parent: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    step, out = ("--step", "4"), ("--out", str(tmp_path / "made"))
    assert "the nearest are 4, 8" in refused(parent, "--model", MODEL, "--step", "5", *out).err
    assert f"did you mean {MODEL}?" in refused(parent, "--model", "mobilelm", *step, *out).err
    assert "already exists" in refused(parent, "--model", MODEL, *step, "--out", str(tmp_path / "taken")).err
    assert "base_model" in refused(parent, "--model", MODEL, *step, *out, "--base-model", "a b").err
    assert list_files(tmp_path) == ["taken/mine"]


def test_a_project_that_was_not_released_is_no_parent(trained: Path, tmp_path: Path) -> None:
    assert "has no release.json" in refused(trained, "--model", MODEL, "--step", "8", "--out", str(tmp_path / "x")).err


def test_a_damaged_parent_leaves_nothing(parent: Path, tmp_path: Path) -> None:
    release = copied(parent, tmp_path / "release")
    (weights,) = (release / "runs" / MODEL).glob("step000004-*/model.safetensors")
    flip(weights, 0.9)
    done = everystep("fork", release, "--model", MODEL, "--step", "4", "--out", tmp_path / "made")
    assert (done.code, [path.name for path in tmp_path.iterdir()]) == (1, ["release"])


def test_the_manifest_of_the_parent_lists_what_is_kept(parent: Path, child: Path) -> None:
    manifest = Release.open(child).manifest(Parent)
    assert sorted(manifest.files) == sorted(list_files(child / "data/parent"))
    assert manifest.carried == {"manifests/tokens.json": sha256_file(parent / "manifests/tokens.json")}


# What takes long


@pytest.mark.long
def test_a_virtual_state_is_rebuilt_and_gone_on_from(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing but the log promises its weights, and they are in no release but the fork's."""
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    done = run(tmp_path, *("everystep", "fork", str(parent), "--model", MODEL, "--step", "6", "--out", "made"))
    assert done.stdout.startswith(f"made: {MODEL} from step 6 of tiny 1\n")
    made = tmp_path / "made"
    (made / "manifests" / "code.json").unlink()
    run_stage(made, "parent")
    train_in(made)
    ours, theirs = (dict(ck.find_checkpoints(folder / "runs" / MODEL)) for folder in (made, parent))
    assert list(ours) == [8, 12]
    for step, folder in ours.items():
        assert ck.read_record(folder).state_digest == ck.read_record(theirs[step]).state_digest
    released = seal(made, "made")
    assert faults(released) == []
    record = next((released / "data/parent/runs" / MODEL).glob("step000006-*")) / "record.json"
    with edited(record) as tree:  # an attacker with other moments, who makes every digest fit
        tree["loss"] += 1
    with edited(released / "manifests/parent.json") as tree:
        tree["files"][record.relative_to(released / "data/parent").as_posix()] = sha256_file(record)
    with edited(released / "manifests/models" / f"{MODEL}.json") as tree:
        tree["inputs"]["manifests/parent.json"] = sha256_file(released / "manifests/parent.json")
    assert "is not of the virtual state that the log of mobilellm promises" in faults(seal(released, "made"))[0]


@pytest.mark.long
def test_three_generations_are_built_released_and_verified(built_project: Path, tmp_path: Path) -> None:
    """Each by DVC from the release before it. Unchanged, the second gives the digests of the first; the third has
    another batch and schedule. Each release verifies, tells its ancestors, and is replayed from its parent's state."""
    before, name, step = built_project / "release", "second", 4
    for steps, batch in ((8, 8), (12, 16)):
        made = tmp_path / name
        done = run(tmp_path, "everystep", "fork", str(before), "--model", MODEL, "--step", str(step), "--out", name)
        assert done.stdout.startswith(f"{name}: {MODEL} from step {step} of ")
        with edited(made / "recipes" / f"{MODEL}.yaml") as tree:
            tree["schedule"]["steps"], tree["data"]["global_batch"] = steps, batch
        with edited(made / "params.yaml") as tree:
            tree["release"]["base_model"] = "somebody/theirs"
        repro(made, PYTHONPATH=str(made))
        commit(made, "built")
        release = made / "release"
        assert everystep("verify", release).code == 0
        assert 'base_model: "somebody/theirs"\nbase_model_relation: "finetune"' in (release / "README.md").read_text()
        done = run(
            tmp_path, "everystep", "replay", str(release), "--model", MODEL, "--from", str(step), "--to", str(steps)
        )
        assert done.stdout.startswith(f"same: {MODEL}, steps {step} to {steps}")
        assert everystep("pull", release, "--model", MODEL, "--out", tmp_path / f"{name}-pulled").code == 0
        told = read_json(tmp_path / f"{name}-pulled" / "everystep.json")["ancestors"]
        assert told[0]["release_sha256"] == sha256_file(before / ROOT)
        before, name, step = release, "third", 8
    assert [state["step"] for state in told] == [8, 4]
    second, first = (
        Release.open(path).state(MODEL, 8).record for path in (tmp_path / "second/release", built_project / "release")
    )
    assert second.state_digest == first.state_digest
