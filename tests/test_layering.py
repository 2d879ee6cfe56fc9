"""Who may import whom (docs: the rooms of the house), read from the source and, for readers, seen at run time."""

import ast
import os
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.imports import ROOT, first_party_files, imported_files

# A room may import itself, and these. `base` may be imported by everybody.
ALLOWED = {
    "pipeline.base": set(),
    "pipeline.formats": {"pipeline.base"},
    "pipeline.stores": {"pipeline.base"},
    "pipeline.sources": {"pipeline.base", "pipeline.formats", "pipeline.stores"},
    "pipeline.blocks": {"pipeline.base", "pipeline.formats"},
    "pipeline.executor": {"pipeline.base"},
    "pipeline.release": {"pipeline.base", "pipeline.formats", "pipeline.stores"},
    "pipeline.search": {"pipeline.base", "pipeline.formats", "pipeline.release"},
    "pipeline.signing": {"pipeline.base", "pipeline.formats", "pipeline.release"},
    "pipeline.audit": {
        "pipeline.base",
        "pipeline.formats",
        "pipeline.stores",
        "pipeline.sources",
        "pipeline.blocks",
        "pipeline.release",
        "pipeline.search",
        "pipeline.signing",
    },
    "pipeline.stages": {
        "pipeline.base",
        "pipeline.formats",
        "pipeline.sources",
        "pipeline.blocks",
        "pipeline.executor",
        "pipeline.release",
    },
    "pipeline.compare": {
        "pipeline.base",
        "pipeline.formats",
        "pipeline.stores",
        "pipeline.release",
        "pipeline.audit",
    },
    "pipeline.build": {"pipeline.base", "pipeline.formats", "pipeline.release", "pipeline.compare"},
    "pipeline.publish": {
        "pipeline.base",
        "pipeline.formats",
        "pipeline.stores",
        "pipeline.release",
        "pipeline.signing",
        "pipeline.audit",
        "pipeline.build",
    },
    "pipeline.series": {"pipeline.base", "pipeline.formats", "pipeline.stores", "pipeline.release"},
    "pipeline.plan": {"pipeline.base", "pipeline.formats"},
    "trainer": {"pipeline.base", "pipeline.formats", "pipeline.release", "pipeline.plan"},
}
HEAVY = ("torch", "dvc", "datasets", "datatrove", "transformers", "tokenizers")


def room(path: Path) -> str:
    """`pipeline.formats`, `pipeline.cli` ... or `trainer`, which has no rooms."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:2]) if parts[0] == "pipeline" else parts[0]


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def says_nothing(path: Path) -> bool:
    """A package's `__init__.py` that holds its docstring at most."""
    body = ast.parse(path.read_text()).body
    return path.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in body)


@cache
def imports_of(path: Path) -> set[Path]:
    return {other for other in imported_files(path) if other != path and not says_nothing(other)}


FILES = [path for path in first_party_files() if not says_nothing(path)]


def test_every_file_is_in_a_room_whose_rules_are_known() -> None:
    assert {room(path) for path in FILES} == {*ALLOWED, "pipeline.cli"}


@pytest.mark.parametrize("path", [path for path in FILES if room(path) != "pipeline.cli"], ids=name)
def test_a_file_imports_only_what_its_room_may(path: Path) -> None:
    mine = room(path)
    forbidden = [name(other) for other in imports_of(path) if room(other) not in ALLOWED[mine] | {mine}]
    assert forbidden == []


def test_only_the_top_floor_sees_both_packages() -> None:
    def packages(path: Path) -> set[str]:
        return {room(other).split(".")[0] for other in imports_of(path)}

    both = {name(path) for path in FILES if room(path).startswith("pipeline.") and "trainer" in packages(path)}
    assert both and all(path.startswith("pipeline/cli/") for path in both)
    below = [path for path in FILES if room(path) != "pipeline.cli"]
    assert not [name(path) for path in below for other in imports_of(path) if room(other) == "pipeline.cli"]


def test_no_file_imports_itself_in_a_circle() -> None:
    """Circles are broken by moving code, never by an import inside a function."""
    TopologicalSorter({path: imports_of(path) for path in FILES}).prepare()  # raises CycleError, with the circle


def test_only_parallel_uses_torch_distributed() -> None:
    users = {name(path) for path in FILES if uses_distributed(path)}
    assert users == {"trainer/parallel.py"}


def uses_distributed(path: Path) -> bool:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "distributed":
            return True
        if isinstance(node, ast.ImportFrom) and "distributed" in f"{node.module}.{[a.name for a in node.names]}":
            return True
        if isinstance(node, ast.Import) and any("distributed" in alias.name for alias in node.names):
            return True
    return False


def test_the_command_alone_loads_no_heavy_library() -> None:
    code = f"import sys, pipeline.cli.program; sys.exit(any(m in sys.modules for m in {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "command",
    [
        ["show"],
        ["verify"],
        ["receipts"],
        ["trace", "--model", "mobilellm", "--step", "2"],
        ["pull", "--model", "mobilellm", "--step", "2", "--out", "OUT"],
        ["recipes"],
        ["plan"],
        ["lint"],
        ["diff", "SAME"],
        ["average", "--model", "mobilellm", "--last", "2", "--out", "OUT"],
    ],
    ids=lambda command: command[0],
)
def test_a_readers_command_loads_no_heavy_library(built_project: Path, tmp_path: Path, command: list[str]) -> None:
    read = built_project if command[0] == "plan" else built_project / "release"
    arguments = [command[0], str(read), *command[1:]]
    places = {"OUT": str(tmp_path / "out"), "SAME": str(built_project / "release")}
    arguments = [places.get(argument, argument) for argument in arguments]
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print('loaded', *[m for m in {HEAVY} if m in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['everystep', *{arguments!r}]\n"
        "from pipeline.cli.program import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "loaded"
