"""`everystep dispute`: two runs that should be equal, narrowed to one operator that a third person computes."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.base.files import sha256_file
from pipeline.formats import evidence as form
from pipeline.formats import transcript as transcripts
from pipeline.formats.canonical import canonical, parse
from tests import releases as commands
from tests.conftest import Once
from tests.project import ROOT, run
from tests.releases import Done, edit_log, read_json, write_json
from tests.trainer.corpora import WIDTH, write_ours, write_recipe
from tests.trainer.runs import MODEL, make_run, train

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
    require_named(found_by(tmp_path, [3, 4]))


@pytest.mark.long
def test_the_operator_is_named_in_each_of_fifty_seeded_faults(
    tmp_path: Path, record_property: Callable[[str, object], None]
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


@pytest.mark.long
def test_evidence_about_large_tensors_fits_into_5_mb(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Operators that read more, in a model with a vocabulary of 16,384; where it cannot fit, the size is said."""
    project = tmp_path / "project"
    project.mkdir()
    write_ours(project, [[(7919 * (n + 1) * (i + 3)) % 320 for i in range(WIDTH)] for n in range(60)])
    write_recipe(project, "everystep", global_batch=16, micro_batch=8)
    path = project / "recipes" / "everystep.yaml"
    tree = read_json(path)
    tree["model"] |= {"vocabulary": 16384, "width": 256, "query_heads": 4, "kv_heads": 2, "ffn_width": 512, "layers": 1}
    write_json(path, tree)
    found = found_by(tmp_path, [], "large")
    proved = [told for told in found if "refused" not in told]
    require_named(proved)
    refused = [told for told in found if "refused" in told]  # a leaf of their results depends on all of a large matrix
    assert all("would have" in told["refused"] and told["named"] == told["expected"] for told in refused)
    shapes = {(told["named"][0], told["tensor"]) for told in proved}
    for operator in ("everystep.portable_product.default", "aten._softmax.default"):
        assert (operator, "float32 of shape [256, 16384]") in shapes  # the logits
    assert ("aten.embedding.default", "float32 of shape [8, 32, 256]") in shapes
    record_property("operators", ", ".join(f"{told['named'][0]} {told['bytes']:,} bytes" for told in proved))


@pytest.fixture(scope="module")
def sides(once: Once) -> Path:
    """A folder with two runs, `a` and `b`, of which `b` logs another step 7; transcripts of that step, `b.jsonl` and
    `c.jsonl` with a lie in the same operation; and evidence about `b.jsonl` and `a.jsonl`."""
    return once("sides", make_sides)


def make_sides(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    train(make_run(folder / "a", micro_batches=2))
    shutil.copytree(folder / "a", folder / "b")

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
    done = everystep(folder, "dispute", "b.jsonl", "a", "--out", "evidence", "--json")
    assert done.returncode == 1, done.stderr
    (folder / "said").write_text(done.stdout)


def here(folder: Path, *arguments: str) -> Done:
    """The command in this process, for what computes nothing."""
    with chdir(folder):
        return commands.everystep(*arguments)


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


def test_two_processes_write_the_same_transcript_opened_or_not(sides: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "opened.jsonl")
    more = ("--model", MODEL, "--step", str(STEP), "--out", out, "--open", "300", "--json")
    done = everystep(sides, "transcript", "a", *more)
    whole, opened = transcripts.read(sides / "a.jsonl"), transcripts.read(tmp_path / "opened.jsonl")
    assert json.loads(done.stdout)["root"] == whole.root == opened.root
    assert opened.operations[300].closed() == whole.operations[300]
    assert opened.operations[300] != whole.operations[300]


def test_an_operation_that_a_step_lacks_cannot_be_opened(sides: Path, tmp_path: Path) -> None:
    out = tmp_path / "opened.jsonl"
    more = ("--model", MODEL, "--step", str(STEP), "--out", str(out), "--open", "99999")
    done = everystep(sides, "transcript", "a", *more)
    assert (done.returncode, out.exists()) == (2, False)
    assert "--open 99999: the operations of this step are 0 to " in done.stderr


def test_runs_that_are_equal_are_the_same(sides: Path) -> None:
    done = here(sides, "dispute", "a", "a")
    assert (done.code, done.out) == (0, f"same: {MODEL}, every step and stored state\n")
    done = here(sides, "dispute", "a.jsonl", "a.jsonl")
    operations = len(transcripts.read(sides / "a.jsonl").operations)
    assert (done.code, done.out) == (0, f"same: {MODEL}, {operations:,} operations of a step\n")


def test_logs_name_the_step_and_this_machine_says_whose_it_gets(sides: Path) -> None:
    done = everystep(sides, "dispute", "b", "a")
    assert done.returncode == 1, done.stderr
    first, second, *rest = done.stdout.splitlines()
    assert first == f"differs: {MODEL}, first at step {STEP}: gradient_norm"
    assert second == "this machine gets what B logs"
    assert f"everystep transcript b --model {MODEL} --step {STEP} --out a.jsonl" in rest[0]


def test_a_third_person_computes_one_operator(sides: Path, tmp_path: Path) -> None:
    told = json.loads((sides / "said").read_text())
    operation = told["finding"]["operation"]
    assert (told["machine"], told["finding"]["kind"], operation["phase"]) == ("B", "result", "backward")
    assert told["evidence_bytes"] == (sides / "evidence").stat().st_size <= form.MAX_BYTES
    shutil.copy(sides / "evidence", tmp_path / "evidence")
    done = everystep(tmp_path, "dispute", "--check", "evidence", "--json")
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


def test_both_sides_may_be_wrong(sides: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "neither")
    done = everystep(sides, "dispute", "b.jsonl", "c.jsonl", "--release", "a", "--out", out)
    assert done.returncode == 1, done.stderr
    assert "this machine agrees with neither" in done.stdout
    done = everystep(tmp_path, "dispute", "--check", out)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "right: neither")


def test_evidence_that_was_altered_is_refused(sides: Path, tmp_path: Path) -> None:
    content = (sides / "evidence").read_bytes()
    line, _, payload = content.partition(b"\n")
    tree = parse(line)

    def refused(changed: bytes, code: int, message: str) -> None:
        (tmp_path / "altered").write_bytes(changed)
        done = here(tmp_path, "dispute", "--check", "altered")
        assert (done.code, done.out) == (code, ""), done.said
        assert message in done.err

    def edited(**keys: Any) -> bytes:
        return canonical(tree | keys) + b"\n" + payload

    refused(line + b"\n" + bytes([payload[0] ^ 1]) + payload[1:], 1, "its elements are not those that A and B read")
    refused(content + b"x", 1, "bytes of elements")
    claimed = parse(canonical(tree["b"]))
    claimed["operation"]["writes"][0]["digest"] = tree["a"]["operation"]["writes"][0]["digest"]
    refused(edited(b=claimed), 1, "is not line")
    refused(edited(number=tree["number"] + 1), 1, "is not line")
    refused(edited(shown=[[[0, 10**15]], []]), 1, "there are no such leaves")
    refused(edited(format="everystep/evidence/2"), 2, "format")
    refused(b"\x80\x04\x95" + content, 2, "not valid JSON")  # a pickle
    refused(b"0" * (form.MAX_BYTES + 1), 2, "at most 5000000")


def test_operators_that_a_training_does_not_use_are_not_run(tmp_path: Path) -> None:
    """torch has operators that open files, and those that fill the memory."""
    from trainer.dispute.operators import compute

    with pytest.raises(Exception, match="not one that a training uses"):
        compute("aten.from_file.default", {"filename": str(tmp_path / "made"), "shared": True, "size": 8}, [])
    with pytest.raises(Exception, match="writes more than"):
        compute("aten.full.default", {"size": [1 << 40], "fill_value": 0}, [])
    with pytest.raises(Exception, match=r"operator aten\.mul\.Tensor: "):
        compute("aten.mul.Tensor", {"self": {"tensor": 7}}, [])
    assert not (tmp_path / "made").exists()


def test_every_operator_of_ours_may_be_in_dispute_and_those_of_native_not_in_portable_evidence() -> None:
    from trainer.dispute.operators import ALLOWED, NOT_PORTABLE

    names = torch._C._dispatch_get_all_op_names()
    ours = {name.removeprefix("everystep::") for name in names if name.startswith("everystep::")}
    assert {"portable_product", "large_product", "attention", "attention_backward", "logarithm"} <= ours <= ALLOWED
    assert ours & NOT_PORTABLE == {"large_product", "attention", "attention_backward"}


def test_runs_that_need_not_be_equal_are_refused_by_key(sides: Path, tmp_path: Path) -> None:
    shutil.copytree(sides / "a", tmp_path / "other")
    path = tmp_path / "other" / "manifests" / "models" / f"{MODEL}.json"
    manifest = read_json(path)
    manifest["parameters"]["schedule"]["peak"] = 0.5
    write_json(path, manifest)
    done = here(sides, "dispute", "a", str(tmp_path / "other"))
    assert done.code == 2
    assert "not two runs that should be equal: recipe: schedule.peak: A has 0.008, B has 0.5" in done.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a whole transcript"),
        (b"\x80\x04\x95\n\n\n\n", "not valid JSON"),
        (b"{}\n{}\n{}\n", "format: missing"),
    ],
    ids=["empty", "a pickle", "no transcript"],
)
def test_a_transcript_that_is_damaged_is_refused(sides: Path, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "damaged.jsonl").write_bytes(content)
    done = here(sides, "dispute", "a.jsonl", str(tmp_path / "damaged.jsonl"))
    assert done.code == 2
    assert message in done.err


def test_transcripts_of_other_steps_and_cut_ones_are_refused(sides: Path, tmp_path: Path) -> None:
    lines = (sides / "a.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_bytes(b"".join(lines[:-1]))
    head = parse(lines[0])
    (tmp_path / "later.jsonl").write_bytes(b"".join([canonical(head | {"step": 8}) + b"\n", *lines[1:]]))
    before = {"state_before": "tensors-v1:" + "0" * 64}
    (tmp_path / "before.jsonl").write_bytes(b"".join([canonical(head | before) + b"\n", *lines[1:]]))
    for name, message in (
        ("cut.jsonl", "cut.jsonl: ends with an operation: it was cut off"),
        ("later.jsonl", "step: A has 7, B has 8"),
        ("before.jsonl", "differ before step 7"),
    ):
        done = here(sides, "dispute", "a.jsonl", str(tmp_path / name))
        assert (done.code, message in done.err) == (2, True), done.err
