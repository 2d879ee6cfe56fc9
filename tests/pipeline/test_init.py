"""`everystep init`: what it makes is a repository that DVC reads and builds, and what it refuses says the fix."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.formats.canonical import parse, pretty
from pipeline.formats.errors import EverystepError
from pipeline.formats.files import list_files
from pipeline.formats.manifests import read_manifest
from pipeline.formats.yaml import load_yaml
from pipeline.init import checkout, init, list_examples, own_stages
from tests.project import ROOT, description, environment, params, recipe, run
from tests.servers.hub import Manners, serve_hub
from tests.servers.hub import environment as seeing

EXAMPLES = ROOT / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/params.yaml"))
COMMIT, OLDER = "c" * 40, "b" * 40


def everystep(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command of this checkout in `folder`."""
    more = environment(PYTHONPATH=str(ROOT), **env)
    command = [sys.executable, "-m", "pipeline.cli", *words]
    return subprocess.run(command, cwd=folder, env=more, capture_output=True, text=True, check=False)


# What is made


@pytest.mark.parametrize("name", NAMES)
def test_new_repository_is_one_whose_stages_dvc_would_all_run(name: str, tmp_path: Path) -> None:
    made = init(tmp_path / "my-release", EXAMPLES / name, ROOT)
    assert (made.folder / ".git").is_dir()
    planned = run(made.folder, "dvc", "repro", "--dry", "--force").stdout
    modules = [line.removeprefix("> python -m ") for line in planned.splitlines() if line.startswith("> ")]
    assert set(modules) >= {f"trainer.train {model}" for model in made.models}
    assert set(modules) >= {f"pipeline.stages.fetch {source}" for source in made.sources}
    listed = run(made.folder, "dvc", "stage", "list", "--name-only").stdout.split()
    changed = json.loads(run(made.folder, "dvc", "status", "--json").stdout)
    assert set(changed) == set(listed) and len(listed) == len(modules)


@pytest.mark.parametrize("name", NAMES)
def test_new_repository_names_no_source_and_no_model_of_another(name: str, tmp_path: Path) -> None:
    made = init(tmp_path / "my-release", EXAMPLES / name, ROOT)
    demo = load_yaml(ROOT / "params.yaml")
    stages = load_yaml(made.folder / "dvc.yaml")
    paths = [dep for stage in stages["stages"].values() for dep in stage.get("do", stage)["deps"]]
    paths += [path for chart in stages.get("plots", []) for lines in chart.values() for path in lines["y"]]
    parts = {part.removesuffix(".json") for path in paths if not path.endswith(".py") for part in path.split("/")}
    assert not parts & {*demo["sources"], *demo["models"]}
    assert [path.name for path in sorted((made.folder / "recipes").iterdir())] == sorted(
        f"{model}.yaml" for model in made.models
    )
    if made.sources:
        assert parts >= set(made.models)


def test_stages_of_the_demo_are_its_own() -> None:
    """The rule that names other models gives this checkout's `dvc.yaml` for its own."""
    demo = load_yaml(ROOT / "params.yaml")
    assert _parsed(own_stages(ROOT, EXAMPLES / "none", demo["models"])) == load_yaml(ROOT / "dvc.yaml")


@pytest.mark.parametrize("key", ["models", "sources"])
def test_an_example_whose_names_lead_elsewhere_writes_nothing(key: str, tmp_path: Path) -> None:
    example = tmp_path / "a" / "b" / "mine"
    shutil.copytree(EXAMPLES / "fineweb-edu", example)
    tree = load_yaml(example / "params.yaml")
    name = "../../../x"
    tree |= {"models": [name]} if key == "models" else {"sources": {name: next(iter(tree["sources"].values()))}}
    (example / "params.yaml").write_bytes(pretty(tree))
    (example / "recipes").mkdir(exist_ok=True)
    (example.parent / "x.yaml").write_text("name: x\n")
    before = list_files(tmp_path)
    with pytest.raises(EverystepError, match=rf"params.yaml: {key}: '../../../x' cannot be a name"):
        init(tmp_path / "made", example, ROOT)
    assert list_files(tmp_path) == before


def _parsed(text: str) -> dict[str, Any]:
    from ruamel.yaml import YAML

    tree: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
    return tree


def test_the_same_example_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [init(tmp_path / at / "my-release", EXAMPLES / "common-pile", ROOT).folder for at in ("a", "b")]
    first, second = ({name: (f / name).read_bytes() for name in list_files(f) if ".git/" not in name} for f in folders)
    assert first == second


def test_release_takes_the_name_of_its_folder_and_nothing_else_of_params_changes(tmp_path: Path) -> None:
    made = init(tmp_path / "my-release", EXAMPLES / "fineweb-edu", ROOT)
    old, new = (EXAMPLES / "fineweb-edu/params.yaml").read_text(), (made.folder / "params.yaml").read_text()
    different = [line for line, was in zip(new.splitlines(), old.splitlines(), strict=True) if line != was]
    assert different == ["  name: my-release"]


def test_every_link_of_the_new_readme_leads_somewhere(tmp_path: Path) -> None:
    for name in NAMES:
        made = init(tmp_path / name, EXAMPLES / name, ROOT)
        assert "](../" not in (made.folder / "README.md").read_text()


def test_code_of_the_new_repository_is_all_that_its_stages_need(tmp_path: Path) -> None:
    made = init(tmp_path / "my-release", EXAMPLES / "amber", ROOT)
    for stage in load_yaml(made.folder / "dvc.yaml")["stages"].values():
        for dep in stage.get("do", stage)["deps"]:
            assert not dep.endswith((".py", ".txt")) or (made.folder / dep).is_file(), dep


# What is refused


@pytest.mark.parametrize("name", ["My-Release", "-release", "a b", "release_1"])
def test_name_that_cannot_be_a_releases_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EverystepError, match="cannot name a release"):
        init(tmp_path / name, EXAMPLES / "amber", ROOT)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "my-release").mkdir()
    (tmp_path / "my-release" / "mine.txt").write_text("mine")
    with pytest.raises(EverystepError, match="is there already"):
        init(tmp_path / "my-release", EXAMPLES / "amber", ROOT)
    assert [path.name for path in (tmp_path / "my-release").iterdir()] == ["mine.txt"]


def test_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "my-release").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EverystepError, match="is there already"):
        init(tmp_path / "my-release", EXAMPLES / "amber", ROOT)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "my-release").mkdir()
    assert init(tmp_path / "my-release", EXAMPLES / "amber", ROOT).folder == tmp_path / "my-release"


def test_model_without_a_recipe_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "amber", tmp_path / "example")
    text = (tmp_path / "example/params.yaml").read_text()
    (tmp_path / "example/params.yaml").write_text(text.replace("[mobillama-05b]", "[nobody]"))
    with pytest.raises(EverystepError, match="models: nobody: no recipe of that name"):
        init(tmp_path / "new" / "my-release", tmp_path / "example", ROOT)
    assert not (tmp_path / "new").exists()


def test_code_that_lies_outside_a_checkout_says_what_it_needs(tmp_path: Path) -> None:
    """A release repository has the code and no examples: `everystep init` from it names the fix."""
    made = init(tmp_path / "my-release", EXAMPLES / "amber", ROOT)
    done = run(made.folder, sys.executable, "-m", "pipeline.cli", "init", check=False)
    assert done.returncode == 2
    assert "lacks examples; clone Everystep" in done.stderr


# The command


def test_without_an_example_they_are_listed_with_their_titles(tmp_path: Path) -> None:
    done = everystep(tmp_path, "init", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["examples"] == list_examples(checkout())
    assert json.loads(done.stdout)["examples"]["fineweb-edu"] == "MobileLLM-125M on FineWeb-Edu"
    assert "Three sizes of Pythia on openly licensed text" in everystep(tmp_path, "init").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["my-release"], "the examples are amber, common-pile, fineweb-edu"),
        (["my-release", "--example", "fineweb"], "one of amber, common-pile, fineweb-edu"),
        (["My", "--example", "amber"], "cannot name a release"),
    ],
)
def test_misuse_is_told_the_fix_with_exit_code_2(tmp_path: Path, words: list[str], message: str) -> None:
    done = everystep(tmp_path, "init", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and message in done.stderr


def test_what_is_not_pinned_is_said(tmp_path: Path) -> None:
    done = everystep(tmp_path, "init", "my-release", "--example", "amber")
    assert done.returncode == 0
    assert "rows.revision: a name that can move" in done.stderr


# Built


TEXTS = "the river and the mountain have to be with that captain who of winter gather silver"


def rows_of_text(number: int) -> bytes:
    draw = random.Random(number)
    words = TEXTS.split()
    lines = [{"id": f"{i}", "text": " ".join(draw.choices(words, k=80)) + "."} for i in range(60)]
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def write_example(folder: Path, tree: dict[str, Any], recipes: dict[str, Any]) -> Path:
    (folder / "recipes").mkdir(parents=True)
    (folder / "params.yaml").write_bytes(pretty(tree))
    (folder / "README.md").write_text("# A small one\n")
    for name, content in recipes.items():
        (folder / "recipes" / f"{name}.yaml").write_bytes(pretty(content))
    return folder


def test_release_on_a_file_and_a_data_set_of_the_hub_is_built_up_to_its_rows(tmp_path: Path, corpora: Path) -> None:
    tree = params(corpora)
    letters = tree["sources"]["letters"]
    from_hub = {key: value for key, value in letters.items() if key not in ("url", "sha256")}
    from_hub |= {
        "kind": "huggingface",
        "repository": "owner/stories",
        "revision": "main",
        "split": "train",
        "priority": 9,
    }
    tree |= {"sources": {"letters": letters, "stories": from_hub}, "models": ["mobilellm"]}
    tree["descriptions"] = {name: description(name) for name in tree["sources"]}
    write_example(tmp_path / "example", tree, {"mobilellm": recipe("mobilellm")})
    history = {OLDER: {"train.jsonl": b"{}\n"}, COMMIT: {"train.jsonl": rows_of_text(1)}}
    with serve_hub({"owner/stories": history}) as url:
        env = seeing(url, str(tmp_path / "cache"))
        done = everystep(tmp_path, "init", "small", "--example", str(tmp_path / "example"), "--pin", "--json", **env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pinned"] == {"sources.stories.revision": COMMIT}
        run(tmp_path / "small", "dvc", "repro", "tokenize", **env)
    tokens = read_manifest(tmp_path / "small/manifests/tokens.json", "tokenize")
    assert tokens["outputs"]["train"]
    fetched = parse((tmp_path / "small/manifests/sources/stories.json").read_bytes())
    assert fetched["parameters"]["revision"] == COMMIT
    assert run(tmp_path / "small", "dvc", "status", "tokenize").stdout.strip().endswith("up to date.")


ROW_IDS = 33


def chunk(number: int) -> bytes:
    draw = random.Random(number)
    rows = [{"token_ids": [draw.randrange(320) for _ in range(ROW_IDS)], "source": "c4"} for _ in range(18)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def on_rows(tmp_path: Path, **changes: Any) -> Path:
    """An example of two chunks and the smallest model, 2 steps a chunk."""
    tree = load_yaml(EXAMPLES / "amber/params.yaml")
    tree["rows"] |= {"repository": "owner/rows", "files": 2} | changes
    small = recipe("mobilellm")
    small |= {
        "checkpoints": "chunks 2",
        "schedule": small["schedule"] | {"steps": 4, "warmup_steps": 1, "decay_steps": 3},
    }
    small["data"] |= {"layout": "llm360", "folder": "data/llm360"}
    folder = write_example(tmp_path / "example", tree | {"models": ["mobilellm"]}, {"mobilellm": small})
    shutil.copy(EXAMPLES / "amber/dvc.yaml", folder / "dvc.yaml")
    return folder


REPOSITORY = {COMMIT: {"README.md": b"rows", "train/train_000.jsonl": chunk(0), "train/train_001.jsonl": chunk(1)}}


def test_release_on_published_rows_is_pinned_fetched_and_trained(tmp_path: Path) -> None:
    example = on_rows(tmp_path)
    with serve_hub({"owner/rows": REPOSITORY}, manners=Manners(large=(".jsonl",))) as url:
        env = seeing(url, str(tmp_path / "cache"))
        done = everystep(tmp_path, "init", "small", "--example", str(example), "--pin", **env)
        assert done.returncode == 0, done.stderr
        assert f"rows.revision: {COMMIT}" in done.stdout
        run(tmp_path / "small", "dvc", "repro", **env)
    small = tmp_path / "small"
    assert (small / "data/llm360/train_001.jsonl").read_bytes() == chunk(1)
    rows = read_manifest(small / "manifests/rows.json", "rows")
    trained = read_manifest(small / "manifests/models/mobilellm.json", "train")
    digests = {f"data/llm360/{file['path']}": file["sha256"] for file in rows["files"]}
    assert len(digests) == 2 and digests.items() <= trained["inputs"].items()
    assert [entry["step"] for entry in trained["checkpoints"]] == [0, 2, 4]


@pytest.mark.parametrize(
    ("changes", "manners", "message"),
    [
        ({"files": 3}, Manners(), "3 files of different names are declared, 2 fit"),
        ({"revision": "d" * 40}, Manners(), "owner/rows@dddddddddddd: "),
        ({}, Manners(large=(".jsonl",), lies=True), "as the Hub keeps it, got"),
        ({"sha256": "0" * 64}, Manners(), "of the list of files, got"),
        ({}, Manners(gated={"owner/rows": "a token"}), "set HF_TOKEN to a token that may read it"),
    ],
)
def test_published_rows_that_are_not_as_declared_are_refused(
    tmp_path: Path, changes: dict[str, Any], manners: Manners, message: str
) -> None:
    made = init(tmp_path / "small", on_rows(tmp_path, **{"revision": COMMIT} | changes), ROOT)
    with serve_hub({"owner/rows": REPOSITORY}, manners=manners) as url:
        env = seeing(url, str(tmp_path / "cache"))
        done = run(made.folder, sys.executable, "-m", "pipeline.stages.rows", check=False, **env)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert not list((made.folder / "data/llm360").iterdir())
