"""The stage `code`: what runs after an edit is what loads the file, and no stage runs with code that is not listed."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.yaml import load_yaml
from pipeline.build.init import copy_code, own_stages
from pipeline.formats.canonical import parse, pretty
from pipeline.formats.manifests import Code, read_manifest
from pipeline.stages.code import code
from pipeline.stages.programs import ELSEWHERE, NAMES
from tests.imports import ROOT
from tests.project import MODELS, SOURCES, environment, params, recipe, repro, run

CODE = Path("manifests/code.json")
PER_SOURCE, PER_MODEL = ("fetch", "extract", "filter"), ("train", "evaluate", "score")
AUDIT, UNUSED = "pipeline/audit/pull.py", "pipeline/new_module.py"
EDITED = {
    "pipeline/stages/fetch.py": {"fetch"},
    "pipeline/stages/filter.py": {"filter"},
    "pipeline/stages/dedup/minhash.py": {"dedup"},
    "pipeline/blocks/language.py": {"filter"},
    "pipeline/sources/readers/plays.py": {"extract"},
    "pipeline/blocks/pairs.py": {"tasks"},
    "pipeline/executor/processes.py": {
        *("extract", "filter", "evaluation_ngrams", "dedup", "tokenize", "search", "tasks"),
    },
    "trainer/loop.py": {"train", "score", "parent"},
    "trainer/model.py": {"train", "evaluate", "score", "parent"},
    "trainer/evaluate.py": {"evaluate"},
    "pipeline/release/card.py": {"release"},
    "pipeline/stages/__main__.py": set(NAMES) - {"code", "rows"},
    "constraints.txt": set(NAMES) - {"code", "rows"},
    AUDIT: set(),
    "trainer/replay.py": {"score", "parent"},
    UNUSED: set(),
}
"""A file, and the stages that load it. Each of their manifests changes that of the code, which `release` holds."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the stage writes of this checkout."""
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("written"))
    try:
        code()
        return read_manifest(Code, CODE).to_json()
    finally:
        os.chdir(here)


def test_each_stage_has_its_files_and_a_digest_that_sha256sum_makes_too(manifest: dict[str, Any]) -> None:
    assert list(manifest["stages"]) == sorted(NAMES)
    for stage, of in manifest["stages"].items():
        own = ELSEWHERE.get(stage, f"pipeline.stages.{stage}").replace(".", "/") + ".py"
        assert {own, "pipeline/stages/__main__.py", "constraints.txt"} <= set(of["files"])
        sums = subprocess.run(["sha256sum", *of["files"]], cwd=ROOT, capture_output=True, check=True).stdout
        digest = subprocess.run(["sha256sum"], input=sums, capture_output=True, check=True).stdout.split()[0]
        assert of["digest"] == digest.decode()
    assert set(manifest["files"]) == {name for of in manifest["stages"].values() for name in of["files"]}


def test_identifier_is_that_of_git_for_the_listed_files(manifest: dict[str, Any], tmp_path: Path) -> None:
    """The commands of docs/audit.md."""
    index: dict[str, Any] = {"GIT_INDEX_FILE": str(tmp_path / "index")}
    run(ROOT, "git", "add", *manifest["files"], **index)
    assert manifest["swhid"] == f"swh:1:dir:{run(ROOT, 'git', 'write-tree', **index).stdout.strip()}"


@pytest.mark.parametrize("name", EDITED)
def test_an_edit_changes_the_digests_of_the_stages_that_load_the_file(
    copy: Path, manifest: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.stages.code.ROOT", copy)
    with edited(copy / name):
        code()
    found = read_manifest(Code, CODE).to_json()
    changed = {stage for stage, of in found["stages"].items() if of["digest"] != manifest["stages"][stage]["digest"]}
    assert changed - {"code", "rows"} == EDITED[name]
    assert (found == manifest) == (not EDITED[name])


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code."""
    folder = tmp_path_factory.mktemp("copy") / "project"
    copy_code(ROOT, folder)
    return folder


@contextlib.contextmanager
def edited(path: Path) -> Iterator[None]:
    """A file with a line more, or a new one."""
    before = path.read_bytes() if path.exists() else None
    path.write_bytes((before or b"") + b"# changed\n")
    try:
        yield
    finally:
        path.unlink() if before is None else path.write_bytes(before)


# What DVC makes of it


def stage_names(stages: set[str]) -> set[str]:
    names = {stage: SOURCES if stage in PER_SOURCE else MODELS if stage in PER_MODEL else ("",) for stage in stages}
    return {f"{stage}@{of}".removesuffix("@") for stage, ofs in names.items() for of in ofs}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, corpora: Path) -> Path:
    """The small project after a build in which each program but that of `code` writes empty outputs."""
    folder = tmp_path_factory.mktemp("code") / "project"
    copy_code(ROOT, folder)
    (folder / "params.yaml").write_bytes(pretty(params(corpora)))
    (folder / "recipes").mkdir()
    for name in MODELS:
        (folder / "recipes" / f"{name}.yaml").write_bytes(pretty(recipe(name)))
    (folder / "dvc.yaml").write_text(own_stages(ROOT, folder, MODELS))
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    stages = load_yaml(folder / "dvc.yaml")
    for stage in stages["stages"].values():
        body = stage.get("do", stage)
        if body["cmd"] != "python -m pipeline.stages code":
            (manifest,) = body["metrics"][0]
            body["cmd"] = f"mkdir -p {body['outs'][0]} && mkdir -p {Path(manifest).parent} && echo '{{}}' > {manifest}"
    (folder / "dvc.yaml").write_bytes(pretty(stages))
    repro(folder)
    assert "Running" not in repro(folder, "--dry").stdout
    return folder


@pytest.mark.parametrize("names", [("pipeline/blocks/language.py", "trainer/loop.py"), (AUDIT, UNUSED)])
def test_after_an_edit_dvc_runs_exactly_the_stages_that_load_the_files(project: Path, names: tuple[str, str]) -> None:
    one, other = names
    with edited(project / one), edited(project / other):
        ran = set(re.findall(r"Running stage '(.+)'", repro(project).stdout))
    here = (EDITED[one] | EDITED[other]) - {"parent"}  # a stage of forks
    with_release = here | {"release"} if here else set()
    assert ran == {"code"} | stage_names(with_release)


def test_compiled_files_are_no_edit(project: Path) -> None:
    repro(project)
    for package in ("pipeline", "trainer"):
        (project / package / "__pycache__").mkdir(exist_ok=True)
        (project / package / "__pycache__" / "x.cpython-311.pyc").write_bytes(b"x")
    assert "up to date" in run(project, "dvc", "status").stdout


def test_a_bare_clone_has_nothing_to_run(project: Path, tmp_path: Path) -> None:
    repro(project)
    run(project, "git", "add", "--all")
    run(project, "git", "commit", "--quiet", "--message", "built")
    run(tmp_path, "git", "clone", "--quiet", str(project), "clone")
    assert "Running" not in repro(tmp_path / "clone", "--allow-missing", "--dry").stdout


# A stage that somebody starts by hand


def started(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.stages", *words],
        cwd=folder, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture
def by_hand(tmp_path: Path, corpora: Path, manifest: dict[str, Any]) -> Path:
    """A project whose code is on record."""
    folder = tmp_path / "project"
    copy_code(ROOT, folder)
    (folder / "params.yaml").write_bytes(pretty(params(corpora)))
    (folder / "manifests").mkdir(exist_ok=True)
    (folder / CODE).write_bytes(pretty(manifest))
    return folder


def test_code_that_is_not_on_record_does_not_run(by_hand: Path) -> None:
    loaded = by_hand / "pipeline/sources/url.py"
    loaded.write_bytes(loaded.read_bytes() + b"# changed\n")
    done = started(by_hand, "fetch", "letters")
    assert done.returncode == 2
    told = "manifests/code.json: out of date: pipeline/sources/url.py has changed since it was written; run `dvc repro`"
    assert done.stderr == f"error: {told}\n"
    assert not (by_hand / "data").exists()
    assert started(by_hand, "code").returncode == 0
    assert started(by_hand, "fetch", "letters").returncode == 0


def test_an_edit_that_the_stage_does_not_load_stops_nothing(by_hand: Path) -> None:
    other = by_hand / "pipeline/blocks/language.py"
    other.write_bytes(other.read_bytes() + b"# changed\n")
    assert started(by_hand, "fetch", "letters").returncode == 0


def test_a_manifest_of_another_shape_is_named(by_hand: Path) -> None:
    tree = parse((by_hand / CODE).read_bytes())
    del tree["stages"]["fetch"]
    (by_hand / CODE).write_bytes(pretty(tree))
    done = started(by_hand, "fetch", "letters")
    assert done.returncode == 2
    assert "manifests/code.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_code_is_the_same_in_every_project(by_hand: Path, manifest: dict[str, Any]) -> None:
    """A function of the code alone: compiled files and what lies beside it do not count."""
    shutil.rmtree(by_hand / "pipeline/audit")
    assert started(by_hand, "code").returncode == 0
    assert parse((by_hand / CODE).read_bytes()) == manifest


def test_a_digest_that_is_not_that_of_the_files_is_refused(by_hand: Path) -> None:
    tree = parse((by_hand / CODE).read_bytes())
    tree["stages"]["fetch"]["files"].remove("pipeline/sources/url.py")
    (by_hand / CODE).write_bytes(pretty(tree))
    done = started(by_hand, "fetch", "letters")
    assert (done.returncode, "stages.fetch.digest: not that of its files" in done.stderr) == (2, True)
