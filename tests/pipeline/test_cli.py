from importlib.metadata import version
from pathlib import Path

import pytest

from tests.releases import everystep


def test_version_is_that_of_the_installed_package() -> None:
    done = everystep("--version")
    assert (done.code, done.out) == (0, f"everystep {version('everystep')}\n")


@pytest.mark.parametrize("words", [["show"], ["lint"], ["diff", "."], ["dispute", "."], ["forget", ".", "--compare"]])
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "is empty"),
        ("http://127.0.0.1:9/release#SHA256=00", "only #sha256=HEX may end an address"),
        ("https://127.0.0.1:9/release#main", "only #sha256=HEX may end an address"),
    ],
)
def test_an_address_that_names_nothing_or_pins_nothing_is_refused(words: list[str], address: str, said: str) -> None:
    done = everystep(*words, address)
    assert (done.code, done.out) == (2, "")
    assert said in done.err


@pytest.mark.parametrize("words", [["transcript", ".", "--model", "m", "--step", "1"], ["dispute", ".", "."]])
def test_a_folder_in_the_place_of_a_file_to_write_is_refused_before_the_work(words: list[str], tmp_path: Path) -> None:
    done = everystep(*words, "--out", tmp_path)
    assert (done.code, done.err) == (2, f"error: --out {tmp_path}: is a folder; name a file in it\n")


def test_evidence_is_checked_without_sides() -> None:
    done = everystep("dispute", "--check", "evidence", "a", "b")
    assert done.code == 2 and "give it without sides" in done.err
