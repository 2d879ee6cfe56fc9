"""`make release` as a program: one at a time, the place of each stage among all, and nothing that fails its own checks.

The project of most tests has three stages of a shell command each: DVC is real, what it runs takes no time.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.base.errors import EverystepError
from pipeline.build.release import LOCK, READERS, mend, repro
from tests.project import ROOT, commit, environment, run

STAGES = """
stages:
  fetch:
    foreach: [letters, notes]
    do: {cmd: "mkdir -p data && echo ${item} > data/${item}", outs: ["data/${item}"]}
  dedup:
    {cmd: "cat data/letters data/notes > all", deps: [data/letters, data/notes], outs: [all]}
"""
WHOLE_LOCK = """schema: '2.0'
stages:
  fetch@letters:
    cmd: mkdir -p data && echo letters > data/letters
    outs:
    - path: data/letters
      md5: 0d599f0ec05c3bda8c3b8a68c32a1b47
"""
CUT_LOCK = WHOLE_LOCK[: WHOLE_LOCK.index("md5") + 2]
NO_FLOCK = "int flock(int fd, int how) { extern int *__errno_location(void); *__errno_location() = 38; return -1; }"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Three stages, not yet run."""
    folder = tmp_path / "project"
    (folder / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvc/.gitignore", ".gitignore"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.yaml").write_text(STAGES)
    run(folder, "git", "init", "--quiet")
    commit(folder, "three stages")
    return folder


def build(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return run(folder, sys.executable, "-m", "pipeline.build.release", check=False, PYTHONPATH=str(ROOT), **env)


def announced(printed: str) -> list[str]:
    return [line.split(" (")[0] for line in printed.splitlines() if line.startswith("[")]


def test_each_stage_is_announced_with_its_place_whether_it_runs_fails_or_has_not_changed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert repro(project) == ["fetch@letters", "fetch@notes", "dedup"]
    printed = capsys.readouterr().err
    assert announced(printed) == ["[1/3] fetch letters", "[2/3] fetch notes", "[3/3] dedup"]
    assert len(printed.splitlines()) == 3
    (project / "dvc.yaml").write_text(STAGES.replace("cat data/letters", "false && cat data/letters"))
    with pytest.raises(EverystepError, match=r"^stopped at \[3/3\] dedup; fix the error above"):
        repro(project)
    lines = announced(capsys.readouterr().err)
    assert lines == ["[1/3] fetch letters: unchanged", "[2/3] fetch notes: unchanged", "[3/3] dedup"]


def test_what_a_killed_dvc_left_half_written_is_mended(project: Path) -> None:
    """Without a committed lock the cut one goes; with one, that comes back."""
    (project / READERS).parent.mkdir()
    (project / READERS).write_text('{"data/lett')
    (project / LOCK).write_text(CUT_LOCK)
    assert mend(project) == ["fetch@letters", "fetch@notes", "dedup"]
    assert not (project / READERS).exists() and not (project / LOCK).exists()
    (project / LOCK).write_text(WHOLE_LOCK)
    commit(project, "built")
    (project / LOCK).write_text(CUT_LOCK)
    mend(project)
    assert (project / LOCK).read_text() == WHOLE_LOCK


def test_a_second_build_in_one_folder_is_refused_and_the_first_holds_the_lock_to_its_end(project: Path) -> None:
    (project / ".work").mkdir()
    with (project / ".work/build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = build(project)
    assert done.returncode == 2
    assert done.stderr == "error: another `make release` is under way in this folder; wait for it\n"


def test_an_interrupted_build_ends_dvc_and_says_so_in_one_line(project: Path) -> None:
    (project / "dvc.yaml").write_text(STAGES.replace("cat data/letters", "touch begun && sleep 60 && cat data/letters"))
    command = [sys.executable, "-m", "pipeline.build.release"]
    more = environment(PYTHONPATH=str(ROOT))
    process = subprocess.Popen(command, cwd=project, env=more, stderr=subprocess.PIPE, text=True, process_group=0)
    deadline = time.monotonic() + 120
    while not (project / "begun").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for _ in range(2):  # the second Ctrl-C of an impatient user
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.2)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted; run the same command again"
    assert "Traceback" not in said


def test_a_file_system_without_locks_is_named_and_dvc_told_so_is_enough(project: Path, tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("no C compiler makes a library without flock here")
    (tmp_path / "no.c").write_text(NO_FLOCK)
    run(tmp_path, "gcc", "-shared", "-fPIC", "-o", "no.so", "no.c")
    without = str(tmp_path / "no.so")
    done = build(project, LD_PRELOAD=without)
    assert done.returncode == 2
    assert "no file locks (flock); run `dvc config --local core.hardlink_lock true`" in done.stderr
    assert "under way" not in done.stderr
    (project / ".dvc/config.local").write_text("[core]\n    hardlink_lock = true\n")
    assert announced(build(project, LD_PRELOAD=without).stderr)[-1] == "[3/3] dedup"


@pytest.mark.parametrize("kinds", ["symlink", '"reflink,symlink,copy"'])
def test_links_into_the_cache_are_refused_before_anything_runs(project: Path, kinds: str) -> None:
    (project / ".dvc/config.local").write_text(f"[cache]\n    dir = /elsewhere\n    type = {kinds}\n")
    done = build(project)
    assert done.returncode == 2
    assert ".dvc/config.local: cache.type: symlink: a release is made of files, not of links; set it to" in done.stderr
    assert not (project / ".work").exists()


# With a release


def test_a_build_verifies_what_it_made_shows_it_and_says_what_is_next(built_project: Path, tmp_path: Path) -> None:
    """The small project once more: nothing to do, so only what stands around the stages takes time."""
    project = tmp_path / "project"
    shutil.copytree(built_project, project, ignore=shutil.ignore_patterns("tmp"), symlinks=True)
    done = build(project)
    assert done.returncode == 0, done.stderr
    assert "[19/19] release: unchanged" in done.stderr
    assert "everystep replay release --model mobilellm --from 4 --to 8" in done.stderr
    assert "git add" not in done.stderr  # all is committed
    assert "everystep-demo" in done.stdout


def test_a_release_that_fails_its_own_checks_fails_the_build(project: Path) -> None:
    """A stage called release that leaves what is no release stands for every fault that only `verify` finds."""
    (project / "dvc.yaml").write_text(
        STAGES + "  release: {cmd: mkdir release && touch release/stray, outs: [release]}\n"
    )
    done = build(project)
    assert done.returncode == 2
    assert "[4/4] release" in done.stderr and "release.json" in done.stderr
    assert "Next" not in done.stderr
