"""Import closures, read from the source: which files of this project are loaded with a module.

An import counts wherever it is written, inside a function too. A module that is loaded by a name that the program
computes is not seen.
"""

import ast
from collections.abc import Iterable
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

PACKAGES = ("pipeline", "trainer")
SCRIPTS = ("*.css", "*.js")


def closure(root: Path, modules: Iterable[str]) -> list[str]:
    """The files of `PACKAGES` below `root` that are loaded with `modules`, sorted; paths are relative to `root`."""
    loaded: set[Path] = set()
    todo = {file for module in modules for file in files_of(root, module)}
    while todo:
        file = todo.pop()
        loaded.add(file)
        todo |= imports_of(root, file) - loaded
    return sorted(file.as_posix() for file in loaded)


def closure_with_scripts(root: Path, modules: Iterable[str]) -> list[str]:
    """The `closure`, and the scripts and styles for browsers that are in the folders of its files."""
    loaded = closure(root, modules)
    folders = {(root / file).parent for file in loaded}
    beside = {path.relative_to(root).as_posix() for folder in folders for kind in SCRIPTS for path in folder.glob(kind)}
    return sorted({*loaded, *beside})


def imports_of(root: Path, file: Path) -> set[Path]:
    """The files below `root` that the file `file` there imports."""
    names = _names(root.joinpath(file).read_bytes(), ".".join(file.parent.parts))
    return {found for name in names for found in files_of(root, name)}


def files_of(root: Path, module: str) -> set[Path]:
    """What importing `module` runs itself: its file, and `__init__.py` of each package around it."""
    parts = module.split(".")
    if parts[0] not in PACKAGES:
        return set()
    packages = [Path(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    return {file for file in [*packages, Path(*parts).with_suffix(".py")] if root.joinpath(file).is_file()}


@cache
def _names(source: bytes, package: str) -> frozenset[str]:
    """Every name that `source`, a module of `package`, may import as a module."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return frozenset(names)
