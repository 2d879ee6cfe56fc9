"""The files of this project, and which of them each file loads."""

from pathlib import Path

from pipeline.base import imports

ROOT = Path(__file__).parent.parent


def first_party_files() -> list[Path]:
    return sorted(path for package in imports.PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported_files(path: Path) -> set[Path]:
    """First-party files that `path` imports, package `__init__` files on the way included."""
    return {ROOT / file for file in imports.imports_of(ROOT, path.relative_to(ROOT))}
