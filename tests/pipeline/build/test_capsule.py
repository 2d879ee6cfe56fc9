"""A capsule: whole or not there, believed in no byte before all are compared, and (long) a release again without any
network."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.files import list_files, sha256_file
from pipeline.build import thaw
from pipeline.formats.canonical import pretty
from pipeline.formats.manifests import EvaluationSets, Fetched
from tests.pipeline.sources.test_package import steer_pip
from tests.project import ROOT, built, commit, environment, make_corpora, make_project, repro, run
from tests.releases import everystep
from tests.servers.index import serve_index, wheel
from tests.stubs import write_stub

PACKAGES = {
    f"{name}-{version}-py3-none-any.whl": wheel(name, version, {f"{name}.py": b"\n"})
    for name, version in (("demo", "1.0"), ("torch", "2.13.0"))
}
CORPUS, QUIZ = b'{"text":"one"}\n', b'{"text":"two"}\n'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package index that has the two packages, and no other."""
    with serve_index(PACKAGES) as url:
        steer_pip(monkeypatch, url)
        yield


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project")


def write_project(folder: Path) -> Path:
    """A repository with as much of a project as a capsule reads, built and committed."""
    raw = {"data/raw/letters/letters.jsonl": CORPUS, "data/evaluation_sets/quiz.jsonl": QUIZ}
    for path, content in raw.items():
        (folder / path).parent.mkdir(parents=True)
        (folder / path).write_bytes(content)
    (folder / ".gitignore").write_text("data\n")
    (folder / "dvc.lock").write_text("stages: {}\n")
    (folder / "params.yaml").write_bytes(pretty({"sources": {"letters": {"sha256": sha256(CORPUS)}}}))
    (folder / "constraints.txt").write_text("demo==1.0\ntorch==2.13.0\n")
    digest = sha256(PACKAGES["demo-1.0-py3-none-any.whl"])
    (folder / "requirements.lock").write_text(f"demo==1.0 --hash=sha256:{digest}\n")
    (folder / "manifests").mkdir()
    (folder / "manifests" / "code.json").write_text("{}\n")
    write_stub(Fetched, "letters", root=folder, files=[stored("letters.jsonl", CORPUS)])
    write_stub(EvaluationSets, root=folder, files=[stored("quiz.jsonl", QUIZ)])
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    commit(folder, "a project")
    return folder


def stored(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "bytes": len(content), "sha256": sha256(content)}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A project and its capsule."""
    folder = tmp_path_factory.mktemp("packed")
    project = write_project(folder / "project")
    with serve_index(PACKAGES) as url, pytest.MonkeyPatch.context() as settings:
        steer_pip(settings, url)
        done = everystep("capsule", project, folder / "capsule")
    assert done.code == 0, done.err
    assert "2 packages, 2 artefacts; 8 files" in done.out
    return project, folder / "capsule"


@pytest.fixture
def capsule(packed: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(packed[1], tmp_path / "capsule"))


def test_a_capsule_holds_code_packages_and_sources_and_lists_them_all(packed: tuple[Path, Path]) -> None:
    project, capsule = packed
    about = json.loads((capsule / "capsule.json").read_bytes())
    found = [file["path"] for file in about["files"]]
    assert (
        found
        == [path for path in list_files(capsule) if path != "capsule.json"]
        == sorted(
            [
                "README.md",
                "code.bundle",
                "thaw.py",
                *(f"packages/{name}" for name in PACKAGES),
                f"artefacts/{sha256(CORPUS)}/letters.jsonl",
                f"artefacts/{sha256(QUIZ)}/quiz.jsonl",
            ]
        )
    )
    assert {file["path"]: file["sha256"] for file in about["files"]} == {
        path: sha256_file(capsule / path) for path in found
    }
    assert thaw.check(capsule)["commit"] == run(project, "git", "rev-parse", "HEAD").stdout.strip()
    run(
        capsule.parent,
        "git",
        "clone",
        "--quiet",
        "--branch",
        "main",
        str(capsule / "code.bundle"),
        "clone",
        check=False,
    )
    assert (capsule / "thaw.py").read_bytes() == Path(thaw.__file__).read_bytes()


def forget_commit(project: Path) -> None:
    (project / "new.py").touch()


def change_lock(project: Path) -> None:
    run(project, "git", "rm", "--quiet", "--cached", "dvc.lock")
    (project / ".gitignore").write_text("data\ndvc.lock\n")
    commit(project, "without a lock")


def lose_corpus(project: Path) -> None:
    (project / "data/raw/letters/letters.jsonl").unlink()


def change_corpus(project: Path) -> None:
    (project / "data/raw/letters/letters.jsonl").write_bytes(CORPUS.replace(b"one", b"two"))


def lose_digest(project: Path) -> None:
    (project / "params.yaml").write_bytes(pretty({"sources": {"letters": {}}}))
    commit(project, "no digest")


def pin_another(project: Path) -> None:
    (project / "requirements.lock").write_text(f"demo==1.0 --hash=sha256:{'0' * 64}\n")
    commit(project, "another digest")


def begin_with_rows(project: Path) -> None:
    (project / "manifests/rows.json").write_text("{}\n")
    commit(project, "rows")


@pytest.mark.parametrize(
    ("harm", "code", "named"),
    [
        (forget_commit, 2, "a capsule holds a commit; commit or remove what is not in one:\n?? new.py"),
        (change_lock, 2, "dvc.lock: not in the commit; run `make release` and commit"),
        (lose_corpus, 2, "1 raw files are missing; run `make release`"),
        (change_corpus, 1, "letters.jsonl: other bytes than its manifest lists"),
        (lose_digest, 2, f"sources.letters.sha256: missing, a capsule needs it; write {sha256(CORPUS)}"),
        (pin_another, 2, "pip could not download what requirements.lock"),
        (begin_with_rows, 2, "begins with rows that others published"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_missing_is_said_and_nothing_is_left(
    project: Path, tmp_path: Path, index: None, harm: Callable[[Path], None], code: int, named: str
) -> None:
    harm(project)
    done = everystep("capsule", project, tmp_path / "capsule")
    assert (done.code, named in done.err, "Traceback" in done.err) == (code, True, False), done.err
    assert {path.name for path in tmp_path.iterdir()} == {"project"}


def test_a_folder_that_is_no_project_or_exists_is_refused(packed: tuple[Path, Path], tmp_path: Path) -> None:
    assert "has no params.yaml" in everystep("capsule", tmp_path, tmp_path / "new").err
    assert "already exists" in everystep("capsule", *packed).err


class Stalled(dict[str, bytes]):
    """Packages of an index that says when it is asked for torch, and never gives it."""

    def __init__(self) -> None:
        super().__init__(PACKAGES)
        self.asked, self.ended = threading.Event(), threading.Event()

    def __getitem__(self, name: str) -> bytes:
        if name.startswith("torch"):
            self.asked.set()
            self.ended.wait()
        return super().__getitem__(name)


def test_a_capsule_that_was_killed_is_never_taken_for_whole(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = Stalled()
    with serve_index(packages) as url:
        steer_pip(monkeypatch, url)
        command = [sys.executable, "-m", "pipeline.cli", "capsule", str(project), str(tmp_path / "capsule")]
        process = subprocess.Popen(
            command, env=environment(PYTHONPATH=str(ROOT)), start_new_session=True, stderr=subprocess.DEVNULL
        )
        assert packages.asked.wait(60)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        packages.ended.set()
    (left,) = tmp_path.glob(".capsule.*")
    assert "code.bundle" in list_files(left) and not (tmp_path / "capsule").exists()
    done = everystep("thaw", left, tmp_path / "out")
    assert done.code == 2 and "this is no capsule, or one that was not finished" in done.err
    assert not (tmp_path / "out").exists()


def flip(capsule: Path) -> None:
    path = capsule / "packages" / "demo-1.0-py3-none-any.whl"
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)


def grow(capsule: Path) -> None:
    with (capsule / "code.bundle").open("ab") as file:
        file.write(b"more")


def lose(capsule: Path) -> None:
    (capsule / "packages" / "demo-1.0-py3-none-any.whl").unlink()


def add(capsule: Path) -> None:
    (capsule / "packages" / "demo-2.0-py3-none-any.whl").write_bytes(b"")


def link_file(capsule: Path) -> None:
    path = capsule / "code.bundle"
    path.rename(capsule.parent / "elsewhere")
    path.symlink_to(capsule.parent / "elsewhere")


def link_folder(capsule: Path) -> None:
    path = capsule / "packages"
    path.rename(capsule.parent / "elsewhere")
    path.symlink_to(capsule.parent / "elsewhere")


def pipe(capsule: Path) -> None:
    os.mkfifo(capsule / "packages" / "pipe")


def unfinished(capsule: Path) -> None:
    (capsule / "capsule.json").unlink()


@pytest.mark.parametrize(
    ("harm", "code", "named"),
    [
        (flip, 1, "demo-1.0-py3-none-any.whl: other bytes than capsule.json lists"),
        (grow, 1, "code.bundle: other bytes than capsule.json lists"),
        (lose, 1, "demo-1.0-py3-none-any.whl: missing"),
        (add, 1, "demo-2.0-py3-none-any.whl: capsule.json does not list it"),
        (link_file, 2, "code.bundle: a link, pipe or device"),
        (link_folder, 2, "packages: a link, pipe or device"),
        (pipe, 2, "pipe: a link, pipe or device"),
        (unfinished, 2, "no capsule, or one that was not finished"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_capsule_that_differs_is_refused_before_anything_of_it_is_used(
    capsule: Path, tmp_path: Path, harm: Callable[[Path], None], code: int, named: str
) -> None:
    harm(capsule)
    done = everystep("thaw", capsule, tmp_path / "out")
    assert (done.code, named in done.err, "Traceback" in done.err) == (code, True, False), done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["files"][0].update(path="../README.md"),
        lambda about: about["files"][0].update(path="/etc/passwd"),
        lambda about: about["files"][0].update(path="packages/../README.md"),
        lambda about: about["files"][0].update(path=".git/config"),
        lambda about: about["files"][0].update(path="a//b"),
        lambda about: about["files"][0].update(path="a\nb"),
        lambda about: about["files"][0].update(bytes=True),
        lambda about: about["files"].append(about["files"][0]),
        lambda about: about["files"].clear(),
        lambda about: about.update(commit="--upload-pack=sh"),
        lambda about: about.update(torch="--index-url=http://127.0.0.1"),
        lambda about: about.update(more=1),
        lambda about: about.pop("python"),
        lambda about: about.update(files=None),
        lambda about: about.update(format="everystep/capsule/2"),
        lambda about: about.update(python="2.7"),
    ],
)
def test_a_manifest_that_could_lead_elsewhere_is_refused(
    capsule: Path, tmp_path: Path, change: Callable[[Any], object]
) -> None:
    about = json.loads((capsule / "capsule.json").read_bytes())
    change(about)
    (capsule / "capsule.json").write_bytes(pretty(about))
    done = everystep("thaw", capsule, tmp_path / "out")
    assert done.code == 2 and "Traceback" not in done.err, done.err
    assert not (tmp_path / "out").exists()


def test_thaw_needs_no_library_and_leaves_nothing_where_it_cannot_begin(capsule: Path, tmp_path: Path) -> None:
    """`-S` hides all that is installed; the commit that the manifest names is not in the bundle."""
    about = json.loads((capsule / "capsule.json").read_bytes())
    (capsule / "capsule.json").write_bytes(pretty(about | {"commit": "0" * 40}))
    command = [sys.executable, "-I", "-S", str(capsule / "thaw.py"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"cloning {'0' * 40}\nerror: `git -C " in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_release_comes_again_from_its_capsule_alone_without_any_network(tmp_path: Path) -> None:
    """The small project with every package of the lock: its corpora are gone, and no network interface is there."""
    offline = ["unshare", "--user", "--map-root-user", "--net"]
    if (tried := subprocess.run([*offline, "true"], capture_output=True, text=True)).returncode:
        pytest.skip(f"no network namespaces here: {tried.stderr.strip()}")
    project = make_project(tmp_path / "project", make_corpora(tmp_path / "corpora"))
    repro(project)
    commit(project, "built")
    run(project, sys.executable, "-m", "pipeline.cli", "capsule", ".", str(tmp_path / "capsule"))
    expected = built(project)
    shutil.rmtree(tmp_path / "corpora")
    shutil.rmtree(project)
    plain = Path(sys.base_prefix) / "bin" / "python3"
    done = run(tmp_path, *offline, str(plain), "capsule/thaw.py", "out")
    assert done.stdout.startswith("same: ")
    assert built(tmp_path / "out") == expected
    run(tmp_path / "out", "git", "diff", "--exit-code", "HEAD")
    assert run(tmp_path, "out/.venv/bin/everystep", "verify", "out/release").returncode == 0
