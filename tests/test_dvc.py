"""`dvc.yaml` says what each stage reads and writes, and the committed lock agrees with what is committed beside it."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from dvc.api import DVCFileSystem

from pipeline.base.files import list_files
from pipeline.base.params import OPTIONAL, SECTIONS
from pipeline.base.yaml import load_yaml
from pipeline.build.init import plots
from pipeline.formats.canonical import parse, pretty
from pipeline.formats.current import section_digest
from pipeline.formats.stages import manifest_path
from pipeline.stages.code import code
from pipeline.stages.release import REMOTE_CODE, lock_before_release
from tests.imports import ROOT
from tests.project import MODELS, SOURCES, commit, repro, run
from tests.releases import everystep
from tests.servers.web import serve_folder
from tests.sessions import blocks

STAGES: dict[str, Any] = load_yaml(ROOT / "dvc.yaml")["stages"]
PER_SOURCE, PER_MODEL = ("fetch", "extract", "filter"), ("train", "evaluate", "score")
CODE = manifest_path("code").as_posix()
PLACEHOLDER = re.compile(r"\$\{(key|item)\}")


def body(stage: str) -> dict[str, Any]:
    """What a stage does, whether it stands in a foreach or not."""
    tree: dict[str, Any] = STAGES[stage].get("do", STAGES[stage])
    return tree


@pytest.mark.parametrize("stage", STAGES)
def test_command_manifest_and_digest_of_the_code_carry_the_name_of_the_stage(stage: str) -> None:
    of = "${item}" if stage in PER_MODEL else "${key}" if stage in PER_SOURCE else ""
    assert body(stage)["cmd"] == f"python -m pipeline.stages {stage} {of}".rstrip()
    path = manifest_path(stage, "any" if of else None).as_posix()
    assert list(body(stage)["metrics"][0]) == [path.replace("any", of)]
    if stage != "code":
        assert body(stage)["params"][0] == {CODE: [f"stages.{stage}.digest"]}


def test_a_person_can_read_the_stages() -> None:
    """No list of files: a new module changes nothing here."""
    text = (ROOT / "dvc.yaml").read_text()
    assert len(text.splitlines()) < 260
    assert re.findall(r"\S+\.py", text) == [REMOTE_CODE.as_posix()]


@pytest.mark.parametrize("stage", STAGES)
def test_manifests_are_metrics_outside_the_cache_and_nothing_is_frozen_or_kept(stage: str) -> None:
    tree = body(stage)
    assert not {"frozen", "always_changed"} & tree.keys()
    assert [list(metric.values()) for metric in tree["metrics"]] == [[{"cache": False}]]
    for out in tree.get("outs", []):
        assert isinstance(out, str) or not out[next(iter(out))].get("persist")


@pytest.mark.parametrize("stage", STAGES)
def test_every_input_is_the_output_of_another_stage_or_a_tracked_file(stage: str) -> None:
    """Data by its own name, so that a bare clone can check the lock without any. Manifests are in Git: a stage that
    reads those of all sources or models depends on their folder, and so on every stage that writes into it."""
    written = {PLACEHOLDER.sub("*", out) for other in STAGES for out in outs(other)}
    folders = {str(Path(out).parent) for out in written if out.startswith("manifests/") and "*" in out}
    tracked = {*run(ROOT, "git", "ls-files").stdout.splitlines(), "pipeline", "trainer"}
    for dep in body(stage).get("deps", []):
        general = PLACEHOLDER.sub("*", dep)
        known = general in written or any(re.fullmatch(w.replace("*", "[^/]+"), general) for w in written)
        assert known or dep in tracked | folders or general == "recipes/*.yaml", dep


def outs(stage: str) -> list[str]:
    tree = body(stage)
    return [out if isinstance(out, str) else next(iter(out)) for out in [*tree.get("outs", []), *tree["metrics"]]]


def sections(stage: str) -> list[str]:
    """The sections of `params.yaml` that a stage declares."""
    return [name for name in body(stage).get("params", []) if isinstance(name, str)]


def test_no_stage_names_a_source_or_a_model() -> None:
    """So that a new one cannot be forgotten in a list; DVC finds the edges."""
    params = load_yaml(ROOT / "params.yaml")
    names = {*params["sources"], *params["models"]}
    for stage in STAGES:
        parts = {part.split(".")[0] for dep in body(stage).get("deps", []) for part in dep.split("/")}
        assert not parts & names


def test_the_plots_draw_every_model() -> None:
    assert load_yaml(ROOT / "dvc.yaml")["plots"] == plots(load_yaml(ROOT / "params.yaml")["models"])


@pytest.mark.parametrize("stage", STAGES)
def test_a_manifest_names_the_sections_that_dvc_is_told_of(stage: str) -> None:
    """The digests of sections in a manifest say what DVC's `params` say."""
    params = load_yaml(ROOT / "params.yaml")
    of = (list(params["sources"]) if stage in PER_SOURCE else params["models"] if stage in PER_MODEL else [None])[0]
    manifest = parse((ROOT / manifest_path(stage, of)).read_bytes())
    declared = [PLACEHOLDER.sub(str(of), name) for name in sections(stage)]
    assert manifest["params"] == {name: section_digest(params, name) for name in declared}


def test_release_depends_on_every_section_and_no_stage_on_the_executor() -> None:
    assert set(sections("release")) == set(SECTIONS)
    for stage in STAGES:
        assert not set(sections(stage)) & set(OPTIONAL)
        assert "params.yaml" not in body(stage).get("deps", [])


# What is committed


def locked_files() -> dict[str, str]:
    """Every file (not folder) that the committed lock names, with its md5."""
    lock = load_yaml(ROOT / "dvc.lock")["stages"]
    entries = [entry for stage in lock.values() for entry in [*stage.get("deps", []), *stage.get("outs", [])]]
    return {entry["path"]: entry["md5"] for entry in entries if not entry["md5"].endswith(".dir")}


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def test_every_stage_is_locked() -> None:
    params = load_yaml(ROOT / "params.yaml")
    expected = {"code", "evaluation_sets", "evaluation_ngrams", "dedup", "tokenizer", "tokenize", "search"}
    expected |= {"tasks", "release"}
    expected |= {f"{stage}@{source}" for stage in PER_SOURCE for source in params["sources"]}
    expected |= {f"{stage}@{model}" for stage in PER_MODEL for model in params["models"]}
    assert set(load_yaml(ROOT / "dvc.lock")["stages"]) == expected


def test_every_manifest_is_tracked_and_is_the_one_in_the_lock() -> None:
    tracked = set(run(ROOT, "git", "ls-files", "manifests").stdout.splitlines())
    locked = {path: md5 for path, md5 in locked_files().items() if path.startswith("manifests/")}
    assert set(locked) == tracked
    assert {path: md5_of(ROOT / path) for path in locked} == locked


def test_committed_code_and_recipes_are_those_in_the_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Named one by one, so that a stale lock says which file made it so."""
    locked = {path: md5 for path, md5 in locked_files().items() if path.endswith((".txt", ".yaml"))}
    stale = [path for path, md5 in sorted(locked.items()) if md5_of(ROOT / path) != md5]
    assert stale == [], "run `dvc repro` and commit dvc.lock and manifests/"
    monkeypatch.chdir(tmp_path)
    code()
    written, committed = (parse((folder / CODE).read_bytes())["files"] for folder in (tmp_path, ROOT))
    assert written == committed, "run `dvc repro` and commit dvc.lock and manifests/"
    assert (tmp_path / CODE).read_bytes() == (ROOT / CODE).read_bytes()


def test_a_bare_clone_agrees_with_its_lock_without_any_data(tmp_path: Path) -> None:
    run(tmp_path, "git", "clone", "--quiet", str(ROOT), "clone")
    done = repro(tmp_path / "clone", "--allow-missing", "--dry", check=False)
    assert done.returncode == 0, done.stderr
    assert "Running" not in done.stdout


def test_release_holds_the_entries_of_the_lock_that_is_committed() -> None:
    """DVC does not see a lock that changes under a release (a stage's command, say); this does."""
    params = load_yaml(ROOT / "params.yaml")
    entries = pretty(lock_before_release(sorted(params["sources"]), params["models"], load_yaml(ROOT / "dvc.lock")))
    released = parse((ROOT / "manifests" / "release.json").read_bytes())["lock_sha256"]
    assert hashlib.sha256(entries).hexdigest() == released


# What DVC shows and shares


@pytest.fixture(scope="module")
def shared(built_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the built project that took everything from a remote."""
    folder = tmp_path_factory.mktemp("shared")
    store, clone = folder / "store", folder / "clone"
    run(folder, "cp", "--archive", "--reflink=auto", str(built_project), "owner")
    run(folder / "owner", "dvc", "remote", "add", "--default", "store", str(store))
    run(folder / "owner", "dvc", "push")
    run(folder, "git", "clone", "--quiet", "owner", "clone")
    run(clone, "dvc", "remote", "add", "--default", "store", str(store))
    return clone


def test_a_clone_pulls_everything_and_status_agrees(shared: Path) -> None:
    run(shared, "dvc", "pull")
    assert "up to date" in run(shared, "dvc", "status").stdout
    run(shared, "dvc", "checkout")
    assert "Running" not in repro(shared, "--dry").stdout


def test_this_checkout_is_one_pipeline(tmp_path: Path) -> None:
    """A `dvc.yaml` in `examples/` must not become part of the project: its data was never built here."""
    run(tmp_path, "git", "clone", "--quiet", str(ROOT), "clone")
    listed = run(tmp_path / "clone", "dvc", "stage", "list", "--all", "--name-only").stdout.split()
    assert listed
    assert [name for name in listed if "examples" in name] == []


def test_metrics_show_the_loss_of_each_model(shared: Path) -> None:
    shown = json.loads(run(shared, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    for model in MODELS:
        metrics = shown[f"manifests/evaluations/{model}.json"]["data"]
        assert metrics["loss"] > 0
        assert metrics["bits_per_byte"] > 0


def test_a_change_of_the_loss_is_in_the_diff_of_metrics(shared: Path) -> None:
    path = shared / manifest_path("evaluate", MODELS[0])
    before = path.read_bytes()
    tree = parse(before)
    path.write_bytes(pretty(tree | {"loss": tree["loss"] / 2}))
    changes = json.loads(run(shared, "dvc", "metrics", "diff", "--json").stdout)
    path.write_bytes(before)
    (change,) = changes.values()
    assert change["loss"]["new"] == tree["loss"] / 2


def test_plots_draw_a_line_for_each_model(shared: Path) -> None:
    run(shared, "dvc", "pull")
    shown = json.loads(run(shared, "dvc", "plots", "show", "--json", "--split").stdout)
    charts = {title.split(":")[-1]: chart for title, chart in shown["data"].items()}
    assert set(charts) == {"training loss", "validation loss"}
    for (chart,) in charts.values():
        points = chart["anchor_definitions"]["<DVC_METRIC_DATA>"]
        assert {model for model in MODELS for point in points if model in json.dumps(point)} == set(MODELS)


# What others take

CHECKPOINT = "runs/mobilellm/step000004-tokens1024"


@pytest.fixture(scope="module")
def published(shared: Path) -> Path:
    """A repository as others find it: Git has the lock, a remote has the data, and nothing was ever built there."""
    return publish(shared.parent, "published", str(shared.parent / "store"))


def publish(folder: Path, name: str, remote: str) -> Path:
    run(folder, "git", "clone", "--quiet", "owner", name)
    run(folder / name, "dvc", "remote", "add", "--default", "--force", "store", remote)
    commit(folder / name, "name the store")
    return folder / name


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {path: (folder / path).read_bytes() for path in list_files(folder)}


def test_a_clone_that_pulled_verifies(shared: Path) -> None:
    run(shared, "dvc", "pull", "release")
    done = everystep("verify", shared / "release", "--json")
    report = json.loads(done.out)
    assert (done.code, report["others"], report["links"], report["left_by_tools"]) == (0, [], [], [])


def test_dvc_get_hands_out_a_release_that_verifies(published: Path, tmp_path: Path) -> None:
    run(tmp_path, "dvc", "get", published.as_uri(), "release")
    done = everystep("verify", tmp_path / "release", "--json")
    report = json.loads(done.out)
    assert (done.code, report["others"], report["links"], report["left_by_tools"]) == (0, [], [], [])


def test_dvc_import_hands_out_one_checkpoint_and_records_its_commit(
    published: Path, built_project: Path, tmp_path: Path
) -> None:
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "init", "--quiet")
    run(tmp_path, "dvc", "import", published.as_uri(), CHECKPOINT, "--out", "checkpoint")
    assert bytes_in(tmp_path / "checkpoint") == bytes_in(built_project / CHECKPOINT)
    (dep,) = load_yaml(tmp_path / "checkpoint.dvc")["deps"]
    assert dep["repo"]["rev_lock"] == run(published, "git", "rev-parse", "HEAD").stdout.strip()


def test_the_file_system_of_dvc_lists_a_checkpoint_and_reads_a_range(published: Path, built_project: Path) -> None:
    files = DVCFileSystem(published.as_uri())
    names = [name.split("/")[-1] for name in files.ls(CHECKPOINT, detail=False)]
    assert sorted(names) == list_files(built_project / CHECKPOINT)
    weights = f"{CHECKPOINT}/model.safetensors"
    content = (built_project / weights).read_bytes()
    assert files.info(weights)["md5"] == hashlib.md5(content, usedforsecurity=False).hexdigest()
    with files.open(weights) as file:
        file.seek(1000)
        assert file.read(24) == content[1000:1024]


def test_python_of_the_docs_reads_a_range(published: Path, tmp_path: Path) -> None:
    (block,) = blocks((ROOT / "docs/reproduce.md").read_text(), "python dvc")
    code = block.text.replace("REPOSITORY", published.as_uri()).replace("REVISION", "main")
    code = code.replace("runs/mobilellm/step000064-tokens65536", CHECKPOINT)
    listed, header = run(tmp_path, sys.executable, "-c", code).stdout.splitlines()
    assert f"{CHECKPOINT}/record.json" in listed
    assert header.startswith('{"__metadata__":')


def test_a_static_web_server_hands_out_one_checkpoint_and_nothing_else(
    shared: Path, built_project: Path, tmp_path: Path
) -> None:
    """A copy of a remote on any web server is a remote: DVC asks for the lists of the folders and for four files."""
    with serve_folder(shared.parent / "store") as web:
        repository = publish(shared.parent, "on_the_web", web.url)
        run(tmp_path, "dvc", "get", repository.as_uri(), CHECKPOINT, "--out", "checkpoint", NO_PROXY="127.0.0.1")
    checkpoint = bytes_in(tmp_path / "checkpoint")
    assert checkpoint == bytes_in(built_project / CHECKPOINT)
    asked = {request.path for request in web.counted.of("file") if request.method == "GET"}
    objects = {hashlib.md5(content, usedforsecurity=False).hexdigest() for content in checkpoint.values()}
    assert {path.replace("/files/md5", "").replace("/", "") for path in asked if ".dir" not in path} == objects


def test_a_checkpoint_of_a_dvc_repository_is_pulled_in_the_form_of_transformers(
    published: Path, built_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    options = ["--model", "mobilellm", "--step", "4", "--out"]
    for release, out in ((f"dvc:{published.as_uri()}", "a"), (built_project / "release", "b")):
        done = everystep("pull", release, *options, tmp_path / out)
        assert done.code == 0, done.said
    assert bytes_in(tmp_path / "a") == bytes_in(tmp_path / "b")
    shown = everystep("show", f"dvc:{published.as_uri()}", "--json")
    assert shown.code == 0, shown.said
    assert json.loads(shown.out) == json.loads(everystep("show", built_project / "release", "--json").out)


# Nothing stale


def test_new_sources_and_models_stand_before_the_stages_that_read_all_of_them(
    built_project: Path, tmp_path: Path
) -> None:
    """No list has to be edited: what DVC runs, and in which order, follows from its graph."""
    project = tmp_path / "project"
    run(tmp_path, "cp", "--archive", "--reflink=auto", str(built_project), "project")
    tree = load_yaml(project / "params.yaml")
    tree["models"].append("other")
    tree["sources"]["another"] = tree["sources"][SOURCES[0]]
    (project / "params.yaml").write_bytes(pretty(tree))
    shutil.copyfile(project / "recipes" / f"{MODELS[0]}.yaml", project / "recipes" / "other.yaml")
    graph = run(project, "dvc", "dag", "--md").stdout
    names = dict(re.findall(r'(node\d+)\["(.+)"\]', graph))
    edges = {(names[one], names[other]) for one, other in re.findall(r"(node\d+)-->(node\d+)", graph)}
    before_dedup = {one for one, other in edges if other == "dedup"}
    assert before_dedup == {"code", *(f"filter@{name}" for name in (*SOURCES, "another"))}
    before_release = {one for one, other in edges if other == "release"}
    assert before_release >= {f"{stage}@{name}" for stage in PER_MODEL for name in (*MODELS, "other")}
    assert before_release >= {f"{stage}@{name}" for stage in PER_SOURCE for name in (*SOURCES, "another")}


def test_signatures_and_receipts_are_left_to_those_who_sign() -> None:
    """DVC would take a signed release for a changed one, and a `dvc repro` would remove the signatures."""
    beside = ["release/signatures/KEY_ID/model.sig", "release/receipts/KEY_ID/public.pem"]
    assert run(ROOT, "dvc", "check-ignore", *beside, "release/README.md").stdout.split() == beside
