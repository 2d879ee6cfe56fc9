"""Who imports whom, read from the source: the closure of first-party files behind a module."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "trainer")


def first_party_files() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_files(path: Path) -> set[Path]:
    """First-party files that `path` imports, package `__init__` files on the way included."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            if name.split(".")[0] in PACKAGES:
                found |= _files_of(name)
    return found


def closure(path: Path) -> set[Path]:
    """`path` and every first-party file that is loaded with it."""
    seen: set[Path] = set()
    todo = {path, *_packages(path)}
    while todo:
        current = todo.pop()
        seen.add(current)
        todo |= imported_files(current) - seen
    return seen


def _files_of(name: str) -> set[Path]:
    parts = name.split(".")
    files = {ROOT.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)}
    files.add(ROOT.joinpath(*parts).with_suffix(".py"))
    return {file for file in files if file.is_file()}


def _packages(path: Path) -> set[Path]:
    relative = path.relative_to(ROOT)
    return _files_of(".".join(relative.with_suffix("").parts))
