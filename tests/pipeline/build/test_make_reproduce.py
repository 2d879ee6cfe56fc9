"""`make reproduce`: every difference is named by stage and key; where it cannot begin, it says why in one message."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.build.reproduce import compare
from tests.project import ROOT, commit, run

LOCK = {"train@a": {"cmd": "train a", "outs": [{"path": "runs/a", "md5": "1", "size": 3}]}}


def state(lock: object, **manifests: bytes) -> dict[str, object]:
    return {"dvc.lock": lock} | manifests


def test_equal_states_have_no_difference_whatever_the_order_of_stages() -> None:
    forward, backward = {"a": {"cmd": "1"}, "b": {"cmd": "2"}}, {"b": {"cmd": "2"}, "a": {"cmd": "1"}}
    assert list(compare(state(forward, m=b"x"), state(backward, m=b"x"))) == []


def test_difference_in_the_lock_names_stage_path_and_key() -> None:
    other = {"train@a": {"cmd": "train a", "outs": [{"path": "runs/a", "md5": "2", "size": 3}]}}
    (line,) = compare(state(LOCK), state(other))
    assert line == "dvc.lock: train@a: outs: runs/a: md5: committed '1', rebuilt '2'"


def test_missing_extra_and_changed_manifests_are_named() -> None:
    lines = list(compare(state(LOCK, a=b"1", b=b"1"), state(LOCK, b=b"2", c=b"1")))
    assert lines == ["a: only committed", "b: its bytes differ", "c: only rebuilt"]


def test_causes_stand_before_their_effects() -> None:
    old = {name: {"cmd": "1"} for name in ("dedup", "train@a", "fetch@z", "evaluate@a")}
    new = {name: {"cmd": "2"} for name in old}
    stages = [line.split(": ")[1] for line in compare(state(old), state(new))]
    assert stages == ["fetch@z", "dedup", "train@a", "evaluate@a"]


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
    assert "manifests/count.json: its bytes differ" in said
    assert f"the rebuilt clone is {tmp_path / 'temporary'}" in said
