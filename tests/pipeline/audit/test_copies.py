"""A release as other tools copy it: the Hub's client, Git, wget, file managers. They may add files, and change none."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.report import OTHER_FILES
from pipeline.base.errors import Linked
from pipeline.base.files import list_files
from tests.conftest import Once
from tests.project import run
from tests.releases import checkpoint, copied, everystep, flip, read_json
from tests.servers.hub import environment, serve_hub
from tests.servers.web import serve_folder

MODEL = "mobilellm"
REVISION = "4" * 40
DOWNLOAD = """
import sys
from huggingface_hub import snapshot_download
kwargs = {"local_dir": sys.argv[1]} if len(sys.argv) > 1 else {}
print(snapshot_download("owner/release", repo_type="dataset", **kwargs))
"""


@pytest.fixture
def release(built_project: Path, tmp_path: Path) -> Path:
    return copied(built_project / "release", tmp_path / "release")


@pytest.fixture(scope="module")
def downloads(once: Once, built_project: Path) -> Path:
    """The release as `huggingface_hub` brings it: into the folder `local_dir`, and into the cache below `home`."""

    def download(folder: Path) -> None:
        release = built_project / "release"
        files = {path: (release / path).read_bytes() for path in list_files(release)}
        files[".gitattributes"] = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"
        with serve_hub({"owner/release": {REVISION: files}}) as url:
            for arguments in ([], [folder / "local_dir"]):
                client = [sys.executable, "-c", DOWNLOAD, *map(str, arguments)]
                env = os.environ | environment(url, str(folder / "home"))
                subprocess.run(client, env=env, check=True, capture_output=True)

    return once("downloads", download)


@pytest.fixture(scope="module")
def cache(downloads: Path) -> Path:
    return downloads / "home" / "hub" / "datasets--owner--release" / "snapshots" / REVISION


def found(release: Path, *options: str) -> Any:
    """(exit code, what `verify --json` says)."""
    done = everystep("verify", release, "--json", *options)
    return done.code, json.loads(done.out)


def test_a_download_from_the_hub_into_a_folder_is_the_release(downloads: Path) -> None:
    code, report = found(downloads / "local_dir")
    assert (code, report["verified"], report["faults"], report["others"]) == (0, True, [], [])
    assert report["left_by_tools"] == [".cache/huggingface", ".gitattributes"]


def test_the_hubs_cache_of_links_is_not_followed_unasked_and_each_link_is_told_once(cache: Path) -> None:
    code, report = found(cache)
    assert (code, report["verified"], report["faults"], report["files"]) == (Linked.exit_code, False, [], 0)
    assert report["links"] == list_files(cache)
    said = everystep("verify", cache).out
    assert "missing" not in said
    assert f"{len(report['links'])} links in place of files" in said
    assert len(said.splitlines()) == 3


def test_the_hubs_cache_of_links_is_the_release_if_they_are_followed(cache: Path) -> None:
    code, report = found(cache, "--follow-links")
    assert (code, report["verified"], report["links"], report["faults"]) == (0, True, [], [])
    assert report["files"] == len(list_files(cache)) - len(report["left_by_tools"])
    assert report["left_by_tools"] == [".gitattributes"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["show"],
        ["duplicates"],
        ["trace", "--model", MODEL, "--step", "3"],
        ["trace", "--model", MODEL, "--document", "notes/102"],
    ],
)
def test_questions_to_the_hubs_cache_are_answered_if_links_are_followed(
    built_project: Path, cache: Path, arguments: list[str]
) -> None:
    command, options = arguments[:1], arguments[1:]
    options = [] if command[1:] else options
    refused = everystep(*command, cache, *options)
    assert (refused.code, refused.out) == (Linked.exit_code, "")
    assert "--follow-links" in refused.err
    answered = everystep(*command, cache, *options, "--follow-links")
    assert answered.code == 0
    assert answered.out == everystep(*command, built_project / "release", *options).out


def test_a_pull_from_the_hubs_cache_is_the_same_if_links_are_followed(
    built_project: Path, cache: Path, tmp_path: Path
) -> None:
    options = ["--model", "openelm", "--step", "4", "--out"]
    refused = everystep("pull", cache, *options, tmp_path / "refused")
    assert refused.code == Linked.exit_code
    for release, out in ((cache, "a"), (built_project / "release", "b")):
        assert everystep("pull", release, *options, tmp_path / out, "--follow-links").code == 0
    assert list_files(tmp_path / "a") == list_files(tmp_path / "b") != []
    for path in list_files(tmp_path / "a"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    assert list_files(tmp_path) == [f"{name}/{path}" for name in "ab" for path in list_files(tmp_path / "a")]


def test_a_clone_by_git_is_the_release(release: Path, tmp_path: Path) -> None:
    run(release, "git", "init", "--quiet", "--initial-branch=main")
    run(release, "git", "add", "--all")
    run(release, "git", "commit", "--quiet", "--message", "a release")
    run(tmp_path, "git", "clone", "--quiet", str(release), "clone")
    code, report = found(tmp_path / "clone")
    assert (code, report["others"], report["left_by_tools"]) == (0, [], [".git"])


@pytest.mark.skipif(not shutil.which("wget"), reason="wget is not installed")
def test_a_download_by_wget_is_the_release(built_project: Path, tmp_path: Path) -> None:
    """With the pages that list the folders, which it keeps."""
    release = built_project / "release"
    with serve_folder(release) as web:
        command = ["wget", "--quiet", "--recursive", "--no-host-directories", f"{web.url}/"]
        run(tmp_path, *command, NO_PROXY="127.0.0.1")
    code, report = found(tmp_path)
    assert (code, report["others"]) == (0, [])
    folders = [release, *(path for path in release.rglob("*") if path.is_dir())]
    listed = [folder for folder in folders if not (folder / "index.html").exists()]  # the page of the report is its own
    assert len(report["left_by_tools"]) == len(listed) == len(folders) - 1


def test_what_file_managers_leave_is_passed_over(release: Path) -> None:
    left = [".DS_Store", "._README.md", "data/.DS_Store", "data/Thumbs.db", "runs/desktop.ini"]
    left += ["index.html", "data/index.html?C=N;O=D"]
    for path in left:
        (release / path).write_bytes(b"x")
    code, report = found(release)
    assert (code, report["others"], report["left_by_tools"]) == (0, [], sorted(left))


def put_stray(release: Path) -> str:
    (release / "notes.txt").write_bytes(b"mine")
    return "notes.txt"


def put_link(release: Path) -> str:
    (release / "NOTICE").rename(release.parent / "aside")
    (release / "NOTICE").symlink_to(release.parent / "aside")
    return "NOTICE"


def change_a_byte(release: Path) -> str:
    flip(release / "README.md", 0.5)
    return "README.md"


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [(put_stray, "others", OTHER_FILES), (put_link, "links", Linked.exit_code), (change_a_byte, "faults", 1)],
)
def test_strays_links_and_changed_bytes_are_told_apart_by_list_line_and_exit_code(
    release: Path, change: Callable[[Path], str], kind: str, code: int
) -> None:
    path = change(release)
    found_code, report = found(release)
    assert found_code == code
    assert report["verified"] is (kind == "others")
    assert [[item.partition(":")[0] for item in report[each]] for each in ("faults", "links", "others")] == [
        [path] if each == kind else [] for each in ("faults", "links", "others")
    ]
    assert sum(path in line for line in everystep("verify", release).out.splitlines()) == 1


def test_changed_bytes_weigh_more_than_links_and_links_more_than_strays(release: Path) -> None:
    put_stray(release)
    put_link(release)
    assert found(release)[0] == Linked.exit_code
    change_a_byte(release)
    code, report = found(release)
    assert (code, len(report["faults"]), len(report["links"]), len(report["others"])) == (1, 1, 1, 1)


def test_many_strays_are_folded_and_all_are_in_json(release: Path) -> None:
    (release / "more").mkdir()
    for number in range(40):
        (release / "more" / f"{number:02}").write_bytes(b"")
    (release / "zz-setup.py").write_bytes(b"")
    lines = everystep("verify", release).out.splitlines()
    (line,) = [line for line in lines if "other files" in line]
    assert "41 other files" in line
    assert line.endswith("zz-setup.py, more/00, more/01, 38 more in more/")  # code is named first
    assert len(found(release)[1]["others"]) == 41


def test_many_faults_are_folded_and_all_are_in_json(release: Path) -> None:
    shutil.rmtree(release / "runs" / "openelm")
    lines = everystep("verify", release).out.splitlines()
    faults = found(release)[1]["faults"]
    assert "runs/openelm/step000008-tokens2048/record.json: missing" in faults
    assert lines[:20] == faults[:20]
    assert f"... and {len(faults) - 20} more faults" in lines[20]


def test_a_link_in_the_place_of_a_folder_is_one_link(release: Path) -> None:
    (release / "data" / "tokens").rename(release.parent / "tokens")
    (release / "data" / "tokens").symlink_to(release.parent / "tokens")
    code, report = found(release)
    assert (code, report["links"], report["faults"]) == (Linked.exit_code, ["data/tokens"], [])
    assert found(release, "--follow-links")[0] == 0
    (release.parent / "tokens" / "extra").write_bytes(b"")
    code, report = found(release, "--follow-links")
    assert (code, report["others"]) == (OTHER_FILES, ["data/tokens/extra"])


@pytest.mark.timeout(60)
@pytest.mark.parametrize("target", ["/dev/zero", "nowhere", "NOTICE", "."])
def test_a_followed_link_must_lead_to_a_file(release: Path, target: str) -> None:
    (release / "NOTICE").unlink()
    (release / "NOTICE").symlink_to(target)
    code, report = found(release, "--follow-links")
    assert (code, [fault.partition(":")[0] for fault in report["faults"]]) == (1, ["NOTICE"])


def test_a_changed_byte_behind_a_link_is_found(release: Path) -> None:
    weights = checkpoint(release, MODEL, 4) / "model.safetensors"
    weights.rename(release.parent / "blob")
    weights.symlink_to(release.parent / "blob")
    flip(release.parent / "blob", 0.9)
    assert found(release)[0] == Linked.exit_code
    code, report = found(release, "--follow-links")
    assert (code, len(report["faults"])) == (1, 1)


def test_what_was_verified_and_the_root_digest_are_told(built_project: Path) -> None:
    release = built_project / "release"
    _, report = found(release)
    files = [release / path for path in list_files(release)]
    assert (report["files"], report["bytes"]) == (len(files), sum(path.stat().st_size for path in files))
    assert report["checkpoints"] == 10
    assert report["root_sha256"] == read_json(built_project / "manifests" / "release.json")["root_sha256"]
    first, rung, second, voucher, third = everystep("verify", release).out.splitlines()
    assert rung.startswith("rung 3 of 5 (recomputed): ")
    assert voucher == "vouched for by manifests/release.json of the project around it"
    assert f"{report['files']} files, {report['bytes'] / 1e6:.1f} MB, 10 checkpoints, " in first
    assert second == f"sha256 of release.json: {report['root_sha256']}"
    assert third == "unsigned: nobody has signed this release"
