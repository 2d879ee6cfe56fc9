"""The documentation tells the truth: what it names is there, what it shows runs, and all that is there is named."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest
import typer

from pipeline.base.params import OPTIONAL, SECTION_OF_FORKS, SECTIONS, SECTIONS_ON_ROWS
from pipeline.base.yaml import Section, check, load_yaml
from pipeline.blocks.steps import STEPS
from pipeline.cli.program import app
from pipeline.executor.ordered_map import EXECUTOR, WORKERS
from pipeline.executor.settings import ExecutorParams
from pipeline.formats import families
from pipeline.formats.model import num_parameters, unrolled
from pipeline.formats.stages import BY_NAME, OF_FORKS, ON_ROWS, STAGES
from pipeline.release.words import Description, ReleaseParams, RowsDescription
from pipeline.sources.declaration import (
    Declared,
    HuggingfaceSource,
    PackageSource,
    TokenizedSource,
    UrlSource,
    parse_source,
)
from pipeline.sources.document import RawDocument
from pipeline.sources.readers import READERS
from pipeline.stages.dedup.stage import DedupParams
from pipeline.stages.evaluation_sets import EvaluationParams
from pipeline.stages.filter import FilterParams
from pipeline.stages.tasks.params import TasksParams
from pipeline.stages.tokenize.mix import MixtureParams
from pipeline.stages.tokenize.params import TokenizeParams
from pipeline.stages.tokenizer import TokenizerParams
from tests.pipeline.sources.declared import declared
from tests.project import environment
from tests.sessions import (
    FENCE,
    MODELS,
    ROOT,
    Block,
    answers,
    blocks,
    commands,
    documents,
    query_of,
    run_session,
    shown,
    spans,
    with_models,
)
from tests.test_layering import ALLOWED
from trainer.evaluate import EvaluateParams
from trainer.launch import PROCESSES
from trainer.parent import ParentParams
from trainer.recipe import Recipe
from trainer.score import ScoreParams

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in documents()}
PROGRAM: Any = typer.main.get_command(app)
PARAMS_PAGE = "docs/reference/params.md"

# The documents speak of the demo; here they run on the small release, which has other models, steps and documents.
SMALL = {
    r"\b252\b": "7",
    r"step000064-tokens65536": "step000004-tokens1024",
    r"\b64\b": "4",
    r"\b128\b": "8",
    r"\b127\b": "7",
    r"\b37\b": "6",
    r"step000037-tokens37888": "step000006-tokens1536",
    r"plays/tragedies/hamlet/act-iii/scene-ii": "notes/102",
    r"plays/histories/henry-v/act-i/prologue": "notes/102",
    r"google-api/healthcare\.v1/schemas/ExportResourcesRequest": "tales/042",
    r"google-api/workstations\.v1beta/schemas/Status": "tales/009",
    r"google-api/apihub\.v1/schemas/GoogleRpcStatus": "tales/008",
}


def small(text: str) -> str:
    for pattern, replacement in SMALL.items():
        text = re.sub(pattern, replacement, text)
    return text


@pytest.fixture
def reader(tmp_path: Path, built_project: Path) -> Path:
    """A folder in which a reader has the release, and a builder the recipes."""
    for name in ("release", "recipes", "manifests", "params.yaml"):
        (tmp_path / name).symlink_to(built_project / name)
    (tmp_path / "counterfactuals").symlink_to(ROOT / "counterfactuals")
    return tmp_path


EACH = """
import sys
for code in sys.argv[1:]:
    print(code)
    exec(compile(code, "a block", "exec"), {"__name__": "__main__"})
"""


def run_python(blocks: list[str], folder: Path) -> None:
    """Run blocks of code in one process, which loads libraries once; no block sees a name of another."""
    env = environment(HF_HUB_OFFLINE="1")
    done = subprocess.run([sys.executable, "-c", EACH, *blocks], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", PROGRAM.commands)
def test_every_command_and_option_is_documented(name: str) -> None:
    calls = [words for text in TEXTS.values() for words in commands(text) if words[:2] == ["everystep", name]]
    assert calls, f"no document shows `everystep {name}`"
    said = {word for call in calls for word in call} | {span for text in TEXTS.values() for span in spans(text)}
    options = {option for parameter in PROGRAM.commands[name].params for option in parameter.opts if option[0] == "-"}
    assert options <= said


@pytest.mark.parametrize("name", PROGRAM.commands)
def test_help_of_a_command_begins_with_the_first_line_of_its_docstring(name: str) -> None:
    command = PROGRAM.commands[name]
    assert command.help.splitlines()[0] == command.callback.__doc__.splitlines()[0]


@pytest.mark.parametrize("path", TEXTS)
def test_commands_in_a_document_are_ones_that_the_program_takes(path: str) -> None:
    for words in commands(TEXTS[path]):
        if words[0] == "everystep":
            assert words[1] in PROGRAM.commands, f"{path}: {words}"
            if words[2:]:  # `everystep verify` alone is the name of the command
                PROGRAM.commands[words[1]].make_context(words[1], words[2:])


@pytest.mark.parametrize("path", [path for path, text in TEXTS.items() if blocks(text, "console", "python")])
def test_sessions_run_on_a_small_release_and_print_what_is_shown_and_python_runs_after_them(
    path: str, reader: Path
) -> None:
    for block in blocks(TEXTS[path], "console"):
        session = Block(block.kind, small(block.text))
        for (command, printed), (_, output) in zip(run_session(session, reader), shown(session), strict=True):
            assert output, f"{path}: no output under `{command}`; run `python -m tests.sessions` after `make release`"
            assert first_line(output) == first_line(printed), f"{path}: {command}"
    if code := [small(block.text) for block in blocks(TEXTS[path], "python")]:
        run_python(code, reader)


@pytest.mark.parametrize("path", [path for path, text in TEXTS.items() if blocks(text, "sql")])
def test_queries_run_on_a_small_release_and_answer_in_the_columns_that_are_shown(path: str, reader: Path) -> None:
    text = small(TEXTS[path])
    for block, answer in zip(blocks(text, "sql"), answers(text, reader), strict=True):
        known = block.text.removeprefix(query_of(block))
        assert known.startswith("-- ") or not answer, f"{path}: run `python -m tests.sessions` after `make release`"
        assert first_line(known) == first_line(answer), f"{path}: {query_of(block)}"


def first_line(output: str) -> str:
    """The first line as words: any number, any list of numbers and the numbers of a revision are `#`."""
    words = " ".join(output.partition("\n")[0].split())
    words = re.sub(r"step\d+-tokens\d+", "step#-tokens#", words)
    words = re.sub(r"\b[kM]B\b", "MB", re.sub(r"\b(embedding|layers\.\d+\.[\w.]+)\.weight\b", "TENSOR.weight", words))
    return re.sub(r"#(, #)*", "#", re.sub(r"\b\d[\d.,]*\d\b|\b\d\b", "#", words))


@pytest.mark.parametrize("path", TEXTS)
def test_links_between_documents_lead_somewhere(path: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[path])):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (ROOT / path).parent / name if name else ROOT / path
        assert file.exists(), f"{path}: {target}"
        assert not anchor or anchor in anchors(file.read_text("utf-8")), f"{path}: {target}"


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to headings."""
    titles = re.findall(r"^#+ (.*)$", FENCE.sub("", text), flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", TEXTS)
def test_files_that_a_document_names_are_there(path: str) -> None:
    for span in spans(TEXTS[path]):
        if re.fullmatch(r"(pipeline|trainer|tests|docs|bench|\.dvc)/[a-z0-9_./-]+", span):
            assert (ROOT / span).exists(), f"{path}: {span}"


def test_make_targets_in_documents_are_those_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert {words[1] for text in TEXTS.values() for words in commands(text) if words[0] == "make"} == targets


def test_table_of_models_is_that_of_the_release() -> None:
    assert MODELS.search(TEXTS["README.md"])
    assert with_models(TEXTS["README.md"]) == TEXTS["README.md"]


def test_every_page_is_linked_from_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = {index.parent / target for target in re.findall(r"\]\(([^)#\s]+)", index.read_text("utf-8"))}
    assert linked >= {*(ROOT / "docs").rglob("*.md")} - {index}


def test_variables_of_the_environment_are_documented() -> None:
    """Each constant that names one, and nothing else by our name."""
    code = [path.read_text("utf-8") for room in ("pipeline", "trainer") for path in (ROOT / room).rglob("*.py")]
    ours = {name for text in code for name in re.findall(r"\"(EVERYSTEP_[A-Z]+)\"", text)}
    assert ours >= {EXECUTOR, WORKERS, PROCESSES}
    assert {span for span in spans(TEXTS["docs/reference/environment.md"]) if span.startswith("EVERYSTEP_")} == ours


SECTION_MODELS: dict[str, list[type[Section]]] = {
    "sources": [Declared, PackageSource, UrlSource, HuggingfaceSource],
    "descriptions": [Description, RowsDescription],
    "rows": [TokenizedSource],
    "evaluation_sets": [EvaluationParams],
    "filter": [FilterParams],
    "dedup": [DedupParams],
    "tokenizer": [TokenizerParams],
    "mixture": [MixtureParams],
    "tokenize": [TokenizeParams],
    "tasks": [TasksParams],
    "evaluate": [EvaluateParams],
    "score": [ScoreParams],
    "models": [],
    "release": [ReleaseParams],
    "parent": [ParentParams],
    "parent_address": [],
    "executor": [ExecutorParams],
}


def test_every_section_of_params_is_documented() -> None:
    assert set(SECTION_MODELS) == {*SECTIONS, *OPTIONAL, *SECTIONS_ON_ROWS, SECTION_OF_FORKS}
    assert {f"`{name}`" for name in SECTION_MODELS} <= set(re.findall("^## (.*)$", TEXTS[PARAMS_PAGE], flags=re.M))


@pytest.mark.parametrize("name", SECTION_MODELS)
def test_every_key_of_a_section_is_documented(name: str) -> None:
    """Below the heading of the section, by its own name or as the last part of a dotted one."""
    (text,) = re.findall(rf"^## `{name}`\n(.*?)(?=^## |\Z)", TEXTS[PARAMS_PAGE], flags=re.M | re.S)
    said = {part for span in spans(text) for part in span.split(".")}
    assert {key for model in SECTION_MODELS[name] for key in keys_of(model)} <= said


def keys_of(section: type[Section]) -> set[str]:
    """The keys of a section and of the sections inside it."""
    inside = [model for field in section.model_fields.values() for model in sections_in(field.annotation)]
    return set(section.model_fields).union(*map(keys_of, inside))


def sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for argument in get_args(annotation) for model in sections_in(argument)]


def test_every_reader_and_step_is_documented() -> None:
    assert {*READERS, *STEPS} <= set(spans(TEXTS[PARAMS_PAGE]))


def test_sources_in_the_documents_are_accepted() -> None:
    trees = [parsed(block) for block in blocks(TEXTS["docs/add-a-corpus.md"], "yaml")]
    sources = {name: tree for each in trees for name, tree in each.get("sources", {}).items()}
    said = {
        name: check(Description, tree, name) for each in trees for name, tree in each.get("descriptions", {}).items()
    }
    assert set(said) == set(sources)
    assert {parse_source(name, tree, "docs/add-a-corpus.md").kind for name, tree in sources.items()} == {
        "url",
        "huggingface",
    }


def test_rules_of_one_source_in_the_documents_are_accepted() -> None:
    trees = [parsed(block) for block in blocks(TEXTS["docs/add-a-corpus.md"], "yaml")]
    (own,) = [tree["filter"]["sources"] for tree in trees if "filter" in tree and "sources" in tree["filter"]]
    common = load_yaml(ROOT / "params.yaml")["filter"]
    rules = check(FilterParams, common | {"sources": own}, "docs/add-a-corpus.md").sources["gazette"].model_dump()
    assert rules["gopher_quality"] == common["gopher_quality"] | own["gazette"]["gopher_quality"]


def parsed(block: Block) -> dict[str, Any]:
    from ruamel.yaml import YAML

    tree: dict[str, Any] = YAML(typ="safe", pure=True).load(block.text)
    return tree


def test_every_key_of_a_recipe_is_documented() -> None:
    said = {part for span in spans(TEXTS["docs/reference/recipes.md"]) for part in span.split(".")}
    keys = keys_of(Recipe).union(*(keys_of(section) for section, _ in families.FAMILIES.values()))
    assert keys | set(families.FAMILIES) <= said


def test_rooms_in_the_documents_are_those_that_the_layering_allows() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\|([^|]*)\|$", section_of("docs/architecture.md", "Rooms"), flags=re.M)
    said = {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows}
    short = {
        room.rpartition(".")[2]: {other.rpartition(".")[2] for other in allowed} for room, allowed in ALLOWED.items()
    }
    assert said == short


def test_stages_in_the_documents_are_those_of_the_table() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| \w+ (\w+) \|.*\| `([\w/.]+)`", section_of("docs/architecture.md", "Stages"), flags=re.M
    )
    said = {name: (per, manifest) for name, per, manifest in rows}
    for stage in STAGES:
        ending = ".json" if stage.per == "release" else f"/{stage.per.upper()}.json"
        assert said[stage.name] == (stage.per, f"{stage.manifest}{ending}")
    assert set(said) <= {*BY_NAME, "code"} - {stage.name for stage in (*ON_ROWS, *OF_FORKS)}


def section_of(path: str, title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", FENCE.sub("", TEXTS[path]), flags=re.M | re.S)
    return str(text)


def test_family_in_the_documents_builds_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(TEXTS["docs/add-a-model.md"], "python family")
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    exec(compile(block.text, "docs/add-a-model.md", "exec"), vars(families) | {"FAMILIES": families.FAMILIES})
    shape: dict[str, Any] = {
        "vocabulary": 64,
        "context": 16,
        "width": 32,
        "layers": 6,
        "query_heads": 4,
        "ffn_width": 48,
    }
    rest: dict[str, Any] = {"tied_embedding": True, "rotary_base": 10000.0, "norm_epsilon": 1e-5, "initial_std": 0.02}
    spec = families.build_spec({"family": "one-block", **shape, **rest}, "recipes/x.yaml")
    assert len(spec.applications) == 6 and len(unrolled(spec)[0].layers) == 6
    assert num_parameters(spec) == 64 * 32 + (4 * 32 * 32 + 3 * 32 * 48 + 2 * 32) + 32
    assert len(block.text.splitlines()) < 30


def test_reader_in_the_documents_reads_its_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks(TEXTS["docs/add-a-corpus.md"], "python reader")
    module: Any = ModuleType("fortunes")
    exec(compile(block.text, "docs/add-a-corpus.md", "exec"), vars(module))
    (tmp_path / "wise.fortunes").write_text("Measure twice.\n%\nCut once,\nthen sweep.")
    (part,) = module.parts(tmp_path, declared("url"))
    assert list(module.read(tmp_path, part, declared("url"))) == [
        RawDocument("wise.fortunes:1", "Measure twice.", {"member": "wise.fortunes"}),
        RawDocument("wise.fortunes:2", "Cut once,\nthen sweep.", {"member": "wise.fortunes"}),
    ]
