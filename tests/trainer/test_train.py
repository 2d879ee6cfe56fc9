"""The stage `train`: what names a run, what it says of other states, and digests that find a wrong step."""

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from pipeline.base.imports import closure
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import canonical
from pipeline.formats.digests import tensors_digest
from tests.imports import ROOT
from tests.project import recipe, run
from tests.releases import read_json, write_json
from tests.trainer.runs import MODEL, end, make_run, num_logged, result, start, train

FINGERPRINTS = """
import json, sys
from pathlib import Path
from trainer.plain_rows import CHECKED
from trainer.data import Checking, training_data
from trainer.recipe import load_recipe
from trainer.train import fingerprint, identity

code = Path(sys.argv[1])
recipe, spec = load_recipe("mobilellm")
data = training_data(Path(), recipe, spec, Checking(folder=CHECKED))
found = {"": fingerprint(identity(recipe, spec, data))}
for name in sys.argv[2:]:
    before = (code / name).read_bytes()
    (code / name).write_bytes(before + b"# changed\\n")
    found[name] = fingerprint(identity(recipe, spec, data))
    (code / name).write_bytes(before)
print(json.dumps(found))
"""
REPLAY = """
import sys
from pathlib import Path
from pipeline.release.release import Release
from trainer.replay import replay
replayed = replay(Release.open(Path()), "mobilellm", int(sys.argv[1]), int(sys.argv[2]))
print(replayed.first_difference, replayed.detail, replayed.digests_compared)
"""


def test_fingerprint_follows_each_file_that_trains_and_no_other(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for part in ("pipeline", "trainer"):
        shutil.copytree(ROOT / part, code / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "constraints.txt", code)
    loaded = ["constraints.txt", *closure(ROOT, ["trainer.train"])]
    decide = ["loop", "data", "model", "optimizer", "matmul", "parallel", "recipe", "numerics", "exact"]
    assert {f"trainer/{name}.py" for name in decide} | {"pipeline/formats/order.py"} <= set(loaded)
    others = ["pipeline/audit/pull.py", "trainer/sample.py", "trainer/evaluate.py", "trainer/replay.py"]
    command = [sys.executable, "-c", FINGERPRINTS, str(code), *loaded, *others]
    folder = make_run(tmp_path / "run")
    found = json.loads(run(folder, *command, PYTHONPATH=str(code)).stdout)
    assert {name for name in found if found[name] != found[""]} == set(loaded)
    assert len(set(found.values())) == len(loaded) + 1


def replayed(folder: Path, first: int, last: int) -> str:
    command = [sys.executable, "-c", REPLAY, str(first), str(last)]
    return run(folder, *command, PYTHONPATH=str(ROOT), EVERYSTEP_PROCESSES="1").stdout.strip()


def test_weights_are_digested_every_so_many_steps_and_replay_finds_a_wrong_digest_between_checkpoints(
    tmp_path: Path, reference: Path
) -> None:
    """Digests of steps 3, 6, 9, 12; states of 0, 1, 2, 4, 8, 12."""
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    path = folder / "runs" / MODEL / "log.jsonl"
    entries = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [entry["step"] for entry in entries if entry["weights_digest"]] == [3, 6, 9, 12]
    states = dict(ck.find_checkpoints(folder / "runs" / MODEL))
    assert sorted(states) == [0, 1, 2, 4, 8, 12]
    assert entries[11]["weights_digest"] == tensors_digest(ck.read_tensors(states[12] / ck.WEIGHTS))
    assert replayed(folder, 4, 8) == "None every step is the same 1"
    entries[5]["weights_digest"] = entries[8]["weights_digest"]
    content = b"".join(canonical(entry) + b"\n" for entry in entries)
    path.write_bytes(content)
    manifest = read_json(folder / "manifests" / "models" / f"{MODEL}.json")
    (shard,) = manifest["outputs"]["log"]
    shard |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    write_json(folder / "manifests" / "models" / f"{MODEL}.json", manifest)
    assert replayed(folder, 4, 8).startswith(f"6 weights_digest: released {entries[8]['weights_digest']}, replayed ")


def test_a_state_of_another_numerics_class_or_build_is_said(tmp_path: Path, reference: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    (state,) = folder.glob(f".work/train/{MODEL}/*/step000012-*")
    shutil.rmtree(state)  # so that it goes on from step 8
    (state,) = folder.glob(f".work/train/{MODEL}/*/step000008-*")
    path = state / ck.RECORD
    record = json.loads(path.read_bytes())
    record["numerics"] |= {"class": "native", "capability": "AVX512"}
    path.write_bytes(canonical(record))
    said = train(folder)
    assert "goes on from step 8" in said
    assert (
        "note: bits may differ from the recorded run "
        "(class: 'native' then, 'portable' now; capability: 'AVX512' then, 'AVX2' now)" in said
    )


def test_a_run_that_diverges_says_when_and_where_its_state_is_and_what_can_be_changed(tmp_path: Path) -> None:
    """A rate of 1e12 and no clipping, in two processes: one message."""
    tree = recipe(MODEL)
    schedule = tree["schedule"] | {"steps": 12, "warmup_steps": 2, "decay_steps": 10, "peak": 1e12}
    folder = make_run(tmp_path / "run", schedule=schedule, optimizer=tree["optimizer"] | {"clip_norm": 1e30})
    assert end(start(folder, 2)) == 2
    said = (folder / "said").read_text()
    (message,) = [line for line in said.splitlines() if line.startswith("error: ")]
    found = re.fullmatch(
        r"error: mobilellm: diverged at step (\d+): loss \S+, gradient norm \S+; the last finite loss was \S+ at step "
        r"(\d+); its last checkpoint is (\S+)\. The same recipe would diverge at the same step again: in "
        r"recipes/mobilellm\.yaml, lower schedule\.peak .* starts over",
        message,
    )
    assert found, message
    step, last = int(found[1]), int(found[2])
    assert last == step - 1 == num_logged(folder)
    assert ck.read_record(folder / found[3]).step <= last
    assert "Traceback" not in said


FULL = """
mount -t tmpfs -o size=12m tmpfs "$1" || exit 77
cp -r "$2"/. "$1" && cd "$1"
head -c 1G /dev/zero > filler 2> /dev/null
truncate -s -"$3" filler
shift 3
"$@"
echo "code $?"
find .work -name 'step*-tokens*' | wc -l
find runs manifests/models 2> /dev/null | wc -l
rm filler
"$@" && cp -r manifests runs "$OUT"
"""


def test_a_disk_that_gets_full_during_the_training_is_told_and_no_half_checkpoint_is_taken(
    tmp_path: Path, reference: Path
) -> None:
    """Room for some of the six states: each is 0.7 MB here."""
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    folder = make_run(tmp_path / "run")
    command = ["sh", "-c", FULL, "sh", str(disk), str(folder), "2000000", sys.executable, "-B", "-m", "pipeline.stages"]
    done = run(
        disk,
        *["unshare", "--user", "--map-root-user", "--mount", *command, "train", MODEL],
        check=False,
        PYTHONPATH=str(ROOT),
        EVERYSTEP_PROCESSES="1",
        OUT=str(out),
    )
    if done.returncode == 77 or done.stderr.startswith("unshare:"):
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    code, states, published = done.stdout.split("\n")[:3]
    assert (code, published) == ("code 2", "0")
    assert 1 <= int(states) < 6
    assert "the disk is full; free some room and run the same command again" in done.stderr
    assert "goes on from step" in done.stderr
    assert "Traceback" not in done.stderr
    assert result(out) == result(reference)
