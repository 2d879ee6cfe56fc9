"""Git, as the builders' commands run it. A failure is an error in Git's own words, which name the fix."""

import os
import subprocess
from pathlib import Path

from pipeline.base.errors import EverystepError

OF_ANOTHER = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
"""Variables that a Git hook sets: they would send every command to the repository of the hook."""


def git(folder: Path, *words: str) -> str:
    """Return what `git WORDS` prints in `folder`."""
    done = try_git(folder, *words)
    if done.returncode:
        raise EverystepError(f"git {words[0]} in {folder.absolute()} failed:\n{done.stderr.strip()}")
    return done.stdout.strip()


def try_git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `git WORDS` for a caller who handles a failure."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise EverystepError("git: no such program; install Git, and run the same command again") from error
