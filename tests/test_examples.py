"""Every example is one that the stages accept, its recipes fit it, and each figure of its table comes out again."""

import shutil
from pathlib import Path

import pytest
from dvc.utils.serialize import dumps_yaml, parse_yaml
from ruamel.yaml import YAML

from pipeline.base.errors import EverystepError
from pipeline.base.params import load_params, load_section, model_names, source_names
from pipeline.base.yaml import Section, load_yaml
from pipeline.formats.suite import require_one_suite
from pipeline.plan.table import markdown
from pipeline.release.words import ReleaseParams, check_words
from pipeline.sources.declaration import HuggingfaceSource, TokenizedSource, load_source
from pipeline.stages.dedup.stage import DedupParams
from pipeline.stages.evaluation_sets import EvaluationParams
from pipeline.stages.filter import FilterParams
from pipeline.stages.tasks.params import TasksParams
from pipeline.stages.tokenize.params import TokenizeParams
from pipeline.stages.tokenizer import TokenizerParams
from tests.examples import COSTS, EXAMPLES, ON_ROWS, plan_of, stages_on_rows
from tests.imports import ROOT
from trainer.evaluate import EvaluateParams
from trainer.recipe import load_recipe

NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/params.yaml"))
ON_TEXT = [name for name in NAMES if "sources" in load_yaml(EXAMPLES / name / "params.yaml")]
SECTIONS: dict[str, type[Section]] = {
    "evaluation_sets": EvaluationParams,
    "filter": FilterParams,
    "dedup": DedupParams,
    "tokenizer": TokenizerParams,
    "tokenize": TokenizeParams,
    "tasks": TasksParams,
    "evaluate": EvaluateParams,
    "release": ReleaseParams,
}
ROUND = YAML(typ="safe", pure=True)


def recipes_of(name: str, folder: Path) -> Path:
    """A folder with the recipes that the example trains: its own, and those of the project."""
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    shutil.copytree(EXAMPLES / name, folder, dirs_exist_ok=True)
    return folder


def test_the_three_that_are_promised_are_there() -> None:
    assert NAMES == ["amber", "common-pile", "fineweb-edu"]


@pytest.mark.parametrize("name", ON_TEXT)
def test_every_source_is_accepted_and_pinned(name: str) -> None:
    path = EXAMPLES / name / "params.yaml"
    for source in source_names(path):
        declared = load_source(source, path)
        assert isinstance(declared, HuggingfaceSource)
        said = check_words(load_params(path), source_names(path), str(path)).descriptions[source]
        assert said.evidence.startswith(f"https://huggingface.co/datasets/{declared.repository}")


@pytest.mark.parametrize("name", ON_TEXT)
def test_what_dvc_writes_of_a_source_it_reads_again(name: str) -> None:
    """It breaks a long key over two lines of the lock, and cannot read these."""
    sources = load_yaml(EXAMPLES / name / "params.yaml")["sources"]
    assert parse_yaml(dumps_yaml(sources), "dvc.lock") == sources


@pytest.mark.parametrize("name", ON_TEXT)
def test_every_section_is_accepted(name: str) -> None:
    path = EXAMPLES / name / "params.yaml"
    assert set(SECTIONS) | {"sources", "models"} <= set(load_params(path))
    for section, kind in SECTIONS.items():
        load_section(kind, section, path)


@pytest.mark.parametrize("name", ON_TEXT)
def test_duplicates_stay_in_one_source_only(name: str) -> None:
    path = EXAMPLES / name / "params.yaml"
    priorities = [load_source(source, path).priority for source in source_names(path)]
    assert len(set(priorities)) == len(priorities)


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_there_and_make_one_suite(name: str, tmp_path: Path) -> None:
    folder = recipes_of(name, tmp_path)
    models = model_names(EXAMPLES / name / "params.yaml")
    loaded = {model: load_recipe(model, folder)[0] for model in models}
    require_one_suite({model: recipe.model_dump() for model, recipe in loaded.items()})


@pytest.mark.parametrize("name", ON_TEXT)
def test_recipes_read_the_rows_that_the_stages_write(name: str, tmp_path: Path) -> None:
    path = EXAMPLES / name / "params.yaml"
    rows = load_section(TokenizeParams, "tokenize", path)
    for model in model_names(path):
        recipe, spec = load_recipe(model, recipes_of(name, tmp_path / model))
        assert (recipe.data.layout, recipe.data.folder, recipe.data.seed) == ("everystep", "data/tokens", rows.seed)
        assert spec.context == rows.context
        assert spec.vocabulary >= load_section(TokenizerParams, "tokenizer", path).vocabulary


def test_recipe_of_fineweb_edu_is_the_published_one_but_for_its_data() -> None:
    ours = load_yaml(EXAMPLES / "fineweb-edu/recipes/mobilellm-125m.yaml")
    published = load_yaml(ROOT / "recipes/mobilellm-125m.yaml")
    assert {key for key in published if ours[key] != published[key]} == {"data"}
    assert {key for key in published["data"] if ours["data"][key] != published["data"][key]} == {"layout", "folder"}


# Rows that others published


def test_revision_that_is_not_known_is_refused_with_the_way_to_pin_it() -> None:
    path = EXAMPLES / "amber/params.yaml"
    with pytest.raises(EverystepError, match=r"rows\.revision: 'main' is a name .* --pin` looks them up$"):
        load_section(TokenizedSource, "rows", path)


def test_rows_are_accepted_once_they_are_pinned(tmp_path: Path) -> None:
    text = (EXAMPLES / "amber/params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("revision: main", f"revision: {'a' * 40}"))
    rows = load_section(TokenizedSource, "rows", tmp_path / "params.yaml")
    (model,) = model_names(tmp_path / "params.yaml")
    recipe, _ = load_recipe(model, ROOT)
    assert (recipe.data.layout, recipe.data.folder) == ("llm360", "data/llm360")
    assert recipe.checkpoints == f"chunks {rows.files}"


def test_a_release_on_rows_declares_nothing_else(tmp_path: Path) -> None:
    text = (EXAMPLES / "amber/params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text + "filter: {}\n")
    with pytest.raises(EverystepError, match="filter: unknown section"):
        load_params(tmp_path / "params.yaml")


def test_stages_on_rows_are_those_that_the_code_needs() -> None:
    assert ROUND.load(ON_ROWS) == stages_on_rows(), "run `python -m tests.examples`"


# What it costs


@pytest.mark.parametrize("name", NAMES)
def test_costs_in_the_readme_are_those_of_the_plan(name: str) -> None:
    written = COSTS.search((EXAMPLES / name / "README.md").read_text("utf-8"))
    assert written and written[0] == markdown(plan_of(EXAMPLES / name)), "run `python -m tests.examples`"


@pytest.mark.parametrize("name", NAMES)
def test_every_planned_figure_says_where_it_is_from(name: str) -> None:
    assert all(figure.origin for figure in plan_of(EXAMPLES / name))
