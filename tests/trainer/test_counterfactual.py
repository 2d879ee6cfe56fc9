"""`everystep whatif`: the same training with one thing changed; and tables of such trainings, exact and repeatable."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.base.errors import Differs
from pipeline.formats.canonical import pretty
from pipeline.formats.counterfactuals import EFFECTS, MANIFEST, PREDICTIONS, read_counterfactuals
from pipeline.formats.forgotten import Forgotten, as_spans
from pipeline.formats.tables import as_json, read_table
from pipeline.release.release import Release
from tests.conftest import Once
from tests.project import ROOT, environment, run
from tests.releases import Done, checkpoint, copied, edit_log, everystep, reseal
from tests.trainer.runs import MODEL, make_run, reaches
from trainer.attribution.groups import groups_of
from trainer.attribution.scores import agreement, mean_correlation, ranks
from trainer.changes import Change
from trainer.data import Checking, EverystepData, training_data
from trainer.loop import Trainer
from trainer.optimizer import learning_rate
from trainer.parallel import World
from trainer.recipe import load_recipe

EVERYSTEP = (sys.executable, "-P", "-m", "pipeline.cli")  # not the copy of the code in a project
GROUPS, START = 4, 6
RELEASED = ROOT / "counterfactuals"


def whatif(release: Path, *words: str) -> Any:
    """The real command in its own process, because it enters a numerics class."""
    command = [*EVERYSTEP, "whatif", release.name, "--model", MODEL, *words]
    return json.loads(run(release.parent, *command, EVERYSTEP_PROCESSES="1", PYTHONPATH=str(ROOT)).stdout)


def refused(release: Path, *words: str) -> Done:
    done = everystep("whatif", release, "--model", MODEL, *words)
    assert done.code == 2, done.said
    return done


def table(folder: Path, release: Path, processes: int = 1) -> Path:
    """Make the table of the small release; what was begun in `folder` goes on."""
    folder.mkdir(exist_ok=True)
    words = [str(release), MODEL, str(START), str(GROUPS), "table"]
    command = [sys.executable, "-P", "-m", "trainer.attribution", *words]
    run(folder, *command, EVERYSTEP_PROCESSES=str(processes), PYTHONPATH=str(ROOT))
    return folder / "table"


@pytest.fixture(scope="module")
def tabled(built_project: Path, once: Once) -> Path:
    return once("counterfactuals", lambda folder: table(folder, built_project / "release").parent) / "table"


# The command


def test_with_nothing_changed_the_published_digests_come_out(built_project: Path) -> None:
    """A rate times one is a change that changes nothing, and goes the whole way of one that does."""
    said = whatif(built_project / "release", "--from", "4", "--rate", "1", "--json")
    assert said["same"] and said["first_difference"] is None and said["distance"] == 0
    assert said["changed"] == said["published"]
    assert all(line["published"] == line["changed"] for line in said["held_out"])


def test_a_line_of_a_table_is_what_the_command_gives(built_project: Path, tabled: Path, tmp_path: Path) -> None:
    """And what it writes is loaded as any model, has its own digest, and says what it is not."""
    line = next(iter(as_json(tabled / "runs.parquet")))
    documents = [about["document"] for about in as_json(tabled / "groups.parquet") if about["group"] == line["group"]]
    words = [word for id in documents for word in ("--without", id)]
    out = tmp_path / "out"
    said = whatif(built_project / "release", "--from", str(START), *words, "--out", str(out), "--json")
    assert (said["changed"], said["distance"]) == (line["state_digest"], line["distance"])
    assert said["published"] != said["changed"] and sorted(said["left_out"]["documents"]) == documents
    assert START < said["first_difference"] == said["left_out"]["steps"][0]
    effects = [row for row in as_json(tabled / "effects.parquet") if row["group"] == line["group"] and row["source"]]
    for effect, loss in zip(effects, said["held_out"], strict=True):
        assert effect["change"] == pytest.approx(loss["changed"]["loss"] - loss["published"]["loss"], abs=1e-9)
    about = json.loads((out / "everystep.json").read_bytes())
    assert "revision" not in about and about["counterfactual"]["change"] == {"without": documents}
    assert "Not a checkpoint of any release" in (out / "README.md").read_text("utf-8")
    done = everystep("digest", out)
    assert done.code == 0 and f"those of a counterfactual of {MODEL}" in done.out


def test_what_changes_nothing_or_two_things_is_refused(built_project: Path) -> None:
    release = built_project / "release"
    both = refused(release, "--from", "4", "--rate", "0.5", "--seed-order", "1")
    assert "change one thing" in both.err
    assert "did you mean notes?" in refused(release, "--from", "4", "--without-source", "note").err
    assert "--without notes/04:" in refused(release, "--from", "4", "--without", "notes/04").err
    assert "give a number above 0" in refused(release, "--from", "4", "--rate", "nan").err
    assert "give steps in this order" in refused(release, "--from", "8").err
    assert "already exists" in refused(release, "--from", "4", "--rate", "0.5", "--out", str(release)).err


def test_a_document_that_was_read_before_is_refused_with_the_state_to_start_from(built_project: Path) -> None:
    """`notes/041` is read by step 5 alone."""
    release = built_project / "release"
    assert (
        "step 5 does: give --from 4 or an earlier state"
        in refused(release, "--from", "5", "--without", "notes/041").err
    )
    late = refused(release, "--from", "1", "--to", "2", "--without", "notes/041")
    assert "step 5 does: give --to 5 or a later one" in late.err


def test_a_state_without_its_moments_is_refused_with_those_that_have_them(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    (checkpoint(release, MODEL, 4) / "optimizer.safetensors").unlink()
    assert "the moments of 0, 1, 2, 8 are here" in refused(release, "--from", "4", "--rate", "0.5").err


@pytest.mark.long
def test_a_log_that_this_machine_cannot_repeat_ends_before_anything_is_changed(
    built_project: Path, tmp_path: Path
) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    edit_log(release, MODEL, lambda entries: entries[4].update(loss=1.0))
    reseal(release)
    words = [*EVERYSTEP, "whatif", "release", "--model", MODEL, "--from", "4", "--rate", "0.5"]
    done = run(tmp_path, *words, check=False, PYTHONPATH=str(ROOT))
    assert done.returncode == 1 and "with nothing changed, step 5 does not come out here" in done.stderr


# Changes


@pytest.fixture(scope="module")
def rows(once: Once) -> Path:
    return once("rows-to-change", lambda folder: make_run(folder, micro_batches=4))


def digests(folder: Path, change: Change, seed: int | None = None) -> list[str]:
    """Digests of the weights of four steps with a change."""
    recipe, spec = load_recipe(MODEL, folder)
    data = training_data(folder, recipe, spec, Checking(folder=folder / "checked"))
    trainer = Trainer(World(0, 1), change.recipe(recipe), spec, change.data(data))
    found = []
    for _ in range(4):
        trainer.train_step()
        found.append(trainer.weights_digest())
    return found


def test_each_change_is_what_it_says(rows: Path) -> None:
    torch.set_num_threads(1)
    recipe, spec = load_recipe(MODEL, rows)
    published = digests(rows, Change())
    assert digests(rows, Change(order=recipe.data.seed)) == digests(rows, Change(rate=1.0)) == published
    halved = Change(rate=0.5).recipe(recipe).schedule
    for step in range(1, recipe.schedule.steps + 1):
        rates = (learning_rate(schedule, step, recipe.data.global_batch) for schedule in (halved, recipe.schedule))
        assert math.isclose(next(rates) * 2, next(rates), rel_tol=1e-6)
    data = training_data(rows, recipe, spec, Checking(folder=rows / "checked"))
    assert isinstance(data, EverystepData)
    first = int(data.row_numbers(1, 0)[0])
    forgotten = Forgotten(as_spans([(first, 0, 4)]), 0)
    for change, unchanged in (
        (Change(order=recipe.data.seed + 1), 0),
        (Change(rate=0.5), 0),
        (Change(forgotten=forgotten), 1),
    ):
        same = [ours == theirs for ours, theirs in zip(digests(rows, change), published, strict=True)]
        assert same == [True] * unchanged + [False] * (4 - unchanged)
    assert Change(forgotten=forgotten).data(data) == replace(data, forgotten=forgotten)


# Tables


def test_groups_are_all_that_a_stretch_reads_and_no_document_is_in_two(built_project: Path) -> None:
    release = Release.open(built_project / "release")
    groups = groups_of(release, MODEL, START, 8, GROUPS)
    ids = [document.id for group in groups for document in group.documents]
    width, batch = 33, 8
    assert len(groups) == GROUPS and len(set(ids)) == len(ids)
    assert sum(group.tokens for group in groups) == (8 - START) * batch * width
    assert all(document.id.startswith(f"{group.source}/") for group in groups for document in group.documents)


def test_predictions_made_of_gradients_agree_with_exact_runs(tabled: Path) -> None:
    """Over two steps nearly everything is first order; four groups make coarse ranks."""
    score = {(about.prediction, about.targets): about.score for about in read_counterfactuals(tabled).agreement}
    assert score["adamw", "rows"] > 0.7 and score["adamw", "rows"] > score["overlap", "rows"]
    assert score["unrolled", "sources"] > 0.7


def test_a_changed_table_is_found(tabled: Path, tmp_path: Path) -> None:
    folder = tmp_path / "table"
    shutil.copytree(tabled, folder)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["outputs"]["runs"]["sha256"] = "0" * 64
    (folder / MANIFEST).write_bytes(pretty(manifest))
    with pytest.raises(Differs, match=r"runs\.parquet: its rows are not the ones"):
        read_counterfactuals(folder)


def test_the_released_table_says_of_its_predictions_what_its_rows_say() -> None:
    manifest = read_counterfactuals(RELEASED)
    effects = read_table(RELEASED / "effects.parquet", EFFECTS).to_pandas()
    assert manifest.groups >= 64
    for about in manifest.agreement:
        if about.prediction not in PREDICTIONS:
            assert abs(about.score) < (0.05 if about.targets == "rows" else 0.25)
            continue
        asked = effects[effects["row"].notna() == (about.targets == "rows")]
        shape = (manifest.groups, -1)
        found, predicted = (asked[name].to_numpy(np.float64).reshape(shape) for name in ("change", about.prediction))
        assert agreement(predicted, found).score == pytest.approx(about.score, abs=1e-3)  # float32 may tie


def test_ranks_and_correlations_are_spearmans() -> None:
    values = np.array([3.0, 1.0, 3.0, 2.0])
    assert ranks(values).tolist() == [3.5, 1.0, 3.5, 2.0]
    found = np.array([[1.0, 5.0], [2.0, 3.0], [4.0, 1.0], [9.0, 0.0]])
    assert mean_correlation(np.exp(found), found) == 1
    assert mean_correlation(-found, found) == -1
    assert mean_correlation(np.zeros_like(found), found) == 0


@pytest.mark.long
def test_any_number_of_processes_and_a_kill_give_the_same_table(
    built_project: Path, tabled: Path, tmp_path: Path
) -> None:
    release = built_project / "release"
    words = [sys.executable, "-m", "trainer.attribution", str(release), MODEL, str(START), str(GROUPS), "table"]
    env = environment(PYTHONPATH=str(ROOT), EVERYSTEP_PROCESSES="2")
    process = subprocess.Popen(words, cwd=tmp_path, env=env, start_new_session=True, text=True)
    reaches(process, lambda: len(list(tmp_path.rglob("without-*.npz"))) >= 2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    again = table(tmp_path, release, 2)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in tabled.iterdir()
    }


@pytest.mark.long
@pytest.mark.skipif(not (ROOT / "release").is_dir(), reason="the demo is not built here")
def test_a_line_of_the_released_table_comes_out_again() -> None:
    manifest = read_counterfactuals(RELEASED)
    line = list(as_json(RELEASED / "runs.parquet"))[-1]
    documents = [about["document"] for about in as_json(RELEASED / "groups.parquet") if about["group"] == line["group"]]
    words = [word for id in documents for word in ("--without", id)]
    command = [
        "everystep",
        "whatif",
        "release",
        "--model",
        manifest.model,
        "--from",
        str(manifest.start.step),
        "--json",
    ]
    said = json.loads(run(ROOT, *command, *words).stdout)
    assert (said["published"], said["changed"]) == (manifest.stop.state_digest, line["state_digest"])
