"""Files that well-known tools leave in a folder: they are no part of a release, and say nothing about its bytes."""

from pathlib import PurePosixPath

FOLDERS = (".git", ".cache/huggingface", ".huggingface")
FILES = frozenset(
    (".git", ".gitattributes", ".gitignore", ".gitkeep", ".gitmodules", ".DS_Store", "Thumbs.db", "desktop.ini")
)
MACOS_ATTRIBUTES = "._"
"""The beginning of the name of a file in which macOS keeps what other file systems cannot."""


def is_tool_folder(path: str) -> bool:
    """Whether a tool keeps its own files in this folder of a release."""
    return path in FOLDERS


def is_left_by_tools(path: str) -> bool:
    """Whether a tool leaves a file of this name, or keeps it in a folder of its own."""
    name = PurePosixPath(path).name
    return name in FILES or name.startswith(MACOS_ATTRIBUTES) or is_tool_folder(path)
