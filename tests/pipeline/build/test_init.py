"""`everystep init`: what it makes is a repository that DVC reads and builds, and what it refuses says the fix."""

import json
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files
from pipeline.base.yaml import load_yaml
from pipeline.build.init import checkout, init, list_examples, own_stages
from pipeline.formats.canonical import parse, pretty
from tests.project import ROOT, description, environment, params, recipe, run
from tests.releases import read_json
from tests.servers.hub import Manners, serve_hub
from tests.servers.hub import environment as seeing
from tests.sessions import FENCE

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
    modules = [
        line.removeprefix("> python -m pipeline.stages ") for line in planned.splitlines() if line.startswith("> ")
    ]
    assert set(modules) >= {f"train {model}" for model in made.models}
    assert set(modules) >= {f"fetch {source}" for source in made.sources}
    listed = run(made.folder, "dvc", "stage", "list", "--name-only").stdout.split()
    changed = json.loads(run(made.folder, "dvc", "status", "--json").stdout)
    assert set(changed) == set(listed) and len(listed) == len(modules)


@pytest.mark.parametrize("name", NAMES)
def test_new_repository_names_no_source_and_no_model_of_another(name: str, tmp_path: Path) -> None:
    made = init(tmp_path / "my-release", EXAMPLES / name, ROOT)
    demo = load_yaml(ROOT / "params.yaml")
    stages = load_yaml(made.folder / "dvc.yaml")
    paths = [dep for stage in stages["stages"].values() for dep in stage.get("do", stage).get("deps", [])]
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


@pytest.mark.parametrize("name", NAMES)
def test_every_link_of_the_new_repository_leads_somewhere(name: str, tmp_path: Path) -> None:
    made = init(tmp_path / name, EXAMPLES / name, ROOT)
    texts = [made.folder / "README.md", *(made.folder / "docs").rglob("*.md")]
    assert len(texts) == 1 + len(list((ROOT / "docs").rglob("*.md")))
    for text in texts:
        for target in re.findall(r"\]\(([^)#\s]+)", FENCE.sub("", text.read_text())):
            assert "://" in target or (text.parent / target).exists(), f"{text.name}: {target}"


def test_every_document_that_the_code_names_is_in_the_new_repository(tmp_path: Path) -> None:
    made = init(tmp_path / "my-release", EXAMPLES / "amber", ROOT)
    code = [
        *(made.folder / "pipeline").rglob("*.py"),
        *(made.folder / "trainer").rglob("*.py"),
        made.folder / "Makefile",
    ]
    named = {name for path in code for name in re.findall(r"docs/[a-z/-]+\.md", path.read_text())}
    assert named
    assert [name for name in sorted(named) if not (made.folder / name).is_file()] == []


def test_all_of_it_is_the_first_commit_on_main(tmp_path: Path) -> None:
    """Whatever the user's own list of ignored files says."""
    (tmp_path / "ignored").write_text("*.txt\n*.lock\nMakefile\n")
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.excludesFile"}
    done = everystep(
        tmp_path, "init", "my-release", "--example", "amber", GIT_CONFIG_VALUE_0=str(tmp_path / "ignored"), **settings
    )
    made = tmp_path / "my-release"
    assert (done.returncode, "not committed" in done.stderr) == (0, False)
    assert run(made, "git", "log", "--format=%D %an %s").stdout == (
        "HEAD -> main test@example.org Start from Everystep's example amber\n"
    )
    tracked = set(run(made, "git", "ls-files").stdout.splitlines())
    assert tracked == {path for path in list_files(made) if not path.startswith(".git/")}


def without_identity(folder: Path) -> dict[str, str]:
    """An environment in which Git knows nobody."""
    nobody = {name: value for name, value in environment().items() if not name.startswith("GIT_")}
    return nobody | {"HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1", "XDG_CONFIG_HOME": str(folder)}


def test_without_an_identity_all_is_staged_and_the_note_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "init", "my-release", "--example", "amber"]
    env = without_identity(tmp_path) | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Git knows no name and address of yours" in done.stderr
    assert "git -C my-release commit --message" in done.stderr
    status = run(tmp_path / "my-release", "git", "status", "--short").stdout.splitlines()
    assert status and all(line.startswith("A ") for line in status)


OLD_GIT = """#!/bin/sh
case " $* " in *--initial-branch*) echo "error: unknown option" >&2; exit 129;; esac
[ "$FAILS" ] && case " $* " in *" $FAILS "*) echo "fatal: $FAILS fails here" >&2; exit 128;; esac
exec REAL "$@"
"""


@pytest.fixture
def old_git(tmp_path: Path) -> str:
    """A PATH whose Git does not know `--initial-branch`, as before 2.28, and fails where $FAILS says."""
    program = tmp_path / "programs" / "git"
    program.parent.mkdir()
    program.write_text(OLD_GIT.replace("REAL", shutil.which("git") or "git"))
    program.chmod(0o755)
    return f"{program.parent}:{environment()['PATH']}"


def test_a_git_of_before_2_28_makes_the_same_repository(tmp_path: Path, old_git: str) -> None:
    done = everystep(tmp_path, "init", "one", "--example", "amber", PATH=old_git)
    assert done.returncode == 0, done.stderr
    assert run(tmp_path / "one", "git", "status", "--short", "--branch").stdout == "## main\n"


@pytest.mark.parametrize("step", ["init", "symbolic-ref", "add"])
def test_a_git_that_fails_leaves_nothing_so_that_the_second_try_works(tmp_path: Path, old_git: str, step: str) -> None:
    done = everystep(tmp_path, "init", "one", "--example", "amber", PATH=old_git, FAILS=step)
    assert done.returncode == 2
    assert done.stderr.startswith("error: git ") and f"fatal: {step} fails here" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["programs"]


def test_a_commit_that_git_refuses_is_a_note_with_its_words(tmp_path: Path, old_git: str) -> None:
    done = everystep(tmp_path, "init", "one", "--example", "amber", PATH=old_git, FAILS="commit")
    assert done.returncode == 0
    assert "git commit says: fatal: commit fails here" in done.stderr


def test_without_git_the_message_says_so(tmp_path: Path) -> None:
    done = everystep(tmp_path, "init", "one", "--example", "amber", PATH=str(tmp_path))
    assert (done.returncode, done.stderr) == (
        2,
        "error: git: no such program; install Git, and run the same command again\n",
    )


FULL = """
mount -t tmpfs -o size=300k none "$1" || exit 77
"$2" -m pipeline.cli init "$1/one" --example amber
echo "code $?, left: $(ls -A "$1")"
"""


def test_a_full_disk_is_one_message_and_nothing_is_left(tmp_path: Path) -> None:
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, "sh", str(tmp_path), sys.executable]
    done = run(tmp_path, *command, check=False, PYTHONPATH=str(ROOT))
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    assert done.stdout == "code 2, left: \n"
    (line,) = done.stderr.splitlines()
    assert line.endswith(": the disk is full; free some room and run the same command again")


def test_a_hooks_variables_do_not_send_the_repository_elsewhere(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "--quiet", "other")
    everystep(tmp_path, "init", "one", "--example", "amber", GIT_DIR=str(tmp_path / "other/.git"))
    assert run(tmp_path / "one", "git", "rev-parse", "--show-toplevel").stdout.strip() == str(tmp_path / "one")
    assert run(tmp_path / "other", "git", "rev-list", "--all").stdout == ""


def test_a_name_with_blanks_is_printed_to_be_pasted(tmp_path: Path) -> None:
    done = everystep(tmp_path, "init", "my folder/it's/one", "--example", "amber")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("next: ")]
    command = line.removeprefix("next: ").split(" && ")[0]
    assert run(tmp_path, "sh", "-c", f"{command} && ls params.yaml").stdout == "params.yaml\n"


def test_code_of_the_new_repository_is_all_that_its_stages_need(tmp_path: Path) -> None:
    made = init(tmp_path / "my-release", EXAMPLES / "amber", ROOT)
    before = (made.folder / "manifests/code.json").read_bytes()
    run(made.folder, sys.executable, "-m", "pipeline.stages", "code")
    assert (made.folder / "manifests/code.json").read_bytes() == before


# What is refused


@pytest.mark.parametrize("name", ["My-Release", "-release", "a b", "release_1"])
def test_name_that_cannot_be_a_releases_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(EverystepError, match="cannot be a name"):
        init(tmp_path / name, EXAMPLES / "amber", ROOT)
    assert list(tmp_path.iterdir()) == []


def test_a_place_inside_another_repository_is_refused_with_one_outside(tmp_path: Path) -> None:
    run(tmp_path, "git", "init", "--quiet", "checkout")
    (tmp_path / "checkout" / "deep").mkdir()
    done = everystep(tmp_path / "checkout" / "deep", "init", "one", "--example", "amber")
    assert done.returncode == 2
    assert (
        f"lies inside the Git repository {tmp_path / 'checkout'}; name a folder outside, such as ../../one"
        in done.stderr
    )
    assert list((tmp_path / "checkout" / "deep").iterdir()) == []
    (tmp_path / "checkout" / ".gitignore").write_text("/deep/one/\n")
    assert everystep(tmp_path / "checkout" / "deep", "init", "one", "--example", "amber").returncode == 2
    (tmp_path / "checkout" / ".gitignore").write_text("/deep/\n")
    assert everystep(tmp_path / "checkout" / "deep", "init", "one", "--example", "amber").returncode == 0


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("params.yaml", lambda text: text.replace("models:", "modles:"), "params.yaml: modles: unknown section"),
        ("params.yaml", lambda text: text + "release:\n", "params.yaml: release: expected keys and values, got None"),
        ("params.yaml", lambda text: text + "sources: [letters]\n", "params.yaml: sources: declare at least one"),
        ("params.yaml", lambda text: text + "sources: {letters: 3}\n", "params.yaml: sources.letters: expected keys"),
        ("params.yaml", lambda text: text + "sources: {2024: {}}\n", "params.yaml: sources: the key 2024 is not text"),
        ("params.yaml", lambda text: text + "models: mobilellm\n", "params.yaml: models: list at least one model"),
        ("params.yaml", lambda text: text + "# Łódź\n", "params.yaml: not valid YAML 1.2"),
        ("README.md", lambda text: "# Łódź\n", "README.md: not UTF-8 at byte 2; save it as UTF-8"),
        ("dvc.yaml", lambda text: "# Łódź\n", "dvc.yaml: not UTF-8 at byte 2; save it as UTF-8"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_own_example_that_is_wrong_is_refused_by_file_and_key(
    tmp_path: Path, file: str, change: Callable[[str], str], message: str
) -> None:
    shutil.copytree(EXAMPLES / "fineweb-edu", tmp_path / "mine")
    path = tmp_path / "mine" / file
    text = path.read_text() if path.exists() else ""
    if file == "params.yaml":  # a section that stands twice is an error of its own
        section = change("").partition(":")[0]
        text = re.sub(rf"^{section}:.*\n(  .*\n|\n)*", "", text, flags=re.M) if section else text
    path.write_bytes(change(text).encode("iso-8859-2"))
    with pytest.raises(EverystepError, match=re.escape(message)):
        init(tmp_path / "one", tmp_path / "mine", ROOT)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "my-release").mkdir()
    (tmp_path / "my-release" / "mine.txt").write_text("mine")
    with pytest.raises(EverystepError, match="already exists"):
        init(tmp_path / "my-release", EXAMPLES / "amber", ROOT)
    assert [path.name for path in (tmp_path / "my-release").iterdir()] == ["mine.txt"]


def test_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "my-release").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EverystepError, match="already exists"):
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
        (["My", "--example", "amber"], "cannot be a name"),
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
        env: dict[str, Any] = seeing(url, str(tmp_path / "cache"))
        done = everystep(tmp_path, "init", "small", "--example", str(tmp_path / "example"), "--pin", "--json", **env)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["pinned"] == {"sources.stories.revision": COMMIT}
        run(tmp_path / "small", "dvc", "repro", "tokenize", **env)
    tokens = read_json(tmp_path / "small/manifests/tokens.json")
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
        env: dict[str, Any] = seeing(url, str(tmp_path / "cache"))
        done = everystep(tmp_path, "init", "small", "--example", str(example), "--pin", **env)
        assert done.returncode == 0, done.stderr
        assert f"rows.revision: {COMMIT}" in done.stdout
        run(tmp_path / "small", "dvc", "repro", **env)
    small = tmp_path / "small"
    assert (small / "data/llm360/train_001.jsonl").read_bytes() == chunk(1)
    rows = read_json(small / "manifests/rows.json")
    trained = read_json(small / "manifests/models/mobilellm.json")
    digests = {f"data/llm360/{file['path']}": file["sha256"] for file in rows["files"]}
    assert len(digests) == 2 and digests.items() <= trained["inputs"].items()
    assert [entry["step"] for entry in trained["checkpoints"]] == [0, 2, 4]


@pytest.mark.parametrize(
    ("changes", "manners", "message"),
    [
        ({"files": 3}, Manners(), "3 files of different names are declared, 2 match"),
        ({"revision": "d" * 40}, Manners(), "owner/rows@dddddddddddd: "),
        ({}, Manners(large=(".jsonl",), lies=("oid",)), "as the Hub keeps it, got"),
        ({"sha256": "0" * 64}, Manners(), "of the list of files, got"),
        ({}, Manners(gated={"owner/rows": "a token"}), "set HF_TOKEN to a token that may read it"),
    ],
)
def test_published_rows_that_are_not_as_declared_are_refused(
    tmp_path: Path, changes: dict[str, Any], manners: Manners, message: str
) -> None:
    made = init(tmp_path / "small", on_rows(tmp_path, **{"revision": COMMIT} | changes), ROOT)
    with serve_hub({"owner/rows": REPOSITORY}, manners=manners) as url:
        env: dict[str, Any] = seeing(url, str(tmp_path / "cache"))
        done = run(made.folder, sys.executable, "-m", "pipeline.stages", "rows", check=False, **env)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert not list((made.folder / "data/llm360").iterdir())
