"""`everystep dispute`: two runs that should be equal, narrowed to one operator that a third person computes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.base.files import sha256_file
from pipeline.formats import evidence as form
from pipeline.formats import transcript as transcripts
from pipeline.formats.canonical import canonical, parse
from tests.project import ROOT, run
from tests.releases import edit_log, read_json, write_json
from tests.trainer.corpora import write_ours, write_recipe
from tests.trainer.runs import MODEL

STEP = 7


def everystep(folder: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, because it enters a numerics class."""
    return run(folder, "everystep", *arguments, check=False, EVERYSTEP_PROCESSES="1", **env)


def found_by(folder: Path, seeds: range | list[int], whole: str = "whole") -> list[dict[str, Any]]:
    """What disputes about seeded faults find, in a process of the portable class."""
    project = folder / "project"
    if not project.exists():
        project.mkdir()
        write_ours(project, [[(7919 * (n + 1) * (i + 3)) % 320 for i in range(33)] for n in range(60)])
        write_recipe(project, "everystep", global_batch=4)
    command = [sys.executable, "-m", "tests.trainer.dispute.faults", str(project), whole, *map(str, seeds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def require_named(found: list[dict[str, Any]]) -> None:
    """Each operator must be the one at which the fault happened, and the evidence must prove the honest side right."""
    for told in found:
        about = {key: value for key, value in told.items() if key != "evidence"}
        assert told["named"] == told["expected"], about
        if told["kind"] != "memory" and told["named"][0] != "everystep.rows":
            assert told["right"] == told["honest"], about
        assert told.get("bytes", 0) <= form.MAX_BYTES, about


def test_the_operator_of_a_seeded_fault_is_named(tmp_path: Path) -> None:
    require_named(found_by(tmp_path, [3, 4, 5, 7]))


@pytest.mark.long
def test_the_operator_is_named_in_each_of_fifty_seeded_faults(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    found = found_by(tmp_path, range(1, 51))
    require_named(found)
    kinds = sorted({told["fault"].split(" by ")[0] for told in found})
    record_property("faults", f"{len(found)} faults of {len(kinds)} sorts, each operator named")
    record_property("evidence", f"evidence of at most {max(told.get('bytes', 0) for told in found):,} bytes")


@pytest.mark.long
def test_one_leaf_of_a_result_decides_as_the_whole_does(tmp_path: Path) -> None:
    """As if all tensors were large: what a leaf depends on is filled up with zeros."""
    require_named(found_by(tmp_path, range(1, 41), "narrowed"))


@pytest.fixture(scope="module")
def sides(reference: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, `a` and `b`, of which `b` logs another step 7, and transcripts of that step."""
    folder = tmp_path_factory.mktemp("sides")
    for side in ("a", "b"):
        shutil.copytree(reference, folder / side)

    def edit(entries: list[dict[str, Any]]) -> None:
        entries[STEP - 1]["gradient_norm"] *= 1.5

    edit_log(folder / "b", MODEL, edit)
    path = folder / "b" / "manifests" / "models" / f"{MODEL}.json"
    manifest = read_json(path)
    log = folder / "b" / "runs" / MODEL / "log.jsonl"
    manifest["outputs"]["log"][0] |= {"bytes": log.stat().st_size, "sha256": sha256_file(log)}
    write_json(path, manifest)
    done = everystep(folder, "transcript", "a", "--model", MODEL, "--step", str(STEP), "--out", "a.jsonl")
    assert done.returncode == 0, done.stderr
    lie(folder, "b.jsonl", 0)
    lie(folder, "c.jsonl", 1)
    return folder


def lie(folder: Path, name: str, bit: int) -> int:
    """A transcript in which a product of the backward pass gives something else; the number of the operation."""
    lines = (folder / "a.jsonl").read_bytes().splitlines()
    number, tree = next(
        (number, tree)
        for number, tree in enumerate(map(parse, lines[1:-1]))
        if tree["phase"] == "backward" and "product" in tree["operator"]
    )
    claim = tree["writes"][0]
    claim["digest"] = claim["digest"][:-1] + format(int(claim["digest"][-1], 16) ^ (1 << bit), "x")
    lines[number + 1] = canonical(tree)
    (folder / name).write_bytes(b"\n".join(lines) + b"\n")
    return number


def test_two_machines_write_the_same_transcript(sides: Path) -> None:
    again = everystep(sides, "transcript", "a", "--model", MODEL, "--step", str(STEP), "--out", "again.jsonl", "--json")
    assert (sides / "again.jsonl").read_bytes() == (sides / "a.jsonl").read_bytes()
    told = json.loads(again.stdout)
    assert told["root"] == transcripts.read(sides / "a.jsonl").root
    opened = everystep(
        sides,
        "transcript",
        "a",
        "--model",
        MODEL,
        "--step",
        str(STEP),
        "--out",
        "open.jsonl",
        "--open",
        "300",
        "--json",
    )
    assert json.loads(opened.stdout)["root"] == told["root"]  # opening an operation changes no digest
    assert transcripts.read(sides / "open.jsonl").operations[300].writes[0].leaves is not None


def test_runs_that_are_equal_are_the_same(sides: Path) -> None:
    done = everystep(sides, "dispute", "a", "a", "--model", MODEL)
    assert (done.returncode, done.stdout) == (0, f"same: {MODEL}, every step and stored state\n")
    done = everystep(sides, "dispute", "a", "a.jsonl")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"same: {MODEL}, ")


def test_logs_name_the_step_and_this_machine_says_whose_it_gets(sides: Path) -> None:
    done = everystep(sides, "dispute", "b", "a")
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(
        f"differs: {MODEL}, first at step {STEP}: gradient_norm\nthis machine gets what B logs\n"
    )
    assert f"everystep transcript b --model {MODEL} --step {STEP} --out a.jsonl" in done.stdout


def test_a_third_person_computes_one_operator(sides: Path) -> None:
    done = everystep(sides, "dispute", "b.jsonl", "a", "--out", "evidence", "--json")
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    operation = told["finding"]["operation"]
    assert (told["machine"], told["finding"]["kind"]) == ("B", "result")
    assert operation["phase"] == "backward"
    assert "portable_product" in operation["operator"]
    assert told["evidence_bytes"] == (sides / "evidence").stat().st_size <= form.MAX_BYTES
    (sides / "elsewhere").mkdir()
    shutil.move(sides / "evidence", sides / "elsewhere" / "evidence")
    done = everystep(sides / "elsewhere", "dispute", "--check", "evidence", "--json")
    assert done.returncode == 0, done.stderr
    roots = {"a": transcripts.read(sides / "b.jsonl").root, "b": transcripts.read(sides / "a.jsonl").root}
    assert json.loads(done.stdout) == {
        "model": MODEL,
        "step": STEP,
        "operation": told["finding"]["number"],
        "operator": operation["operator"],
        "right": "B",
        "transcripts": roots,
    }


def test_both_sides_may_be_wrong(sides: Path) -> None:
    done = everystep(sides, "dispute", "b.jsonl", "c.jsonl", "--release", "a", "--out", "neither")
    assert done.returncode == 1, done.stderr
    assert "this machine agrees with neither" in done.stdout
    done = everystep(sides, "dispute", "--check", "neither")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "right: neither")


def test_evidence_that_was_altered_is_refused(sides: Path) -> None:
    done = everystep(sides, "dispute", "a.jsonl", "b.jsonl", "--release", "a", "--out", "true")
    assert done.returncode == 1, done.stderr
    content = (sides / "true").read_bytes()
    line, _, payload = content.partition(b"\n")
    tree = parse(line)

    def refused(changed: bytes, code: int, message: str) -> None:
        (sides / "altered").write_bytes(changed)
        done = everystep(sides, "dispute", "--check", "altered")
        assert (done.returncode, "right" in done.stdout) == (code, False), done.stdout + done.stderr
        assert message in done.stderr

    def edited(**keys: Any) -> bytes:
        return canonical(tree | keys) + b"\n" + payload

    refused(line + b"\n" + bytes([payload[0] ^ 1]) + payload[1:], 1, "its elements are not those that A and B read")
    refused(content + b"x", 1, "bytes of elements")
    claimed = parse(canonical(tree["b"]))
    claimed["operation"]["writes"][0]["digest"] = tree["a"]["operation"]["writes"][0]["digest"]
    refused(edited(b=claimed), 1, "is not line")
    refused(edited(number=tree["number"] + 1), 1, "is not line")
    refused(edited(format="everystep/evidence/2"), 2, "format")
    refused(b"\x80\x04\x95" + content, 2, "not valid JSON")  # a pickle
    refused(b"0" * (form.MAX_BYTES + 1), 2, "at most 5000000")


def test_operators_that_a_training_does_not_use_are_not_run(sides: Path) -> None:
    """torch has operators that open files; here both sides claim one, with proofs that fit."""
    from trainer.dispute.operators import compute

    with pytest.raises(Exception, match="not one that a training uses"):
        compute("aten.from_file.default", {"filename": str(sides / "made"), "shared": True, "size": 8}, [])
    with pytest.raises(Exception, match="writes more than"):
        compute("aten.full.default", {"size": [1 << 40], "fill_value": 0}, [])
    with pytest.raises(Exception, match=r"operator aten\.mul\.Tensor: "):
        compute("aten.mul.Tensor", {"self": {"tensor": 7}}, [])
    assert not (sides / "made").exists()


def test_runs_that_need_not_be_equal_are_refused_by_key(sides: Path) -> None:
    shutil.copytree(sides / "a", sides / "other")
    path = sides / "other" / "manifests" / "models" / f"{MODEL}.json"
    manifest = read_json(path)
    manifest["parameters"]["schedule"]["peak"] = 0.5
    write_json(path, manifest)
    done = everystep(sides, "dispute", "a", "other")
    assert done.returncode == 2
    assert "not two runs that should be equal: recipe: schedule.peak: A has 0.003, B has 0.5" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole transcript"),
        (b"\x80\x04\x95\n\n\n\n", "not valid JSON"),
        (b"{}\n{}\n{}\n", "format: missing"),
    ],
    ids=["empty", "a pickle", "no transcript"],
)
def test_a_transcript_that_is_damaged_is_refused(sides: Path, content: bytes, message: str) -> None:
    (sides / "damaged.jsonl").write_bytes(content)
    done = everystep(sides, "dispute", "a.jsonl", "damaged.jsonl")
    assert done.returncode == 2
    assert message in done.stderr


def test_transcripts_of_other_steps_and_cut_ones_are_refused(sides: Path) -> None:
    lines = (sides / "a.jsonl").read_bytes().splitlines(keepends=True)
    (sides / "cut.jsonl").write_bytes(b"".join(lines[:-1]))
    head = parse(lines[0])
    (sides / "later.jsonl").write_bytes(b"".join([canonical(head | {"step": 8}) + b"\n", *lines[1:]]))
    before = {"state_before": "tensors-v1:" + "0" * 64}
    (sides / "before.jsonl").write_bytes(b"".join([canonical(head | before) + b"\n", *lines[1:]]))
    for name, message in (
        ("cut.jsonl", "cut.jsonl:"),
        ("later.jsonl", "step: A has 7, B has 8"),
        ("before.jsonl", "differ before step 7"),
    ):
        done = everystep(sides, "dispute", "a.jsonl", name)
        assert (done.returncode, message in done.stderr) == (2, True), done.stderr
