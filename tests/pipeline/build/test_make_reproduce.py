"""`make reproduce`: every difference is named by stage and key; where it cannot begin, it says why in one message."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.base.errors import Differs
from pipeline.base.yaml import load_yaml
from pipeline.build.reproduce import compare
from pipeline.formats.canonical import pretty
from tests.project import ROOT, commit, run


def project(folder: Path, stages: dict[str, object], **manifests: bytes) -> Path:
    """What `make reproduce` compares of a project: its lock and its manifests."""
    (folder / "manifests").mkdir(parents=True)
    (folder / "dvc.lock").write_bytes(pretty({"schema": "2.0", "stages": stages}))
    for name, content in manifests.items():
        (folder / "manifests" / f"{name}.json").write_bytes(content)
    return folder


def stage(cmd: str = "train a", md5: str = "1") -> dict[str, object]:
    return {"cmd": cmd, "outs": [{"path": "runs/a", "md5": md5, "size": 3}]}


def said(one: Path, other: Path) -> list[str]:
    with pytest.raises(Differs) as error:
        compare(one, other)
    return str(error.value).splitlines()


def test_equal_states_have_no_difference_whatever_the_order_of_stages(tmp_path: Path) -> None:
    forward, backward = project(tmp_path / "1", {"a": stage(), "b": stage()}, m=b"x"), tmp_path / "2"
    lock = "schema: '2.0'\nstages:\n"
    for name in ("b", "a"):
        lock += f"  {name}:\n    outs: [{{size: 3, path: runs/a, md5: '1'}}]\n    cmd: train a\n"
    (project(backward, {}, m=b"x") / "dvc.lock").write_text(lock)
    assert compare(forward, backward) == "same: 1 manifests and the lock's 2 stages, rebuilt without any cache"


def test_difference_in_the_lock_names_stage_path_and_values(tmp_path: Path) -> None:
    one = project(tmp_path / "1", {"train@a": stage()})
    lines = said(one, project(tmp_path / "2", {"train@a": stage(md5="2")}))
    assert lines[2].startswith("differ, first in train@a: code, params and inputs are the same; look at the machine")
    assert "  train@a: runs/a: 1 -> 2" in lines
    assert lines[-1] == f"the rebuilt clone is {tmp_path / '2'}"


def test_missing_extra_and_changed_manifests_are_named(tmp_path: Path) -> None:
    one = project(tmp_path / "1", {"train@a": stage()}, a=b"1", b=b"1")
    lines = said(one, project(tmp_path / "2", {"train@a": stage()}, b=b"2", c=b"1"))
    listed = [line for line in lines if line.startswith("  manifests/")]
    assert listed == ["  manifests/a.json: only in A", "  manifests/b.json", "  manifests/c.json: only in B"]


def test_causes_come_before_their_effects(tmp_path: Path) -> None:
    names = ("dedup", "train@a", "fetch@z", "evaluate@a")
    one = project(tmp_path / "1", {name: stage() for name in names})
    lines = said(one, project(tmp_path / "2", {name: stage("other") for name in names}))
    assert lines[2] == "differ, first in fetch@z, because of params: cmd: train a -> other"


def test_other_stored_bytes_of_the_same_content_are_a_difference_of_the_lock(
    tmp_path: Path, built_project: Path
) -> None:
    for name in ("1", "2"):
        shutil.copytree(built_project / "manifests", tmp_path / name / "manifests")
        shutil.copy(built_project / "dvc.lock", tmp_path / name)
    lock = load_yaml(tmp_path / "2" / "dvc.lock")
    lock["stages"]["dedup"]["outs"][0]["md5"] = "0" * 32
    (tmp_path / "2" / "dvc.lock").write_bytes(pretty(lock))
    lines = said(tmp_path / "1", tmp_path / "2")
    assert lines[2].startswith("differ, first in dedup: outs.data/deduplicated.md5: ")
    assert lines[2].endswith("no stage came out differently")


def reproduce(folder: Path, kept: int = 0, **env: str) -> tuple[int, str]:
    """Its exit code, and what it said without a traceback; what differs is kept, nothing else is left behind."""
    temporary = folder.parent / "temporary"
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pipeline.build.reproduce"]
    done = run(folder, *command, check=False, PYTHONPATH=str(ROOT), TMPDIR=str(temporary), **env)
    assert "Traceback" not in done.stderr
    assert len(list(temporary.iterdir())) == kept
    return done.returncode, done.stderr


def test_outside_of_git_its_own_words_are_shown(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    code, said = reproduce(tmp_path / "plain", GIT_CEILING_DIRECTORIES=str(tmp_path))
    assert code == 2
    assert said.startswith(f"error: git rev-parse in {tmp_path / 'plain'} failed:\nfatal: not a git repository")


def test_in_the_repository_of_another_user_gits_advice_is_shown(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a folder to another user")
    run(tmp_path, "git", "init", "--quiet", "others")
    for path in [tmp_path / "others", *(tmp_path / "others").rglob("*")]:
        os.chown(path, 1234, 1234)
    code, said = reproduce(tmp_path / "others")
    assert code == 2
    assert f"git config --global --add safe.directory {tmp_path / 'others'}" in said


@pytest.mark.parametrize("commits", [0, 1])
def test_without_a_committed_lock_it_says_what_to_commit(tmp_path: Path, commits: int) -> None:
    run(tmp_path, "git", "init", "--quiet", "project")
    for _ in range(commits):
        commit(tmp_path / "project", "no lock")
    code, said = reproduce(tmp_path / "project")
    assert (code, said.count("\n")) == (2, 1)
    assert "dvc.lock: not committed; run `make release` and commit dvc.lock and manifests/" in said


STAGE = """
stages:
  count:
    cmd: mkdir -p manifests && wc -l < words > manifests/count.json
    deps: [words]
    metrics: [{manifests/count.json: {cache: false}}]
"""


def test_a_project_is_rebuilt_from_its_commit_and_a_difference_names_the_kept_clone(tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / ".dvc").mkdir(parents=True)
    shutil.copy(ROOT / ".dvc/config", project / ".dvc/config")
    (project / "dvc.yaml").write_text(STAGE)
    (project / "words").write_text("the\nriver\n")
    run(project, "git", "init", "--quiet")
    run(project, "dvc", "repro")
    commit(project, "built")
    (project / "words").write_text("not committed\n")
    code, said = reproduce(project)
    assert code == 0
    assert "[1/1] count (" in said and "uncommitted changes here" in said
    (project / "manifests/count.json").write_text("3\n")
    commit(project, "an untrue manifest, and other words")
    code, said = reproduce(project, kept=1)
    assert code == 1
    assert "differ, first in count, because of data: words: " in said
    assert "  manifests/count.json\n" in said
    assert f"the rebuilt clone is {tmp_path / 'temporary'}" in said
