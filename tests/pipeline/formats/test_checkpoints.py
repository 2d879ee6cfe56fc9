import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import list_files
from pipeline.formats.canonical import pretty
from pipeline.formats.checkpoints import (
    CONFIG,
    FORMAT,
    OPTIMIZER,
    RECORD,
    WEIGHTS,
    Numerics,
    Record,
    begin,
    find_checkpoints,
    read_record,
    read_tensors,
    read_verified,
    revision,
    schedule,
    state_digest,
    write_record,
    write_tensors,
)
from pipeline.formats.digests import Tensor, differing_tensors, tensors_digest
from tests.pipeline.formats import second_reader as second
from tests.pipeline.formats.test_digests import SETS, described

WEIGHT = {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}
MOMENTS = {"first.w": np.zeros((2, 3), np.float32), "second.w": np.ones((2, 3), np.float32)}


NUMERICS = Numerics.from_json(
    {
        "class": "portable",
        "capability": "AVX2",
        "torch": "2.13.0+cpu",
        "products": "OpenBLAS 0.3.31 Haswell",
        "dtype": "float32",
        "compiled": False,
        "threads": 1,
    },
    "numerics",
)


def record(step: int = 1, **changes: Any) -> Record:
    digests = tensors_digest(WEIGHT), tensors_digest(MOMENTS)
    plain = Record(
        format=FORMAT,
        model="demo",
        revision=revision(step, 64 * step),
        step=step,
        tokens=64 * step,
        applied_updates=step,
        learning_rate=0.5,
        loss=None,
        weights_digest=digests[0],
        optimizer_digest=digests[1],
        state_digest=state_digest(*digests, step),
        parent=None,
        storage="stored",
        nearest_stored_step=step,
        digest_interval=1,
        numerics=NUMERICS,
    )
    return Record.from_json(plain.to_json() | changes, "record")


def write_checkpoint(folder: Path, step: int) -> Path:
    final = folder / revision(step, 64 * step)
    partial = begin(final)
    write_tensors(partial / WEIGHTS, WEIGHT)
    write_tensors(partial / OPTIMIZER, MOMENTS)
    (partial / CONFIG).write_bytes(pretty({}))
    write_record(partial, record(step))
    return partial.rename(final)


@given(SETS.filter(lambda tensors: "__metadata__" not in tensors))
def test_tensors_come_back_bit_by_bit_from_one_canonical_file(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Tensor]
) -> None:
    path = tmp_path_factory.getbasetemp() / "t.safetensors"
    write_tensors(path, tensors)
    content = path.read_bytes()
    assert content == second.write_tensors([described(name, tensor) for name, tensor in tensors.items()])
    assert struct.unpack("<Q", content[:8])[0] % 8 == 0
    found = read_tensors(path)
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in tensors.items()}
    assert differing_tensors(found, tensors) == []
    write_tensors(path, dict(reversed(found.items())))
    assert path.read_bytes() == content


def test_layout_in_memory_changes_no_byte_of_the_file(tmp_path: Path) -> None:
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    files = []
    for tensor in (plain, np.asfortranarray(plain), plain.astype(">f4"), np.repeat(plain, 2, axis=1)[:, ::2]):
        write_tensors(tmp_path / "t", {"w": tensor})
        files.append((tmp_path / "t").read_bytes())
    assert len(set(files)) == 1


def test_the_library_of_safetensors_reads_our_files(tmp_path: Path) -> None:
    write_tensors(tmp_path / "t", WEIGHT)
    with safe_open(tmp_path / "t", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
        assert np.array_equal(file.get_tensor("w"), WEIGHT["w"])


@pytest.mark.parametrize("tensors", [{"__metadata__": np.zeros(1)}, {"w": np.zeros(1, dtype=bool)}])
def test_what_the_format_cannot_hold_is_refused_and_leaves_no_file(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    with pytest.raises(EverystepError, match=r"^tensor "):
        write_tensors(tmp_path / "t", tensors)
    assert list_files(tmp_path) == []


def container(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


HOSTILE = {
    "nothing": b"",
    "half a length": b"\0\0\0",
    "a length past the end": struct.pack("<Q", 100) + b"{}",
    "an enormous length": struct.pack("<Q", 2**63) + b"{}",
    "no JSON": container(b"hello"),
    "no object": container([]),
    "deep nesting": container(b"[" * 100_000),
    "no dtype": container({"w": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
    "an unknown dtype": container(entry(dtype="X"), bytes(8)),
    "a dtype that numpy lacks": container(entry(dtype="BF16", shape=[4]), bytes(8)),
    "an eight-bit float": container(entry(dtype="F8_E4M3", shape=[8]), bytes(8)),
    "missing data": container(entry()),
    "data behind the last tensor": container(entry(), bytes(12)),
    "a shape that does not fit": container(entry(shape=[3]), bytes(8)),
    "a shape that overflows": container(entry(shape=[2**62, 8]), bytes(8)),
    "a negative shape": container(entry(shape=[-2]), bytes(8)),
    "offsets that run backward": container(entry(data_offsets=[8, 0]), bytes(8)),
    "two tensors in one place": container(entry() | {"v": entry()["w"]}, bytes(8)),
    "a hole": container(entry(data_offsets=[4, 12]), bytes(12)),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_container_that_lies_is_refused_by_name(tmp_path: Path, fault: str) -> None:
    (tmp_path / "t").write_bytes(HOSTILE[fault])
    with pytest.raises(EverystepError, match=rf"^{tmp_path}/t: not a readable safetensors file"):
        read_tensors(tmp_path / "t")


def test_a_container_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(EverystepError, match=rf"^{tmp_path}/t: not a readable"):
        read_tensors(tmp_path / "t")


def test_every_flipped_byte_of_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 1)
    whole = (folder / WEIGHTS).read_bytes()
    for position in range(len(whole)):
        damaged = whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :]
        (folder / WEIGHTS).write_bytes(damaged)
        try:
            found = read_verified(folder, WEIGHTS)
        except EverystepError:
            continue
        assert differing_tensors(found, WEIGHT) == [], "only what does not enter the digest may change"
        assert position < len(whole) - WEIGHT["w"].nbytes


def test_weights_that_are_not_the_promised_ones_differ(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, 1)
    assert differing_tensors(read_verified(folder, WEIGHTS), WEIGHT) == []
    assert differing_tensors(read_verified(folder, OPTIMIZER), MOMENTS) == []
    write_tensors(folder / OPTIMIZER, WEIGHT)
    with pytest.raises(Differs, match="the record promises tensors-v1:"):
        read_verified(folder, OPTIMIZER)


def test_only_complete_checkpoints_are_found_in_the_order_of_their_steps(tmp_path: Path) -> None:
    steps = [1_000_000, 9, 0, 10]
    for step in steps:
        write_checkpoint(tmp_path, step)
    begin(tmp_path / revision(11, 704))
    (tmp_path / revision(12, 768)).mkdir()
    assert [step for step, _ in find_checkpoints(tmp_path)] == sorted(steps)
    assert all(path.name == revision(step, 64 * step) for step, path in find_checkpoints(tmp_path))
    assert find_checkpoints(tmp_path / "nothing") == []


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    (begin(tmp_path / "c") / "old").write_bytes(b"")
    assert list(begin(tmp_path / "c").iterdir()) == []


@pytest.mark.parametrize("changes", [{}, {"learning_rate": 1.0}, {"loss": 2.5, "parent": f"tensors-v1:{'0' * 64}"}])
def test_a_record_comes_back_as_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_record(tmp_path, record(**changes))
    assert read_record(tmp_path) == record(**changes)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{}", b'{"format":"everystep/checkpoint/2"}', b"\xff", b"{" * 9999]
)
def test_a_record_of_another_format_is_refused(tmp_path: Path, text: bytes) -> None:
    (tmp_path / RECORD).write_bytes(text)
    with pytest.raises(EverystepError, match=rf"^{tmp_path}/record\.json: not "):
        read_record(tmp_path)
    with pytest.raises(EverystepError, match=r"is .* a checkpoint"):
        read_record(tmp_path / "nowhere")


WRONG_FIELDS: list[dict[str, Any]] = [
    {"step": "1"},
    {"step": None},
    {"step": True},
    {"tokens": 1.5},
    {"loss": "low"},
    {"learning_rate": False},
    {"parent": 1},
    {"model": None},
    {"numerics": []},
    {"numerics": None},
]


@pytest.mark.parametrize("changes", WRONG_FIELDS)
def test_a_field_of_the_wrong_type_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    (tmp_path / RECORD).write_bytes(pretty(record().to_json() | changes))
    with pytest.raises(EverystepError, match=rf"record\.json: {next(iter(changes))}: "):
        read_record(tmp_path)


def test_missing_and_unknown_fields_are_named(tmp_path: Path) -> None:
    tree = record().to_json() | {"speed": 1}
    del tree["parent"]
    (tmp_path / RECORD).write_bytes(pretty(tree))
    with pytest.raises(EverystepError, match=r"parent: missing\n.*record\.json: speed: unknown key"):
        read_record(tmp_path)


@given(st.integers(0, 3000), st.integers(1, 1200), st.sampled_from(["every", "pythia"]))
def test_a_schedule_ascends_from_0_to_the_last_step(num_steps: int, every: int, name: str) -> None:
    steps = schedule(f"{name} {every}", num_steps)
    assert steps == sorted(set(steps)) == second.schedule(f"{name} {every}", num_steps)
    assert (steps[0], steps[-1]) == (0, num_steps)
    assert set(schedule(f"every {every}", num_steps)) <= set(steps)
    assert max((b - a for a, b in pairwise(steps)), default=0) <= every


@pytest.mark.parametrize(
    "rule", ["", "every", "every 0", "every -1", "every 1.5", "every ٣", "pythia 1 2", "chunks", "Every 1"]
)
def test_what_is_no_schedule_is_refused_with_the_fix(rule: str) -> None:
    with pytest.raises(EverystepError, match="write `pythia N`, `every N` or `chunks K`"):
        schedule(rule, 10)


def test_chunks_part_the_steps_equally_or_are_refused() -> None:
    assert schedule("chunks 360", 274_320)[:3] == [0, 762, 1524] and len(schedule("chunks 360", 274_320)) == 361
    with pytest.raises(EverystepError, match="for 10 steps: they do not part into 4 equal chunks"):
        schedule("chunks 4", 10)


def test_a_state_is_its_weights_its_moments_and_its_step() -> None:
    one, other = tensors_digest(WEIGHT), tensors_digest(MOMENTS)
    states = {
        state_digest(one, other, 1),
        state_digest(other, one, 1),
        state_digest(one, other, 2),
        state_digest(one, one, 1),
    }
    assert len(states) == 4
