"""A release opened for reading: what it hands out was compared, and a project is seen by what its manifests promise."""

import shutil
from pathlib import Path

import pytest

from pipeline.base.errors import Differs, EverystepError, Linked
from pipeline.formats.manifests import Deduplicated, Filtered, Tokens, Trained
from pipeline.release.release import Release
from tests.project import MODELS, SOURCES
from tests.releases import checkpoint, copied, everystep, flip, read_json, write_json

MODEL = MODELS[0]
RECORD = f"runs/{MODEL}/step000004-tokens1024/record.json"


@pytest.fixture
def folder(built_project: Path, tmp_path: Path) -> Path:
    return copied(built_project / "release", tmp_path / "release")


def test_a_release_and_its_project_hold_the_same_models_sources_and_states(built_project: Path) -> None:
    release, project = Release.open(built_project / "release"), Release.open(built_project)
    assert release.version is not None and project.version is None
    assert release.sources() == project.sources() == sorted(SOURCES)
    assert release.models() == project.models() == sorted(MODELS)
    for kind, of in ((Tokens, None), (Deduplicated, None), (Filtered, SOURCES[0]), (Trained, MODEL)):
        assert release.manifest(kind, of) == project.manifest(kind, of)
    assert list(release.states(MODEL)) == list(project.states(MODEL)) == [0, 1, 2, 4, 8]
    one, other = release.state(MODEL, 4), project.state(MODEL, 4)
    assert (one.record, one.config) == (other.record, other.config)


@pytest.mark.parametrize("path", [RECORD, "data/tokens/train.parquet", "manifests/tokens.json"])
def test_a_changed_file_is_never_handed_out(folder: Path, path: str) -> None:
    flip(folder / path, 0.5)
    with pytest.raises(EverystepError, match=path):
        Release.open(folder).file(path)
    with pytest.raises(EverystepError, match=path):
        Release.open(folder).read(path)


def test_a_file_that_is_not_promised_and_one_that_is_missing_are_told_apart(folder: Path, built_project: Path) -> None:
    release = Release.open(folder)
    (folder / "extra.txt").write_text("x")
    with pytest.raises(EverystepError, match=r"extra\.txt: the release does not hold this file"):
        release.file("extra.txt")
    (folder / RECORD).unlink()
    with pytest.raises(EverystepError, match=r"record.json: no such file, though it is promised; fetch the release"):
        release.file(RECORD)
    with pytest.raises(EverystepError, match="does not hold"):
        release.file("../project/params.yaml".replace("..", "x"))
    with pytest.raises(EverystepError):
        release.file("../params.yaml")


def test_a_link_is_followed_only_if_asked_for(folder: Path, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    (folder / RECORD).rename(aside)
    (folder / RECORD).symlink_to(aside)
    with pytest.raises(Linked):
        Release.open(folder).file(RECORD)
    assert Release.open(folder, follow_links=True).state(MODEL, 4).record.step == 4


@pytest.mark.parametrize("command", ["show", "trace --model M --step 1", "pull --model M --out OUT"])
def test_a_release_that_lost_its_root_manifest_is_not_taken_for_a_project(
    folder: Path, tmp_path: Path, command: str
) -> None:
    (folder / "release.json").unlink()
    words = command.replace("M", MODEL).replace("OUT", str(tmp_path / "out")).split()
    done = everystep(words[0], folder, *words[1:])
    assert done.code == 2
    assert f"{folder}: has no release.json" in done.err
    assert not (tmp_path / "out").exists()


def test_the_manifest_of_another_model_in_its_place_is_refused(folder: Path) -> None:
    one, other = (folder / "manifests" / "models" / f"{name}.json" for name in MODELS)
    shutil.copyfile(one, other)
    root = read_json(folder / "release.json")
    root["files"][f"manifests/models/{MODELS[1]}.json"] = root["files"][f"manifests/models/{MODELS[0]}.json"]
    write_json(folder / "release.json", root)
    with pytest.raises(Differs, match=f"{MODELS[1]}.json: is the manifest of {MODELS[0]}"):
        Release.open(folder).model(MODELS[1])


def test_a_project_whose_record_is_not_the_one_in_its_manifest_is_refused(built_project: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(built_project, project, ignore=shutil.ignore_patterns(".dvc", ".git", "release"), symlinks=True)
    path = checkpoint(project, MODEL, 4) / "record.json"
    tree = read_json(path)
    path.unlink()
    write_json(path, tree | {"tokens": 1})
    with pytest.raises(Differs, match=rf"not the checkpoint that manifests/models/{MODEL}.json promises"):
        Release.open(project)


def test_an_empty_folder_is_neither(tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match="neither a release nor a project that has built anything"):
        Release.open(tmp_path)
