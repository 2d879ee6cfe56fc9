"""`everystep audit`: a forged stretch is found as often as it is chosen, and an audit leaves a receipt or nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files
from pipeline.formats.sampling import Stretch, chance_to_catch
from pipeline.release.release import Release
from pipeline.release.stretches import stretches
from pipeline.signing.keys import PRIVATE, new_keys
from tests.conftest import Once
from tests.pipeline.signing.signed import make_release, sealed_again, write_states
from tests.project import environment, recipe
from tests.releases import copied, everystep
from tests.servers.web import serve_folder
from tests.trainer.forgeries import falsified, sealed
from tests.trainer.runs import LIMIT, MODEL, make_run, train
from trainer.sampled import enter_class_of

SAMPLE, STRETCHES = 2, 9
BEACON = "7b" * 32


@pytest.fixture(scope="session")
def trained(once: Once) -> Path:
    """The smallest training with stretches of one step and of two."""

    def build(folder: Path) -> None:
        tree = recipe(MODEL)
        make_run(
            folder,
            model=tree["model"] | {"layers": 1, "width": 32, "ffn_width": 32},
            data=tree["data"] | {"global_batch": 1, "micro_batch": 1},
            schedule=tree["schedule"] | {"steps": 16, "warmup_steps": 2, "decay_steps": 14},
            checkpoints="pythia 2",
            digest_every=1,
        )
        train(folder)

    return once("audited", build)


@pytest.fixture
def release(trained: Path, tmp_path: Path) -> Path:
    return sealed(tmp_path / "release", trained)


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_keys(tmp_path / "keys")
    return tmp_path / "keys" / PRIVATE


def audits_of_forgeries(trained: Path, scratch: Path, count: int) -> list[dict[str, Any]]:
    """What `tests/trainer/forgeries.py` prints, from its first seed on."""
    folder = copied(trained, scratch / "run")
    command = [sys.executable, "-m", "tests.trainer.forgeries", str(folder), str(SAMPLE), "0", str(count)]
    done = subprocess.run(
        command, env=environment(EVERYSTEP_PROCESSES="1"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def require_chance(audits: list[dict[str, Any]]) -> int:
    """A forgery is found exactly if its stretch was chosen, nothing else ever is, and the number of those that were
    found is within three standard deviations of what the formula says."""
    for audit in audits:
        assert (audit["stretches"], len(audit["chosen"])) == (STRETCHES, SAMPLE)
        assert audit["found"] == ([audit["forged"]] if audit["forged"] in audit["chosen"] else [])
    chance = chance_to_catch(1, SAMPLE, STRETCHES)
    caught = sum(bool(audit["found"]) for audit in audits)
    assert abs(caught - chance * len(audits)) <= 3 * (len(audits) * chance * (1 - chance)) ** 0.5
    assert len({tuple(audit["forged"]) for audit in audits}) == STRETCHES
    return caught


def test_a_forged_stretch_is_found_exactly_if_it_is_chosen(trained: Path, tmp_path: Path) -> None:
    require_chance(audits_of_forgeries(trained, tmp_path, 40))


@pytest.mark.long
def test_a_thousand_forged_stretches_are_caught_as_often_as_the_formula_says(
    trained: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    caught = require_chance(audits_of_forgeries(trained, tmp_path, 1000))
    expected = 1000 * chance_to_catch(1, SAMPLE, STRETCHES)
    record_property("said", f"{caught} of 1,000 were caught, {expected:.0f} are expected; no other stretch was accused")


def command(release: Path | str, *more: str | Path | int) -> list[str]:
    return ["everystep", "audit", str(release), "--beacon", BEACON, *map(str, more)]


def start(*words: str) -> subprocess.Popen[str]:
    """Start an audit as the leader of a process group of its own."""
    pipe = subprocess.PIPE
    env = environment(EVERYSTEP_PROCESSES="1")
    return subprocess.Popen(words, env=env, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def test_a_killed_audit_leaves_nothing_and_two_at_once_leave_one_receipt(
    release: Path, key: Path, tmp_path: Path
) -> None:
    words = command(release, "--sample", STRETCHES, "--key", key, "--out", tmp_path / "receipts")
    before = {path: (release / path).read_bytes() for path in list_files(release)}
    process = start(*words)
    until = time.monotonic() + LIMIT
    while not (tmp_path / "receipts").is_dir() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list_files(tmp_path / "receipts") == []
    both = [start(*words) for _ in range(2)]
    for out, err in [each.communicate(timeout=LIMIT) for each in both]:
        assert out.count("same: ") == STRETCHES, err
        assert "1 bad: 100.0%, 5 bad: 100.0%" in out
    assert [each.returncode for each in both] == [0, 0]
    assert len(list_files(tmp_path / "receipts")) == 2  # the receipt and the key
    assert {path: (release / path).read_bytes() for path in list_files(release)} == before
    done = everystep("receipts", release, "--in", tmp_path / "receipts", "--key", key.with_name("public.pem"))
    assert done.code == 0 and f"{STRETCHES} of {STRETCHES} stretches came out the same" in done.out


def test_an_audit_of_a_forged_release_elsewhere_signs_what_differs(
    release: Path, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forger falsified the log between steps 2 and 4. The audit reads nothing that it does not need."""
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    forged = falsified(tmp_path / "forged", release, Stretch(MODEL, 2, 4), random.Random(1))
    out = tmp_path / "receipts"
    with serve_folder(forged) as web:
        process = start(*command(web.url, "--sample", STRETCHES, "--key", key, "--out", out, "--json"))
        said, err = process.communicate(timeout=LIMIT)
        assert process.returncode == 1, err
        receipt = json.loads(said)["receipt"]
        differs = [one for one in receipt["verdicts"] if one["verdict"] == "differs"]
        assert [(one["start"], one["stop"]) for one in differs] == [(2, 4)] and len(receipt["verdicts"]) == STRETCHES
        done = everystep("receipts", web.url, "--in", out)
    assert done.code == 1 and f"{MODEL} differs first at step" in done.out


MISUSES = {
    "no such model": (["--sample", "1", "--model", "gpt"], "--model gpt: not in this release"),
    "more than there are": (["--sample", "10"], "a sample of 10: there are 9 stretches"),
    "a short beacon": (["--sample", "1", "--beacon", "12"], "give 16 to 64 bytes as hex digits"),
    "a beacon of words": (["--sample", "1", "--beacon", "the next block"], "give 16 to 64 bytes as hex digits"),
    "an empty source": (["--sample", "1", "--beacon-source", ""], "--beacon-source: source: string should have at"),
    "no folder": (["--sample", "1", "--key", "KEY"], "give --key and --out together"),
    "no key": (["--sample", "1", "--out", "OUT"], "give --key and --out together"),
}


@pytest.mark.parametrize("misuse", MISUSES)
def test_misuse_is_told_before_anything_is_replayed(misuse: str, release: Path, key: Path, tmp_path: Path) -> None:
    words, told = MISUSES[misuse]
    places = {"KEY": str(key), "OUT": str(tmp_path / "out")}
    done = everystep(*command(release)[1:], *(places.get(word, word) for word in words))
    assert done.code == 2 and told in done.err and done.out == ""
    assert not (tmp_path / "out").exists()


def test_models_of_two_numerics_classes_are_audited_one_class_at_a_time(tmp_path: Path) -> None:
    folder = make_release(tmp_path / "release")
    write_states(folder, [0, 1, 2], "large", "native")
    write_states(folder, [0, 1, 2], "tiny", "portable")
    release = Release.open(sealed_again(folder))
    told = r"different numerics classes \(large is native, tiny is portable\); audit those of one: --model"
    with pytest.raises(EverystepError, match=told):
        enter_class_of(release, stretches(release, release.models()))
