"""Files that well-known tools leave in a folder: they are no part of a release, and say nothing about its bytes."""

from pathlib import PurePosixPath

FOLDERS = (".git", ".cache/huggingface", ".huggingface")
WEB_PAGE = "index.html"
"""The page on which a web server lists a folder, as `wget --recursive` keeps it."""
FILES = frozenset(
    (
        ".git",
        ".gitattributes",
        ".gitignore",
        ".gitkeep",
        ".gitmodules",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        WEB_PAGE,
    )
)
MACOS_ATTRIBUTES = "._"
"""The beginning of the name of a file in which macOS keeps what other file systems cannot."""
BEGINNINGS = (MACOS_ATTRIBUTES, f"{WEB_PAGE}?")
"""With a question mark, the same page in another order."""


def is_tool_folder(path: str) -> bool:
    """Whether a tool keeps its own files in this folder of a release."""
    return path in FOLDERS


def is_left_by_tools(path: str) -> bool:
    """Whether a tool leaves a file of this name, or keeps it in a folder of its own."""
    name = PurePosixPath(path).name
    return name in FILES or name.startswith(BEGINNINGS) or is_tool_folder(path)
