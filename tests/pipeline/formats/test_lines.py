import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files
from pipeline.formats.canonical import canonical, parse
from pipeline.formats.lines import (
    LINES_PER_FRAME,
    MAX_FRAME_BYTES,
    LineFile,
    Shard,
    _seek_table,
    check_shard,
    encode_line,
    write_lines,
)
from tests.pipeline.formats.second_reader import digest_of_lines
from tests.pipeline.formats.second_reader import read_lines as read_lines_by_hand
from tests.pipeline.formats.values import ASCII_KEYS, TEXTS, trees
from tests.shards import read_lines

NUM_LINES = 3 * LINES_PER_FRAME + 8


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of `NUM_LINES` lines in four frames."""
    write_lines(tmp_path / "f", (encode_line({"n": n}) for n in range(NUM_LINES)), "f")
    return tmp_path / "f"


def frame(content: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(level=3, write_checksum=True, **options).compress(content)


def crafted(path: Path, frames: list[bytes], sizes: list[int]) -> Path:
    """A file of these stored frames whose seek table claims these decompressed sizes."""
    path.write_bytes(b"".join(frames) + _seek_table([(len(f), size) for f, size in zip(frames, sizes, strict=True)]))
    return path


def read_everything(path: Path) -> list[bytes]:
    """By each way of reading."""
    with LineFile(path) as file:
        file.digest()
        lines = list(file)
        assert [file[i] for i in range(len(file))] == lines
    return lines


@given(st.dictionaries(ASCII_KEYS, trees(ASCII_KEYS), max_size=4))
def test_a_line_of_ascii_keys_is_rfc_8785(value: Any) -> None:
    assert encode_line(value) == canonical(value) + b"\n"


@given(trees(TEXTS))
def test_a_line_of_anything_is_rfc_8785(value: Any) -> None:
    assert encode_line(value) == canonical(value) + b"\n"
    assert parse(encode_line(value)) == value


@pytest.mark.parametrize("value", [{"a": [float("nan")]}, {"a": 2**53}, {"a": {"b": b""}}, {"a": "\ud800"}, {1: 1}])
def test_what_json_cannot_hold_is_refused_at_every_depth(value: Any) -> None:
    with pytest.raises(EverystepError, match="not representable in canonical JSON"):
        encode_line(value)


def test_endless_nesting_is_refused() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(EverystepError):
        encode_line(value)


@pytest.mark.parametrize("num_lines", [0, 1, 63, 64, 65, 128, 200])
def test_random_access_equals_iteration(tmp_path: Path, num_lines: int) -> None:
    lines = [encode_line({"n": "x" * (n % 7)}) for n in range(num_lines)]
    shard = write_lines(tmp_path / "f", lines, "name")
    assert (shard.lines, shard.bytes, shard.sha256) == digest_of_lines([line[:-1] for line in lines])
    with LineFile(tmp_path / "f") as file:
        assert len(file) == num_lines
        assert [file[i] for i in reversed(range(num_lines))][::-1] == [line[:-1] for line in lines] == list(file)
        for outside in (-1, num_lines, num_lines + 64, 10**9):
            with pytest.raises(IndexError):
                file[outside]
    assert read_lines_by_hand(tmp_path / "f") == [line[:-1] for line in lines]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), max_size=150), st.data())
def test_any_lines_come_back(tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("lines") / "f"
    shard = write_lines(path, (text.encode() + b"\n" for text in texts), "f")
    assert list(read_lines(path)) == [text.encode() for text in texts] == read_lines_by_hand(path)
    check_shard(path.parent, shard)
    with LineFile(path) as file:
        for number in data.draw(st.lists(st.integers(0, max(len(texts) - 1, 0)), max_size=5 if texts else 0)):
            assert file[number] == texts[number].encode()


@pytest.mark.parametrize("lines", [[b"no end"], [b"two\nlines\n"], [b"a\nb", b"c\n"], [b""], [b"a\n", b"\n\n", b"c"]])
def test_a_writer_takes_nothing_but_whole_lines(tmp_path: Path, lines: list[bytes]) -> None:
    with pytest.raises(EverystepError, match="no LF at its end, or more than one LF"):
        write_lines(tmp_path / "f", lines, "f")
    assert list_files(tmp_path) == []


def test_equal_lines_give_equal_files(tmp_path: Path, path: Path) -> None:
    write_lines(tmp_path / "again", (line + b"\n" for line in read_lines(path)), "f")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_the_digest_does_not_depend_on_the_compression(tmp_path: Path) -> None:
    content = b"x\n" * 10
    shard = write_lines(tmp_path / "f", [b"x\n"] * 10, "f")
    stored = zstandard.ZstdCompressor(level=19).compress(content)
    crafted(tmp_path / "f", [stored], [len(content)])
    check_shard(tmp_path, shard)


def test_a_changed_line_differs_from_the_manifest(tmp_path: Path, path: Path) -> None:
    with LineFile(path) as file:
        lines, size, sha256 = file.digest()
    shard = Shard(path="f", lines=lines, bytes=size, sha256=sha256)
    check_shard(tmp_path, shard)
    write_lines(path, (encode_line({"n": n + (n == 100)}) for n in range(NUM_LINES)), "f")
    with pytest.raises(Differs, match=f"{path}: the manifest promises {NUM_LINES} lines"):
        check_shard(tmp_path, shard)


def test_every_truncation_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(EverystepError):
            read_everything(path)


def test_every_flipped_byte_is_refused_or_changes_nothing(path: Path) -> None:
    whole, lines = path.read_bytes(), list(read_lines(path))
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x41]) + whole[position + 1 :])
        try:
            assert read_everything(path) == lines
        except EverystepError as error:
            assert str(path) in str(error)


@given(st.binary(max_size=80), st.booleans(), st.integers(0, 2**32 - 1))
def test_garbage_is_refused(tmp_path_factory: pytest.TempPathFactory, noise: bytes, magic: bool, frames: int) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage"
    path.write_bytes(noise + (struct.pack("<IBI", frames, 0, 0x8F92EAB1) if magic else b""))
    with pytest.raises(EverystepError, match="seek table"):
        LineFile(path)


TWO = b"a\nb\n"
FULL = b"x\n" * LINES_PER_FRAME
SKIPPABLE = struct.pack("<II", 0x184D2A50, 4) + TWO
LIES: dict[str, tuple[list[bytes], list[int]]] = {
    "a smaller size than the frame's": ([frame(TWO)], [3]),
    "a larger size than the frame's": ([frame(TWO)], [5]),
    "no size": ([frame(TWO)], [0]),
    "a frame without its size": ([frame(TWO, write_content_size=False)], [4]),
    "two frames called one": ([frame(TWO) + frame(TWO)], [4]),
    "bytes behind the frame": ([frame(TWO) + b"more"], [4]),
    "a skippable frame": ([SKIPPABLE], [4]),
    "a skippable frame behind the frame": ([frame(TWO) + SKIPPABLE], [4]),
    "a frame of nothing": ([b""], [0]),
    "a frame of no lines": ([frame(b"")], [0]),
    "a last line without its end": ([frame(b"a\nb")], [3]),
    "too few lines in a frame that is not the last": ([frame(TWO), frame(TWO)], [4, 4]),
    "too many lines in a frame": ([frame(FULL + b"x\n")], [130]),
    "a frame that is no frame": ([b"hello"], [4]),
}


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("read", [lambda file: list(file), lambda file: file[0], lambda file: file.digest()])
def test_a_seek_table_that_lies_is_refused(tmp_path: Path, lie: str, read: Callable[[LineFile], object]) -> None:
    with (
        LineFile(crafted(tmp_path / "f", *LIES[lie])) as file,
        pytest.raises(EverystepError, match=f"{tmp_path / 'f'}: frame 0"),
    ):
        read(file)


@pytest.mark.parametrize("claim", [MAX_FRAME_BYTES + 1, 2**32 - 1])
def test_a_frame_that_claims_too_much_is_refused_before_it_is_opened(tmp_path: Path, claim: int) -> None:
    with pytest.raises(EverystepError, match=f"a frame claims {claim} bytes; at most"):
        LineFile(crafted(tmp_path / "f", [frame(TWO)], [claim]))


def test_a_frame_header_that_claims_too_much_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """Magic, descriptor of a single segment with an 8-byte content size, and a claim of 1 TiB."""
    bomb = struct.pack("<IBQ", 0xFD2FB528, 0xE0, 1 << 40) + b"\x01\x00\x00"
    assert zstandard.get_frame_parameters(bomb).content_size == 1 << 40
    with LineFile(crafted(tmp_path / "f", [bomb], [MAX_FRAME_BYTES])) as file, pytest.raises(EverystepError):
        file[0]


def test_bytes_that_no_frame_owns_are_refused(tmp_path: Path) -> None:
    stored = frame(TWO)
    for content in (b"x" + stored + _seek_table([(len(stored), 4)]), stored + _seek_table([(len(stored), 4)]) + b"x"):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(EverystepError, match="seek table"):
            LineFile(tmp_path / "f")


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(EverystepError, match=f"^{tmp_path / name}: cannot be read"):
        LineFile(tmp_path / name)


def test_zstandard_shows_the_plain_lines(path: Path) -> None:
    plain = b"".join(line + b"\n" for line in read_lines(path))
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as reader:
        assert io.BufferedReader(reader).read() == plain
