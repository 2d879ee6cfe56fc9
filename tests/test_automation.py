"""What runs by itself, on a forge or before a commit, is what a person is told to run."""

import re

from pipeline.base.yaml import load_yaml
from tests.project import ROOT


def test_the_forge_runs_make_test_and_may_write_nothing() -> None:
    workflow = load_yaml(ROOT / ".github/workflows/ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]
    assert job["timeout-minutes"] <= 60
    assert (ROOT / ".ci/run").read_text().endswith("\nmake test\n")


def test_a_commit_runs_make_check_without_a_network() -> None:
    (repository,) = load_yaml(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = repository["hooks"]
    assert repository["repo"] == "local" and {hook["language"] for hook in hooks} == {"system"}
    makefile = (ROOT / "Makefile").read_text()
    checked = re.findall(r"\$\(RUN\) ((?:ruff|mypy).*?)(?= &&|\n)", makefile)
    assert [f".venv/bin/{command.removesuffix(' .')}" for command in checked] == [hook["entry"] for hook in hooks]
