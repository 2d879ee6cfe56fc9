"""What is installed is pinned by hash: the locks against the pins, the environment and the Makefiles."""

import re
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.project import ROOT

PIN = re.compile(r"^(\S+==\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", re.MULTILINE)
OURS = {"everystep", "pip"}
OF_TORCH = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
"""What the index of torch decides: CUDA builds bring libraries of their own."""


def pins(*names: str) -> set[str]:
    lines = [line for name in names for line in (ROOT / name).read_text().splitlines()]
    return {line for line in lines if not line.startswith("#")}


def locked(name: str) -> set[str]:
    """The pins of a lock, each with at least one hash."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    assert not PIN.sub("", text).split()
    return {match[1] for match in PIN.finditer(text)}


@pytest.mark.parametrize(
    ("lock", "constraints"),
    [
        ("requirements.lock", ["constraints.txt"]),
        ("requirements-dev.lock", ["constraints.txt", "constraints-dev.txt"]),
    ],
)
def test_a_lock_has_hashes_of_all_that_is_pinned_but_torch(lock: str, constraints: list[str]) -> None:
    torch = {pin for pin in pins(*constraints) if pin.startswith("torch==")}
    assert len(torch) == 1
    assert locked(lock) == pins(*constraints) - torch


def test_everything_installed_is_in_the_lock() -> None:
    installed = {re.sub(r"[-_.]+", "-", each.name).lower(): each.version for each in distributions()}
    theirs = {f"{name}=={version}" for name, version in installed.items() if not OF_TORCH.fullmatch(name)}
    assert {pin for pin in theirs - locked("requirements-dev.lock") if pin.partition("==")[0] not in OURS} == set()


APART = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("*/*.txt"))
"""Libraries that `make .venv/tested` puts into folders of their own."""


@pytest.mark.parametrize("name", APART)
def test_libraries_in_folders_of_their_own_have_hashes_too(name: str) -> None:
    assert locked(name)


def test_make_installs_every_library_that_has_a_folder_of_its_own() -> None:
    (names,) = re.findall(r"^APART := (.*)$", (ROOT / "Makefile").read_text(), flags=re.M)
    assert sorted(f"tests/{name}.txt" for name in names.split()) == APART


@pytest.mark.parametrize("makefile", ["Makefile", "examples/Makefile"])
def test_make_installs_nothing_without_its_hash_but_torch_and_this_project(makefile: str) -> None:
    commands = re.findall(r"\$\(INSTALL\) (.*)", Path(ROOT / makefile).read_text())
    unchecked = [command for command in commands if "--require-hashes" not in command]
    assert len(commands) > 2 and len(unchecked) == 2
    assert "torch==" in unchecked[0] and unchecked[1].startswith("--no-deps --no-build-isolation --editable . ")
