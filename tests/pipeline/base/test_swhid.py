"""Git gives a folder the same hash."""

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.base.swhid import swhid

NAMES = st.sampled_from(["a", "a.b", "a-b", "a0", "ab", "b", "B", "é", "日"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


def are_files(paths: list[str]) -> bool:
    """Whether none of them is the folder of another."""
    return not any(other.startswith(f"{path}/") for path in paths for other in paths)


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(PATHS, st.binary(max_size=9), min_size=1, max_size=9).filter(lambda files: are_files([*files])))
def test_identifier_of_a_folder_is_the_hash_of_its_tree_in_git(files: dict[str, bytes]) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        git(folder, "init", "--quiet")
        git(folder, "-c", "core.autocrlf=false", "add", "--all", "--force")
        assert swhid(files) == f"swh:1:dir:{git(folder, 'write-tree')}"
