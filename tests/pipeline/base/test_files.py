import errno
import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.base.files import (
    MAX_LINE_BYTES,
    MAX_SMALL_BYTES,
    atomic_writer,
    fresh_folder,
    list_files,
    list_folder,
    plain_lines,
    read_small,
    safe_join,
    sha256_file,
    write_bytes,
)

PIECES = st.sampled_from(
    ["..", ".", "", "/", "//", "a", "b.c", "\\", ":", "\0", "\n", "~", " ", "é", "\ud800", "x" * 300]
)


def test_a_writer_that_ends_well_leaves_one_file(tmp_path: Path) -> None:
    with atomic_writer(tmp_path / "new" / "f") as file:
        file.write(b"one")
        assert not (tmp_path / "new" / "f").exists()
    assert list_files(tmp_path) == ["new/f"]
    assert (tmp_path / "new" / "f").read_bytes() == b"one"


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), OSError(errno.EIO, "x")])
def test_a_writer_that_fails_leaves_nothing_of_its_own_and_the_old_file(tmp_path: Path, error: BaseException) -> None:
    write_bytes(tmp_path / "f", b"old")
    for name in ("f", "g"):
        with pytest.raises(type(error)), atomic_writer(tmp_path / name) as file:
            file.write(b"new")
            raise error
    assert list_files(tmp_path) == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_so(tmp_path: Path, number: int) -> None:
    with pytest.raises(EverystepError, match="the disk is full"), atomic_writer(tmp_path / "f"):
        raise OSError(number, "full")
    assert list_files(tmp_path) == []


def test_a_file_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    write_bytes(tmp_path / "f", b"old")
    os.link(tmp_path / "f", tmp_path / "link")
    write_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "link").read_bytes() == b"old"
    assert sha256_file(tmp_path / "f") == hashlib.sha256(b"new").hexdigest()


@given(st.lists(PIECES, max_size=5).map("".join) | st.lists(PIECES, max_size=5).map("/".join) | st.text(max_size=10))
def test_a_joined_path_stays_below_its_folder(relative: str) -> None:
    folder = Path("/nowhere/release")
    try:
        joined = safe_join(folder, relative)
    except EverystepError:
        return
    assert joined != folder
    assert Path(os.path.normpath(joined)) == joined
    assert joined.relative_to(folder).as_posix() == relative


@pytest.mark.parametrize("place", ["link", "link/f", "a/link/f"])
def test_a_symbolic_link_on_the_way_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("/etc")
    (tmp_path / "a" / "link").symlink_to("..")
    with pytest.raises(EverystepError, match="symbolic link"):
        safe_join(tmp_path, place)


def test_listing_is_sorted_and_shows_links_without_following_them(tmp_path: Path) -> None:
    for name in ("b/c", "b.c", "a", "b-c/d"):
        write_bytes(tmp_path / name, b"")
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "empty").mkdir()
    assert list_files(tmp_path) == ["a", "b-c/d", "b.c", "b/c", "dangling", "link"]


def test_a_listing_tells_files_links_pipes_and_folders_that_were_not_looked_into_apart(tmp_path: Path) -> None:
    for name in ("a/f", "skipped/g", "deep/" + "x" * 200 + "/" + "y" * 200 + "/h"):
        write_bytes(tmp_path / name, b"")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("a")
    found = list_folder(tmp_path, lambda path: path == "skipped")
    assert found == (["a/f", "deep/" + "x" * 200 + "/" + "y" * 200 + "/h"], ["link"], ["pipe"], ["skipped"])


def test_lines_of_a_plain_file_are_read_one_at_a_time_and_one_without_an_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"one\n\nthree\n")
    assert list(plain_lines(tmp_path / "f")) == [b"one", b"", b"three"]
    for content in (b"one\ntwo", b"x" * MAX_LINE_BYTES + b"\n"):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(EverystepError, match="a line has no line end"):
            list(plain_lines(tmp_path / "f"))


def test_a_fresh_folder_holds_nothing_of_an_earlier_run(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x" / "deep" / "f", b"")
    assert fresh_folder(tmp_path / "x") == tmp_path / "x"
    assert list(fresh_folder(tmp_path / "x").iterdir()) == list(fresh_folder(tmp_path / "y" / "z").iterdir()) == []


def test_a_file_that_claims_to_be_huge_is_not_read_as_one(tmp_path: Path) -> None:
    with (tmp_path / "release.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(
        EverystepError, match=f"1099511627776 bytes; a file of this kind may have at most {MAX_SMALL_BYTES}"
    ):
        read_small(tmp_path / "release.json")


def test_what_cannot_be_emptied_is_named_by_its_whole_path(tmp_path: Path) -> None:
    """A file in the place of a folder, as a read-only file system would: `mkdir` alone says that it exists."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "raw").write_text("no folder")
    with pytest.raises(NotADirectoryError) as refused:
        fresh_folder(tmp_path / "data" / "raw")
    assert refused.value.filename == str(tmp_path / "data" / "raw")
