"""Releases made to harm whoever reads them: numbers without bounds, files without end, names that steer a terminal.

Every digest is right, as an attacker would leave it. What is wrong is one message and an exit code, in little time and
memory.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit.report import OTHER_FILES
from pipeline.formats.canonical import pretty
from pipeline.formats.tables import REMOVALS, removal, write_table
from tests.conftest import Once
from tests.project import ROOT
from tests.releases import checkpoint, copied, everystep, read_json, reseal_file, write_json
from tests.test_bad_input import MEASURED, Change, put

MODEL = "mobilellm"
MANIFEST, TOKENS, RECIPE = f"manifests/models/{MODEL}.json", "manifests/tokens.json", f"recipes/{MODEL}.yaml"
CONFIG = f"runs/{MODEL}/step000004-tokens1024/config.json"
STEP = ("trace", "--model", MODEL, "--step", "3")
DOCUMENT = ("trace", "--model", MODEL, "--document", "notes/102")
HOSTILE = "\x1b]0;mine\x07\x1b[2J\u202e\x9b"


@pytest.fixture(scope="module")
def release(once: Once, built_project: Path) -> Path:
    """A copy that each test leaves as it was."""
    return once("harm", lambda folder: copied(built_project / "release", folder))


@contextmanager
def changed(release: Path, path: str, change: Change) -> Iterator[None]:
    """The release with one JSON file changed and its digests made right again."""
    before = {name: (release / name).read_bytes() for name in (path, "release.json", "SHA256SUMS")}
    tree = read_json(release / path)
    change(tree)
    (release / path).write_bytes(json.dumps(tree).encode())  # what `pretty` would refuse, too
    try:
        reseal_file(release, path)
        yield
    finally:
        for name, content in before.items():
            (release / name).write_bytes(content)


BATCH, STEPS = "parameters.data.global_batch", "parameters.schedule.steps"
LAYERS = put("layers", [{"query_heads": 2, "kv_heads": 1, "head_width": 32, "ffn_width": 64}] * 2)


def deep(tree: dict[str, Any]) -> None:
    tree["applications"] = [0, 1] * 200_000


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("command", "path", "change", "named"),
    [
        *((command, MANIFEST, put(BATCH, n), BATCH) for n in (-4, "4", 10**9, True, 0) for command in (STEP, DOCUMENT)),
        *((command, MANIFEST, put(STEPS, n), STEPS) for n in (10**15, -1, 8.5, None) for command in (STEP, DOCUMENT)),
        *((STEP, TOKENS, put("splits.train.rows", n), "splits.train.rows") for n in (0, -1, 2**60, "9")),
        *((STEP, TOKENS, put("width", n), "width") for n in (0, 2**50, "33")),
        (DOCUMENT, MANIFEST, put(STEPS, 10**9), "passes"),
        (STEP, MANIFEST, put("checkpoints", [{"step": "4", "revision": 4}]), "step"),
        (("verify",), MANIFEST, put("parameters", {}), MANIFEST),
        (("show",), MANIFEST, put("parameters_unique", "many"), "manifests"),
        (("show",), MANIFEST, put("checkpoints", 7), "manifests"),
        (("pull", "--model", MODEL, "--step", "4"), CONFIG, deep, "applications: 400000"),
        (("pull", "--model", MODEL, "--step", "4"), CONFIG, put("vocabulary", 2**40), "vocabulary must be <="),
        (("pull", "--model", MODEL, "--step", "4"), MANIFEST, put("checkpoints", [{"step": 10**30}]), MODEL),
        (("recipes",), RECIPE, put("model.layers", 10**9), "model.layers"),
        (("recipes",), RECIPE, put("schedule.steps", 10**15), "schedule.steps"),
        (("recipes",), RECIPE, put("checkpoints", "every 1"), "recipes"),
        (("replay", "--model", MODEL, "--from", "4", "--to", "8"), RECIPE, put("model.layers", 10**9), "model.layers"),
        (("replay", "--model", MODEL, "--from", "4", "--to", "8"), RECIPE, put("model.width", 2**19), "model.safetens"),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_its_key(
    release: Path, tmp_path: Path, command: tuple[str, ...], path: str, change: Change, named: str
) -> None:
    name, *options = command
    out = ["--out", str(tmp_path / "out")] if name == "pull" else []
    if path == RECIPE and named == "recipes":
        every, steps = change, put("schedule.steps", 10**8)
        change = lambda tree: (every(tree), steps(tree))  # noqa: E731
    with changed(release, path, change):
        done = everystep(name, release, *options, *out)
    assert done.code in (1, 2), done.said
    assert named in done.said
    assert not (tmp_path / "out").exists()


def test_a_recipe_of_endless_steps_is_refused_by_verify_too(release: Path) -> None:
    """The gate reads the manifest, not the recipe: here both say the same."""
    before = {name: (release / name).read_bytes() for name in (RECIPE, MANIFEST, "release.json", "SHA256SUMS")}
    tree, manifest = read_json(release / RECIPE), read_json(release / MANIFEST)
    for steps, digest_every in ((10**15, 1), (8, 0)):
        tree["schedule"]["steps"], tree["digest_every"] = steps, digest_every
        write_json(release / RECIPE, tree)
        reseal_file(release, RECIPE)
        inputs = manifest["inputs"] | {RECIPE: read_json(release / "release.json")["files"][RECIPE]["digest"]}
        write_json(release / MANIFEST, manifest | {"parameters": tree, "inputs": inputs})
        reseal_file(release, MANIFEST)
        done = everystep("verify", release)
        assert done.code == 1
        assert "parameters.schedule.steps: input" in done.out or "parameters.digest_every: input" in done.out
    for name, content in before.items():
        (release / name).write_bytes(content)


# Sizes


def sparse_tensor(path: Path) -> None:
    """600 MB of zeros in a few kilobytes of disk, under a right header."""
    header = pretty({"w": {"dtype": "F32", "shape": [150_000_000], "data_offsets": [0, 600_000_000]}})
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 600_000_000)


def sparse_file(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(600_000_000)


def endless_seek_table(path: Path) -> None:
    """A line file whose footer claims so many frames that their table alone is 600 MB."""
    frames = 75_000_000
    with path.open("wb") as file:
        file.truncate(8 + 8 * frames)
        file.seek(0, 2)
        file.write(frames.to_bytes(4, "little") + b"\0" + (0x8F92EAB1).to_bytes(4, "little"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("file", "harm"),
    [
        (f"runs/{MODEL}/step000004-tokens1024/optimizer.safetensors", sparse_tensor),
        (f"runs/{MODEL}/log.jsonl", sparse_file),
        ("data/tokens/order.jsonl.zst", endless_seek_table),
        ("SHA256SUMS", sparse_file),
    ],
)
def test_a_huge_file_is_read_in_pieces(
    built_project: Path, tmp_path: Path, file: str, harm: Callable[[Path], None]
) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    harm(release / file)
    command = [sys.executable, "-c", MEASURED, "pipeline.cli", "verify", str(release)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert sum(line.startswith(f"{file}: ") for line in done.stdout.splitlines()) == 1
    assert int(done.stderr.split("peak ")[1]) < 350_000  # KiB


@pytest.fixture
def nested(built_project: Path, tmp_path: Path) -> Iterator[Path]:
    """A release with 1,400 folders inside each other, which few tools can even remove."""
    release = copied(built_project / "release", tmp_path / "release")
    place = os.open(release, os.O_RDONLY)
    for _ in range(1400):
        os.mkdir("deep", dir_fd=place)
        inner = os.open("deep", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    yield release
    subprocess.run(["rm", "-rf", str(release / "deep")], check=True)


@pytest.mark.timeout(60)
def test_1400_nested_folders_are_one_other_file(nested: Path) -> None:
    done = everystep("verify", nested, "--json")
    assert done.code == OTHER_FILES
    assert len(json.loads(done.out)["others"]) == 1
    assert everystep("verify", nested).code == OTHER_FILES
    assert everystep("show", nested).code == 0


# Names


def test_names_that_are_not_utf8_or_would_steer_a_terminal_are_escaped(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    for name in (b"caf\xe9.txt", HOSTILE.encode(), b"two\nlines"):
        (Path(os.fsdecode(os.fsencode(release) + b"/" + name))).write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "verify", str(release)], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == OTHER_FILES, done.stderr
    assert b"caf\\xe9.txt" in done.stdout
    assert "two\u240alines".encode() in done.stdout
    for steering in ("\x1b", "\x07", "\u202e", "\x9b"):
        assert steering.encode() not in done.stdout + done.stderr
    assert len(json.loads(everystep("verify", release, "--json").out)["others"]) == 3


@pytest.mark.parametrize(
    ("command", "path", "change"),
    [
        (("show",), "manifests/sources/notes.json", put("parameters.title", HOSTILE)),
        (("show",), "manifests/sources/notes.json", put("parameters.license", HOSTILE)),
        (("verify",), MANIFEST, put("of", HOSTILE)),
        (("trace", "--model", HOSTILE, "--step", "1"), TOKENS, put("width", HOSTILE)),
        (STEP, TOKENS, put("width", HOSTILE)),
    ],
)
def test_what_a_release_says_does_not_steer_the_terminal(
    release: Path, command: tuple[str, ...], path: str, change: Change
) -> None:
    with changed(release, path, change):
        done = everystep(command[0], release, *command[1:])
    assert not set(done.said) & {"\x1b", "\x07", "\u202e", "\x9b"}


def test_duplicates_without_the_document_that_stayed_are_no_traceback(built_project: Path, tmp_path: Path) -> None:
    release = copied(built_project / "release", tmp_path / "release")
    path = "data/deduplicated/removals.parquet"
    write_table(release / path, [removal("dedup", "notes", "notes/1", "exact_duplicate")], REMOVALS, path)
    reseal_file(release, path)
    done = everystep("duplicates", release)
    assert (done.code, done.out) == (2, "")
    assert path in done.err


def test_a_release_in_a_folder_that_is_not_utf8_is_the_same_release(built_project: Path, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    release = copied(built_project / "release", folder / "release")
    plain = built_project / "release"
    assert everystep("verify", release).code == 0
    assert everystep("show", release).out == everystep("show", plain).out
    assert everystep(STEP[0], release, *STEP[1:]).out == everystep(STEP[0], plain, *STEP[1:]).out
    done = everystep("pull", release, "--model", MODEL, "--step", "4", "--out", folder / "out")
    assert done.code == 0
    assert "caf\\xe9/out" in done.out
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "command",
    [
        ("trace", "--model", MODEL, "--document", "\udcff"),
        ("trace", "--model", "\udcff", "--step", "1"),
        ("duplicates", "--id", "\udcff"),
        ("sample", "--model", MODEL, "--prompt", "\udcff"),
    ],
)
def test_an_argument_that_is_not_utf8_is_said_so(release: Path, command: tuple[str, ...]) -> None:
    done = everystep(command[0], release, *command[1:])
    assert done.code == 2
    assert "\\xff: not UTF-8" in done.err


def test_a_safetensors_file_that_is_cut_off_while_it_is_read_is_an_error(release: Path, tmp_path: Path) -> None:
    """Mapped into memory, it would end the process by SIGBUS."""
    from pipeline.base.errors import EverystepError
    from pipeline.formats.tensors import TensorFile

    path = tmp_path / "model.safetensors"
    shutil.copyfile(checkpoint(release, MODEL, 4) / "model.safetensors", path)
    with TensorFile(path) as file:
        os.truncate(path, path.stat().st_size // 2)
        for read in (file.digest, lambda: [file.read(name) for name in file.entries]):
            with pytest.raises(EverystepError, match="it was truncated while it was read"):
                read()
