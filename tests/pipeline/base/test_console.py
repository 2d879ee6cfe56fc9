"""What a person sees of a command: amounts, totals that come late, and faults as one message with an exit code."""

import errno
import sys
from pathlib import Path

import pytest

from pipeline.base.console import amount, clock, exit_codes, in_bytes, progress, total_of
from pipeline.cli import program


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (999.6, "1.0 kB"),
        (7_924_227, "7.9 MB"),
        (999_940_000, "999.9 MB"),
        (999_960_000, "1.0 GB"),
        (998e9, "998.0 GB"),
        (5e18, "5,000.0 PB"),
    ],
)
def test_bytes_are_shown_in_the_unit_that_fits(number: float, shown: str) -> None:
    assert in_bytes(number) == amount(number, "bytes") == shown


def test_one_of_a_unit_is_singular_and_a_slow_rate_keeps_two_digits() -> None:
    assert [amount(n, "shards") for n in (0.049, 1, 2, 1582.4)] == [
        "0.049 shards",
        "1 shard",
        "2 shards",
        "1,582 shards",
    ]


def test_clock_counts_days() -> None:
    assert [clock(s) for s in (7, 3600, 86_400, 3 * 86_400 + 60)] == [
        "0:07",
        "1:00:00",
        "1 day 0:00:00",
        "3 days 0:01:00",
    ]


def test_a_download_shows_its_total_as_soon_as_it_is_known(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.base.console.SECONDS_BETWEEN_LINES", 0)
    with progress("fetch letters", None, "bytes") as advance:
        report = total_of(advance)
        report(0, None)
        report(4_000_000, 10_000_000)
        report(10_000_000, 10_000_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("fetch letters: 0 bytes, ")
    assert lines[1].startswith("fetch letters: 4.0 MB of 10.0 MB, ") and lines[1].endswith(" left")
    assert lines[-1].startswith("fetch letters: 10.0 MB in ")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(errno.ENOSPC, "x", "data/a"),
            "data/a: the disk is full; free some room",
        ),
        (OSError(errno.ENOSPC, "x"), "a file: the disk is full; free some room"),
        (OSError(errno.EROFS, "x", "a"), "a: cannot be written, the file system is read-only; work in a folder that"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "a/b"), "a/b: Not a directory"),
        (OSError(errno.EXDEV, "Invalid cross-device link", "a", None, "b"), "a -> b: Invalid cross-device link"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), "BrokenPipeError: Broken pipe"),
        (OSError("no number"), "OSError: no number"),
    ],
)
def test_what_the_operating_system_refuses_is_one_message_that_names_the_file(
    error: OSError, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise error
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


def test_a_mistake_in_the_program_keeps_its_traceback() -> None:
    with pytest.raises(KeyError), exit_codes():
        raise KeyError("a bug")


@pytest.mark.parametrize("command", [["show"], ["verify"], ["trace", "--model", "m", "--step", "1"]])
def test_a_file_in_the_place_of_a_release_is_one_message(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(sys, "argv", ["everystep", command[0], str(tmp_path / "file"), *command[1:]])
    with pytest.raises(SystemExit) as ended:
        program.main()
    printed = capsys.readouterr()
    assert (ended.value.code, printed.out) == (2, "")
    assert printed.err.startswith(f"error: {tmp_path / 'file'}")
