"""What a project will cost: from its params and recipes, what it declares, and an earlier build."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.params import model_names
from pipeline.plan.plan import Figure, make_plan
from pipeline.plan.rates import load_rates
from pipeline.plan.table import markdown
from tests.imports import ROOT
from tests.releases import everystep
from trainer.planned import planned


def figures_of(folder: Path) -> dict[tuple[str, str], Figure]:
    trainings = [planned(name, folder) for name in model_names(folder / "params.yaml")]
    return {(figure.section, figure.name): figure for figure in make_plan(folder, trainings, load_rates())}


@pytest.fixture
def unbuilt(tmp_path: Path) -> Path:
    """The demo's project before anything was fetched."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


def test_what_is_not_fetched_and_not_declared_is_unknown(unbuilt: Path) -> None:
    found = figures_of(unbuilt)
    for section, name in (("corpus", "text"), ("corpus", "tokens"), ("data stages", "filter"), ("disk", "peak")):
        assert found[section, name].value is None, name
    assert found["corpus", "text"].origin == "unknown before it is fetched; sizes.yaml may declare it"
    assert found["mobilellm", "epochs"].value is None
    assert "unknown" in markdown([*found.values()])


def test_what_a_recipe_says_is_known_before_anything_runs(unbuilt: Path) -> None:
    found = figures_of(unbuilt)
    values = {name: figure.value for (section, name), figure in found.items() if section == "mobilellm"}
    assert values["parameters"] == 754_816
    assert values["tokens"] == 524_288
    assert values["stored"] == 11
    assert values["checkpoints_bytes"] == 12 * 754_816 * 11
    assert values["virtual"] == 256 - 10  # states 1 to 256 have a digest; ten of the stored ones are among them
    assert found["mobilellm-ls", "applied"].value and found["mobilellm-ls", "applied"].value > 754_816


def test_declared_sizes_give_hours_and_disk_with_their_sources(unbuilt: Path) -> None:
    sources = "".join(
        f"  {name}: {{text: {{value: 1000000000, from: a card}}, download: {{value: 1000, from: a list}}}}\n"
        for name in ("aws-api", "google-api", "plays", "speeches")
    )
    (unbuilt / "sizes.yaml").write_text(f"sources:\n{sources}bytes_per_token: {{value: 4, from: a tokenizer}}\n")
    found = figures_of(unbuilt)
    assert found["corpus", "text"][4:] == (4e9, "a card", None)
    assert found["corpus", "tokens"].value == 1e9
    assert "a tokenizer" in found["corpus", "tokens"].origin
    assert found["data stages", "filter"].value == pytest.approx(4 * 717.4 / 3600)
    assert found["mobilellm", "epochs"].value == pytest.approx(2_048 * 257 / 1e9)
    assert found["disk", "peak"].value and found["disk", "peak"].value > 3 * 4e9


def test_sizes_of_an_unknown_source_or_without_a_source_are_refused(unbuilt: Path) -> None:
    (unbuilt / "sizes.yaml").write_text("sources:\n  plays: {text: {value: 3}}\n")
    with pytest.raises(EverystepError, match=r"sizes\.yaml: sources\.plays\.text\.from"):
        figures_of(unbuilt)
    (unbuilt / "sizes.yaml").write_text("sources:\n  operas: {text: {value: 3, from: a card}}\n")
    with pytest.raises(EverystepError, match=r"sizes\.yaml: sources\.operas: not a source"):
        figures_of(unbuilt)


def test_a_build_is_beside_its_plan(built_project: Path) -> None:
    found = figures_of(built_project)
    for name in ("documents", "text", "tokens"):
        figure = found["corpus", name]
        assert figure.value == figure.built and "manifests of the build" in figure.origin
    (model, *_) = model_names(built_project / "params.yaml")
    for name in ("parameters", "tokens", "stored"):
        assert found[model, name].value == found[model, name].built, name
    stored = found[model, "checkpoints_bytes"]
    assert stored.value and stored.built and stored.value < stored.built < 1.6 * stored.value  # headers, config, log
    peak = found["disk", "peak"].value
    assert peak and peak > sum(figure.built or 0 for (section, _), figure in found.items() if section == "disk")


def test_the_command_needs_neither_torch_nor_time(unbuilt: Path) -> None:
    code = (
        "import sys, time\n"
        "began = time.process_time()\n"
        f"sys.argv = ['everystep', 'plan', {str(unbuilt)!r}, '--json']\n"
        "from pipeline.cli.program import app\n"
        "app(standalone_mode=False)\n"
        "print(time.process_time() - began, 'torch' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    seconds, torch = done.stderr.split()[-2:]
    assert (float(seconds) < 6, torch) == (True, "False")
    assert {"section", "name", "value", "unit", "origin", "built", "what"} == set(json.loads(done.stdout)["figures"][0])


def test_one_model_may_be_planned_and_an_unknown_one_is_named(unbuilt: Path) -> None:
    one = everystep("plan", unbuilt, "--model", "openelm")
    assert one.code == 0 and "openelm" in one.out and "mobillama" not in one.out
    unknown = everystep("plan", unbuilt, "--model", "gpt")
    assert unknown.code == 2 and "--model gpt: not a model of" in unknown.err
