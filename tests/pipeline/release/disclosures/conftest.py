"""The small release as its publisher would disclose it: with the words of our own `params.yaml`."""

from pathlib import Path

import pytest

from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import pretty
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.papers import PAPERS
from tests.project import ROOT
from tests.releases import copied, evidence_of, read_json, reseal_file

SAID = {"content": "letters, notes and tales", "collected_from": "01/2020", "collected_to": "02/2020"}


@pytest.fixture(scope="module")
def silent(built_project: Path) -> Evidence:
    """The evidence of a release whose publisher declares nothing."""
    evidence = evidence_of(built_project / "release")
    return evidence.model_copy(update={"release": evidence.release.model_copy(update={"disclosures": None})})


@pytest.fixture(scope="module")
def released(built_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release whose publisher declares everything, with its papers."""
    folder = copied(built_project / "release", tmp_path_factory.mktemp("declared") / "release")
    tree = read_json(folder / "params.yaml")
    tree["release"]["disclosures"] = load_yaml(ROOT / "params.yaml")["release"]["disclosures"]
    tree["descriptions"] = {name: said | SAID for name, said in tree["descriptions"].items()}
    (folder / "params.yaml").write_bytes(pretty(tree))
    evidence = evidence_of(folder)
    for name, render in PAPERS.items():
        (folder / name).write_bytes(render(evidence))
    for name in ("params.yaml", *PAPERS):
        reseal_file(folder, name)
    return folder


@pytest.fixture(scope="module")
def declared(released: Path) -> Evidence:
    """The evidence of that release."""
    return evidence_of(released)
