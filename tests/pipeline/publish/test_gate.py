"""The gate: a release goes out only if everything about it is right, and then it is what a reader verifies."""

import json
import shutil
from pathlib import Path

import pytest

from pipeline.formats.canonical import canonical, parse
from pipeline.formats.release import ROOT
from pipeline.publish.refusals import refusals, unsigned
from pipeline.release.release import Release
from tests.project import commit, run
from tests.releases import Done, copied, everystep, flip, read_json, reseal, write_json

PROBE = """
import sys
from pipeline.release.release import Release
from trainer.probe import probe

if __name__ == "__main__":
    for model in ("openelm", "mobilellm"):
        print(model, *probe(Release.open(sys.argv[1]), model), sep="\\n")
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "keys"
    assert everystep("keys", "new", "--out", folder).code == 0
    return folder


@pytest.fixture
def project(built_project: Path, tmp_path: Path) -> Path:
    """The built project, to be changed: its Git repository and its release, without caches."""
    folder = tmp_path / "project"
    folder.mkdir()
    for entry in built_project.iterdir():
        if entry.name in (".work", "data", "runs", "results"):
            continue
        if entry.is_dir():
            shutil.copytree(entry, folder / entry.name, ignore=shutil.ignore_patterns("cache", "tmp"))
        else:
            shutil.copyfile(entry, folder / entry.name)
    assert run(folder, "git", "status", "--porcelain").stdout == ""
    return folder


def publish(project: Path, to: Path | str, key: Path | None = None) -> Done:
    """In a process of its own: the probe enters a class of numerics."""
    words = ["python", "-m", "pipeline.cli", "publish", str(project / "release"), "--to", str(to)]
    done = run(project, *words, *(["--key", str(key)] if key else []), check=False)
    return Done(done.returncode, done.stdout, done.stderr)


def test_what_passes_is_published_signed_and_verified_by_its_reader(project: Path, keys: Path, tmp_path: Path) -> None:
    done = publish(project, tmp_path / "out", keys / "private.pem")
    assert done.code == 0, done.said
    assert "published everystep-demo 0.1.0" in done.out
    read = everystep("verify", tmp_path / "out", "--key", keys / "public.pem")
    assert read.code == 0, read.said
    head = run(project, "git", "rev-parse", "HEAD").stdout.strip()
    assert head in read.out
    again = publish(project, tmp_path / "out")  # signed already
    assert again.code == 0, again.said
    assert "; 0 were uploaded" in again.out


def test_nobody_has_signed(project: Path) -> None:
    release = Release.open(project / "release")
    assert list(refusals(release)) == []
    assert "nobody has signed; give --key" in "".join(unsigned(release))


def test_somebody_signed_another_commit(project: Path, keys: Path) -> None:
    signed = everystep("sign", project / "release", "--key", keys / "private.pem", "--commit", "0" * 40)
    assert signed.code == 0, signed.said
    assert "nobody has signed data and models with commit" in "".join(unsigned(Release.open(project / "release")))


def test_the_tree_has_changes(project: Path, keys: Path, tmp_path: Path) -> None:
    (project / "recipes" / "mobilellm.yaml").write_text("changed\n")
    done = publish(project, tmp_path / "out", keys / "private.pem")
    assert (done.code, (tmp_path / "out").exists()) == (1, False)
    assert "has changes that are not committed (recipes/mobilellm.yaml)" in done.err
    assert not (project / "release" / "signatures").exists()


def test_the_release_is_not_the_committed_one(project: Path, keys: Path, tmp_path: Path) -> None:
    path = project / "manifests" / "release.json"
    write_json(path, read_json(path) | {"root_sha256": "0" * 64})
    commit(project, "another release")
    done = publish(project, tmp_path / "out", keys / "private.pem")
    assert done.code == 1
    assert "release.json: is not the one that" in done.err


def test_outside_of_a_repository(built_project: Path, keys: Path, tmp_path: Path) -> None:
    folder = copied(built_project / "release", tmp_path / "release")
    found = list(refusals(Release.open(folder)))
    assert len(found) == 1
    assert "is not in a Git repository" in found[0]


@pytest.mark.parametrize("what", ["a changed weight", "a missing file", "another file"])
def test_the_bytes_are_not_those_of_the_release(project: Path, keys: Path, tmp_path: Path, what: str) -> None:
    weights = project / "release/runs/openelm/step000004-tokens1024/model.safetensors"
    if what == "a changed weight":
        flip(weights, 0.7)
    elif what == "a missing file":
        weights.unlink()
    else:
        (project / "release" / "notes.txt").write_text("mine\n")
    done = publish(project, tmp_path / "out", keys / "private.pem")
    assert (done.code, (tmp_path / "out").exists()) == (1, False)
    assert ("notes.txt: is no file of the release" if what == "another file" else "step000004-tokens1024") in done.err
    assert "nothing was published" in done.err


def test_a_license_that_is_not_allowed(built_project: Path, tmp_path: Path) -> None:
    folder = copied(built_project / "release", tmp_path / "release")
    params = parse((folder / "params.yaml").read_bytes(), "params.yaml")
    params["filter"]["licenses"] = ["MIT"]
    (folder / "params.yaml").write_bytes(canonical(params))
    reseal(folder)
    from pipeline.publish.refusals import _licenses

    found = list(_licenses(Release.open(folder)))
    assert found and all("under CC0-1.0, which filter.licenses does not list" in line for line in found)


def test_a_tokenizer_of_another_size(built_project: Path, tmp_path: Path) -> None:
    folder = copied(built_project / "release", tmp_path / "release")
    path = folder / "data/tokenizer/tokenizer.json"
    tree = read_json(path)
    tree["model"]["vocab"]["zzz"] = len(tree["model"]["vocab"])
    path.write_text(json.dumps(tree))
    reseal(folder)
    from pipeline.publish.refusals import _vocabularies

    assert any("has 321 tokens" in line for line in _vocabularies(Release.open(folder)))


def test_a_loss_that_the_weights_do_not_have(built_project: Path, tmp_path: Path) -> None:
    """An attacker made every digest fit; only the model itself knows its loss."""
    folder = copied(built_project / "release", tmp_path / "release")
    path = folder / "manifests/evaluations/mobilellm.json"
    tree = read_json(path)
    tree["results"][2]["loss"] -= 0.01
    write_json(path, tree)
    reseal(folder)
    script = tmp_path / "probe.py"
    script.write_text(PROBE)
    done = run(built_project, "python", str(script), str(folder), PYTHONPATH=str(built_project))
    lines = done.stdout.splitlines()
    assert lines[:2] == ["openelm", "mobilellm"]
    assert len(lines) == 3
    assert "the validation loss of its weights is" in lines[2]
    assert "step000002-tokens512" in lines[2]


def test_what_a_release_is_cannot_be_published_from_a_project(built_project: Path, tmp_path: Path) -> None:
    done = everystep("publish", built_project, "--to", tmp_path / "out")
    assert done.code == 2
    assert "has no release.json" in done.err
    assert not (tmp_path / ROOT).exists()
