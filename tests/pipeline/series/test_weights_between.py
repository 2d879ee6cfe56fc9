"""Two weight files of others: which learning rates it takes to come from one to the other."""

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from pipeline.base.errors import EverystepError
from pipeline.series.displacement import Rates, read_recipe
from pipeline.series.lint import Linted, lint
from tests.pipeline.series import published
from tests.pipeline.series.published import Branches, safetensors
from tests.project import ROOT
from tests.releases import everystep
from tests.servers.hub import OWNER, Hub

NAME = f"{OWNER}/pythia-160m-weight-seed1"
ADDRESS = f"hf://{NAME}"
RECIPE = ROOT / "recipes/pythia-160m.yaml"
PEAK = 6e-4
STEPS = (0, 1, 4, 16)


def issue_203(continues: bool) -> Branches:
    """A series whose steps from 1 on begin at other weights than its own step 0, unless it `continues`."""
    rng = np.random.default_rng(203)
    ours, theirs = (rng.normal(0, 0.02, (64, 64)).astype(np.float32) for _ in range(2))
    branches: Branches = {}
    for step in STEPS:
        born = ours if step == 0 or continues else theirs
        moved = born + rng.uniform(-1, 1, born.shape) * step * PEAK / 1430
        tensors = {"layer.weight": moved.astype(np.float16)}
        branches[f"step{step}"] = {**published.SMALL, "model.safetensors": safetensors(tensors)}
    return {"main": dict(branches["step16"]), **branches}


def compared(hub: Hub, branches: Branches, first: str, second: str, rates: Rates) -> Linted:
    hub.put_branches("models", NAME, branches)
    return lint(ADDRESS, (first, second), rates)


def test_a_training_that_does_not_begin_at_its_own_step_0_is_shown_by_two_files_and_a_peak_rate(hub: Hub) -> None:
    """pythia#203: digests differ in every branch, so metadata shows nothing."""
    branches = issue_203(continues=False)
    assert compared(hub, branches, "step1", "step4", Rates(peak=PEAK)).findings == ()
    for second in ("step1", "step4", "16"):
        (finding,) = compared(hub, branches, "step0", second, Rates(peak=PEAK)).findings
        assert finding.kind == "displacement"
        assert finding.revisions[0] == "step0"


def test_a_training_that_goes_on_from_step_0_is_not_blamed(hub: Hub) -> None:
    branches = issue_203(continues=True)
    for rates in (Rates(peak=PEAK), Rates(recipe=read_recipe(RECIPE))):
        for second in ("step1", "step4", "step16"):
            assert compared(hub, branches, "step0", second, rates).findings == ()


def test_the_rates_of_a_recipe_bound_more_than_its_peak(hub: Hub) -> None:
    """In the warm-up, a move that the peak could make is far more than the rates of these steps allow."""
    branches = issue_203(continues=True)
    moved = {"layer.weight": np.full((64, 64), PEAK / 4, np.float16)}
    branches["step0"]["model.safetensors"] = safetensors({"layer.weight": np.zeros((64, 64), np.float16)})
    branches["step1"]["model.safetensors"] = safetensors(moved)
    assert compared(hub, branches, "step0", "step1", Rates(peak=PEAK)).findings == ()
    (finding,) = compared(hub, branches, "step0", "step1", Rates(recipe=read_recipe(RECIPE))).findings
    assert "by the rates of the recipe the weight of layer.weight[0, 0] moved by 0.000149965" in finding.what


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_weights_are_compared_in_any_type_that_they_are_published_in(hub: Hub, dtype: str) -> None:
    def encoded(value: float) -> bytes:
        numbers = np.full((4, 4), value, np.float32)
        if dtype == "F32":
            return safetensors({"w": numbers})
        if dtype == "F16":
            return safetensors({"w": numbers.astype(np.float16)})
        halves = (numbers.view(np.uint32) >> 16).astype(np.uint16).view(np.float16)
        return safetensors({"w": halves}, dtype)

    branches = {f"step{step}": {"model.safetensors": encoded(value)} for step, value in ((0, 0.5), (1, 0.75))}
    found = compared(hub, branches, "step0", "step1", Rates())
    assert found.moved is not None and found.moved.moved == 0.25
    assert found.moved.needed_rate == pytest.approx(0.25 / 1.05, rel=0.03)
    assert found.findings == ()


def test_without_rates_it_is_said_what_cannot_be_said(hub: Hub) -> None:
    hub.put_branches("models", NAME, issue_203(continues=False))
    done = everystep("lint", ADDRESS, "--weights", "step0", "step1")
    assert done.code == 0
    assert "takes a mean learning rate of" in done.out
    assert "without --peak-rate or --recipe nothing follows from that" in done.out
    done = everystep("lint", ADDRESS, "--weights", "0", "1", "--peak-rate", "0.0006", "--report")
    assert done.code == 1 and "step1 was not trained from step0 in 1 update" in done.out


def test_what_cannot_be_compared_is_misuse(hub: Hub) -> None:
    branches = issue_203(continues=True)
    branches["step4"]["model.safetensors"] = safetensors({"other.weight": np.zeros((4, 4), np.float16)})
    branches["step16"] = {"pytorch_model.bin": b"a pickle"}
    hub.put_branches("models", NAME, branches)
    for words, said in (
        (["--weights", "step1", "step0"], "the earlier first"),
        (["--weights", "step0", "step5"], "no checkpoints of that name"),
        (["--weights", "step0", "step4"], "have different tensors"),
        (["--weights", "step0", "step16"], "pickles are not opened"),
        (["--weights", "step0", "step1", "--recipe", "recipes/none.yaml"], "no such file"),
        (["--weights", "step0", "step1", "--recipe", str(RECIPE), "--beta2", "0.9"], "either --recipe or --beta2"),
        (["--peak-rate", "0.1"], "need --weights"),
    ):
        done = everystep("lint", ADDRESS, *words)
        assert done.code == 2 and said in done.err, words


def test_weights_shorter_than_their_header_says_are_an_error(tmp_path: Path) -> None:
    for step, cut in ((0, 0), (1, 8)):
        content = safetensors({"w": np.ones((4, 4), np.float32)})
        (tmp_path / f"step{step}").mkdir()
        (tmp_path / f"step{step}" / "model.safetensors").write_bytes(content[: len(content) - cut])
    with pytest.raises(EverystepError, match="its header says otherwise"):
        lint(str(tmp_path), ("step0", "step1"), Rates())


def test_consecutive_checkpoints_of_our_release_are_within_the_rates_of_their_recipe(
    built_project: Path, tmp_path: Path
) -> None:
    """And a step of another training is not, without a digest being asked."""
    release = built_project / "release"
    rates = Rates(recipe=read_recipe(release / "recipes/mobilellm.yaml"))
    runs = shutil.copytree(release / "runs/mobilellm", tmp_path / "runs")
    names = sorted(path.name for path in runs.glob("step*"))
    for before, after in pairwise(names):
        assert lint(str(runs), (before, after), rates).findings == ()
    weights = runs / names[-2] / "model.safetensors"
    weights.chmod(0o644)
    shutil.copyfile(runs / names[0] / "model.safetensors", weights)
    kinds = [finding.kind for finding in lint(str(runs), (names[-2], names[-1]), rates).findings]
    assert "same weights" in kinds
