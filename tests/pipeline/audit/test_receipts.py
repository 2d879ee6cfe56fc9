"""Receipts of audits: who replayed what, and every way to lie in one. Real replays are in `trainer/test_sampled.py`.

Receipts are of a release that has manifests and no tensors: nothing else of it is read.
"""

import hashlib
import json
import shutil
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from types import MappingProxyType
from typing import Any

import pytest

from pipeline.audit import receipts as module
from pipeline.audit.receipts import check_receipts
from pipeline.audit.receipts_report import Receipts
from pipeline.audit.verify import verify
from pipeline.base.errors import EverystepError
from pipeline.base.files import list_files
from pipeline.formats.canonical import Json, canonical, pretty
from pipeline.formats.manifests import Trained
from pipeline.formats.receipts import Finding, Program, Words
from pipeline.formats.release import ROOT
from pipeline.formats.sampling import choose
from pipeline.publish.upload import publish
from pipeline.release.release import Release
from pipeline.release.stretches import plan_audit, stretches
from pipeline.signing.envelopes import sealed
from pipeline.signing.keys import PrivateKey, key_id, pem
from pipeline.signing.receipts import name_of, program_of, receipt_of, statement_of, words_of, write_receipt
from pipeline.signing.sign import sign
from pipeline.stores.address import open_store
from tests.fuzzing import Artefact, Target, run
from tests.pipeline.signing.signed import make_key, make_release, payload_of, sealed_again, write_states
from tests.releases import copied, everystep, flip
from tests.servers.web import serve_folder
from tests.stubs import write_stub

Edit = Callable[[Json], object]
BEACON = hashlib.sha256(b"round 1").hexdigest()
SAME = Finding(None, None)
STEPS = (0, 1, 2, 4, 8, 12)


@pytest.fixture
def release(tmp_path: Path) -> Release:
    """Two models of five stretches each."""
    folder = make_release(tmp_path / "release")
    for model in ("large", "tiny"):
        write_states(folder, STEPS, model)
    return Release.open(sealed_again(folder))


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    return make_key(tmp_path / "ours")[0]


@pytest.fixture
def other(tmp_path: Path) -> PrivateKey:
    return make_key(tmp_path / "theirs")[0]


def told(
    release: Release,
    sample: int = 3,
    beacon: str = BEACON,
    models: list[str] | None = None,
    findings: Mapping[int, Finding] = MappingProxyType({}),
) -> Json:
    """What an auditor would sign: all stretches came out the same, but those whose number has a finding."""
    plan = plan_audit(release, models or release.models(), beacon, sample)
    found = [findings.get(number, SAME) for number in range(sample)]
    about = {stretch.model: release.model(stretch.model).numerics for stretch in plan.chosen}
    words = Words("a beacon of this test", program_of(release), found, about, "a processor")
    receipt = receipt_of(release, plan, words)
    assert words_of(receipt) == words
    return statement_of(release, plan, receipt)


def left(release: Release, key: PrivateKey, statement: Json) -> Path:
    return write_receipt(release.folder / "receipts", statement, key)


def check(release: Release, *pinned: PrivateKey, folder: Path | None = None, follow_links: bool = False) -> Receipts:
    again = Release.open(release.folder, follow_links)
    keys = {key_id(one.public_key()): one.public_key() for one in pinned}
    return check_receipts(again, folder or release.folder / "receipts", keys)


def only_fault(release: Release, *pinned: PrivateKey) -> str:
    found = check(release, *pinned)
    assert not found.receipts and found.exit_code == 1
    (fault,) = found.faults
    assert "\n" not in fault
    return fault


def test_a_receipt_says_who_replayed_what(release: Release, key: PrivateKey) -> None:
    assert check(release) == replace(Receipts(), covered=check(release).covered)
    left(release, key, told(release))
    found = check(release)
    assert (found.faults, found.links, found.others, found.exit_code) == ([], [], [], 0)
    (receipt,) = found.receipts
    assert (receipt.key, receipt.beacon, receipt.stretches) == (key_id(key.public_key()), BEACON, 10)
    root = hashlib.sha256((release.folder / ROOT).read_bytes()).hexdigest()
    chosen = choose(root, BEACON, stretches(release, ["large", "tiny"]), 3)
    assert [(one.model, one.start, one.stop) for one in receipt.replayed] == [*map(tuple, chosen)]
    assert [one.same for one in found.covered].count([receipt.key]) == 3 and len(found.covered) == 10


def test_the_same_audit_gives_the_same_bytes_and_another_a_file_of_its_own(release: Release, key: PrivateKey) -> None:
    first = left(release, key, told(release))
    content = first.read_bytes()
    assert left(release, key, told(release)) == first and first.read_bytes() == content
    left(release, key, told(release, sample=4))
    left(release, key, told(release, models=["tiny"]))
    left(release, key, told(release, beacon="ab" * 16))
    assert len(check(release).receipts) == 4 == len(list(first.parent.glob("*.json")))


def test_stretches_are_counted_by_the_keys_of_those_who_replayed_them(
    release: Release, key: PrivateKey, other: PrivateKey
) -> None:
    left(release, key, told(release, sample=10))
    left(release, key, told(release, sample=4))
    left(release, other, told(release, sample=4))
    found = check(release)
    assert sorted(len(one.same) for one in found.covered) == [1] * 6 + [2] * 4
    assert [one.counts for one in check(release, other).receipts].count(True) == 1
    assert sorted(len(one.same) for one in check(release, other).covered) == [0] * 6 + [1] * 4


def test_a_difference_counts_if_its_auditor_does(release: Release, key: PrivateKey, other: PrivateKey) -> None:
    """Anyone can make a key and say that a release is forged; who names keys is not troubled by others."""
    every = [Finding(stretch.stop, "weights_digest: ...") for stretch in stretches(release, release.models())]
    left(release, other, told(release, sample=10, findings=dict(enumerate(every))))
    left(release, key, told(release))
    assert check(release).exit_code == 1 and len(check(release).differing) == 10
    assert check(release, key).exit_code == 0 and not check(release, key).differing
    done = everystep("receipts", release.folder)
    assert done.code == 1
    again = f"see for yourself: everystep replay {release.folder} --model tiny --from 8 --to 12"
    assert "tiny differs first at step 12 (weights_digest: ...)" in done.out and again in done.out


def put(path: str, value: Any) -> Edit:
    def edit(tree: Json) -> None:
        *above, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
        for part in above:
            tree = tree[part]
        tree[last] = value(tree.get(last)) if callable(value) else value

    return edit


def drop_a_verdict(tree: Json) -> None:
    tree["predicate"]["verdicts"].pop()
    tree["subject"].pop()


def choose_what_is_liked(tree: Json) -> None:
    """Stretches that the auditor liked, in place of those that the beacon chose."""
    for verdict in tree["predicate"]["verdicts"]:
        verdict |= {"start": 0, "stop": 1, "digests": 0}


LIES: dict[str, tuple[Edit, str]] = {
    "another release": (put("subject/0/digest/sha256", "0" * 64), "is of another release, whose release.json has"),
    "no release": (put("subject/0/digest", {}), "is of another release, whose release.json has the SHA-256 None"),
    "a beacon that is none": (put("predicate/beacon/value", "AB" * 32), "predicate.beacon.value"),
    "fewer stretches": (put("predicate/sample", 2), "verdicts: 3, and the beacon chooses 2"),
    "a sample of none": (put("predicate/sample", 0), "a sample of 0"),
    "a sample of more than all": (put("predicate/sample", 11), "there are 5 stretches"),
    "a stretch left out": (drop_a_verdict, "verdicts: 2, and the beacon chooses 3"),
    "stretches of choice": (choose_what_is_liked, "payload: predicate.verdicts."),
    "a step that is no checkpoint": (put("predicate/verdicts/0/start", 3), "says 3, the release gives"),
    "a model of another release": (put("predicate/models", ["huge", "tiny"]), "models: 'huge' is no model of the"),
    "a model named twice": (
        put("predicate/models", ["tiny", "tiny"]),
        "payload: predicate.models.1: says",
    ),
    "other models": (put("predicate/models", ["large"]), "numerics: not those of the models that were replayed"),
    "no models": (put("predicate/models", []), "predicate.models"),
    "more stretches": (put("predicate/stretches", 12), "predicate.stretches: says 12, the release gives 5"),
    "a better chance": (put("predicate/chances/0/caught", 0.9), "chances.0.caught: says 0.9, the release gives 0.6"),
    "a chance over one": (put("predicate/chances/0/caught", 1.5), "predicate.chances.0.caught"),
    "another state": (put("predicate/verdicts/0/stop_state", f"tensors-v1:{'0' * 64}"), "verdicts.0.stop_state: says"),
    "more digests": (put("predicate/verdicts/0/digests", 99), "predicate.verdicts.0.digests: says 99"),
    "a difference that is the same": (put("predicate/verdicts/0/first_difference", 1), "a stretch that differs names"),
    "a difference without a step": (put("predicate/verdicts/0/verdict", "differs"), "a stretch that differs names"),
    "an unknown verdict": (put("predicate/verdicts/0/verdict", "perhaps"), "predicate.verdicts.0.verdict"),
    "another class": (put("predicate/numerics/tiny/class", "native"), "numerics.tiny: 'native', and the model was"),
    "no numerics": (put("predicate/numerics", {}), "numerics: not those of the models that were replayed"),
    "another weights file": (put("subject/1/name", "runs/x"), "payload: subject.1.name: says 'runs/x'"),
    "weights left out": (lambda tree: tree["subject"].pop(), "payload: subject.3: says None"),
    "more said": (put("predicate/comment", "trust me"), "predicate.comment: unknown key"),
    "another kind of statement": (put("predicateType", "https://slsa.dev/provenance/v1"), "predicateType"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_that_its_auditor_signed_is_a_fault(lie: str, release: Release, key: PrivateKey) -> None:
    edit, said = LIES[lie]
    statement = told(release, models=["tiny"])
    edit(statement)
    left(release, key, statement)
    assert said in only_fault(release)
    done = everystep("receipts", release.folder)
    assert done.code == 1 and said in done.out and "is not to be believed" in done.out


def test_another_beacon_than_the_one_that_chose_is_a_fault(release: Release, key: PrivateKey) -> None:
    statement = told(release)
    others = (hashlib.sha256(f"round {number}".encode()).hexdigest() for number in range(2, 10))
    statement["predicate"]["beacon"]["value"] = next(
        beacon for beacon in others if told(release, beacon=beacon)["subject"] != statement["subject"]
    )
    left(release, key, statement)
    only_fault(release)


def test_a_difference_in_another_stretch_than_the_beacons_is_a_fault(release: Release, key: PrivateKey) -> None:
    statement = told(release, sample=10, findings={0: Finding(1, "loss")})
    statement["predicate"]["verdicts"][0] |= {"stop": 12, "first_difference": 12}
    left(release, key, statement)
    assert "verdicts: step 12 is not one of large, steps 0 to 1" in only_fault(release)


def test_a_step_of_difference_outside_the_stretch_is_a_fault(release: Release, key: PrivateKey) -> None:
    statement = told(release, sample=10, findings={0: Finding(1, "loss")})
    statement["predicate"]["verdicts"][0]["first_difference"] = 2
    left(release, key, statement)
    assert "first_difference 2 is not a step of 0 to 1" in only_fault(release)


def test_a_receipt_of_the_release_before_is_a_fault(release: Release, key: PrivateKey) -> None:
    left(release, key, told(release))
    write_states(release.folder, STEPS[:-1], "tiny")
    kept = release.folder.parent / "kept"
    shutil.move(release.folder / "receipts", kept)
    sealed_again(release.folder)
    shutil.move(kept, release.folder / "receipts")
    assert "is of another release" in only_fault(release)


def test_a_receipt_in_the_folder_of_another_key_is_a_fault(
    release: Release, key: PrivateKey, other: PrivateKey
) -> None:
    path = left(release, key, told(release))
    theirs = release.folder / "receipts" / key_id(other.public_key())
    path.parent.rename(theirs)
    assert "is the key" in only_fault(release)
    (theirs / "public.pem").write_bytes(pem(other.public_key()))
    assert "its signature is not one that this key made" in only_fault(release)
    assert len(check(release, key).faults) == 2  # and the pinned key has left none


def test_a_receipt_that_was_changed_after_it_was_signed_is_a_fault(release: Release, key: PrivateKey) -> None:
    path = left(release, key, told(release))
    tree = json.loads(path.read_bytes())
    statement = payload_of(path)
    statement["predicate"]["processor"] = "a better one"
    payload = canonical(statement)
    tree["payload"] = sealed(payload, key, "")["payload"]
    path.unlink()
    (path.parent / f"{name_of(payload)}.intoto.json").write_bytes(pretty(tree))
    assert "its signature is not one that this key made" in only_fault(release)


def test_a_statement_in_another_form_of_json_is_a_fault(release: Release, key: PrivateKey) -> None:
    """Else one audit could have many receipts."""
    path = left(release, key, told(release))
    payload = json.dumps(payload_of(path), indent=1).encode()
    path.unlink()
    (path.parent / f"{name_of(payload)}.intoto.json").write_bytes(pretty(sealed(payload, key, "")))
    assert "not in canonical JSON" in only_fault(release)


def test_a_copy_under_another_name_is_a_fault(release: Release, key: PrivateKey) -> None:
    path = left(release, key, told(release))
    path.rename(path.with_name(f"{'0' * 16}.intoto.json"))
    assert "not its name: the SHA-256 of this statement begins with" in only_fault(release)


def test_a_flipped_bit_is_a_fault_wherever_it_is_read(release: Release, key: PrivateKey) -> None:
    path = left(release, key, told(release))
    content = path.read_bytes()
    read = [content.index(json.loads(content)["payload"].encode()), content.index(b'"sig"') + len('"sig": "')]
    for start in read:
        for offset in range(0, 90, 9):
            flip(path, (start + offset) / (len(content) - 1), bit=offset % 7)
            assert path.read_bytes() != content
            only_fault(release)
            path.write_bytes(content)


def test_what_is_no_receipt_is_said_to_have_no_place(release: Release, key: PrivateKey, tmp_path: Path) -> None:
    path = left(release, key, told(release))
    for name in ("notes.txt", f"{path.parent.name}/more.json"):
        (release.folder / "receipts" / name).write_text("trust me")
    found = check(release)
    assert len(found.receipts) == 1 and found.exit_code == 0
    assert found.others == ["receipts/" + name for name in sorted(("notes.txt", f"{path.parent.name}/more.json"))]
    assert "2 files have no place among receipts" in everystep("receipts", release.folder).out


def test_a_link_is_followed_on_demand_alone(release: Release, key: PrivateKey, tmp_path: Path) -> None:
    path = left(release, key, told(release))
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    found = check(release)
    assert (found.receipts, len(found.links), found.exit_code) == ([], 1, 4)
    assert len(check(release, follow_links=True).receipts) == 1


def test_a_key_of_the_readers_own_needs_no_file(release: Release, key: PrivateKey) -> None:
    path = left(release, key, told(release))
    (path.parent / "public.pem").unlink()
    assert "missing; name the signer's key with --key" in only_fault(release)
    assert len(check(release, key).receipts) == 1


def test_a_pinned_key_must_have_left_a_receipt(release: Release, key: PrivateKey, other: PrivateKey) -> None:
    left(release, key, told(release))
    found = check(release, key, other)
    assert found.faults == [
        f"receipts/{key_id(other.public_key())}: the owner of this pinned key has left no receipt that is right"
    ]


def test_receipts_are_bounded(release: Release, key: PrivateKey, monkeypatch: pytest.MonkeyPatch) -> None:
    path = left(release, key, told(release))
    monkeypatch.setattr(module, "MAX_BYTES", path.stat().st_size - 1)
    assert only_fault(release).endswith("no receipt is that large")
    monkeypatch.setattr(module, "MAX_FILES", 1)
    assert only_fault(release) == "receipts: more than 1 files; name a folder with fewer"


def test_receipts_may_be_in_any_folder(release: Release, key: PrivateKey, tmp_path: Path) -> None:
    write_receipt(tmp_path / "collected", told(release), key)
    assert everystep("receipts", release.folder).out == f"{release.folder}: no receipts\n"
    done = everystep("receipts", release.folder, "--in", tmp_path / "collected", "--json")
    assert done.code == 0 and len(json.loads(done.out)["receipts"]) == 1
    done = everystep("receipts", release.folder, "--in", tmp_path / "nowhere")
    assert done.code == 2 and done.err.endswith(f"error: --in {tmp_path / 'nowhere'}: no such folder\n")


def test_what_a_receipt_says_does_not_steer_the_terminal(release: Release, key: PrivateKey) -> None:
    statement = told(release, sample=10, findings={9: Finding(9, "\x1b[2J\nloss")})
    statement["predicate"]["beacon"]["source"] = "\x1b[31mred"
    left(release, key, statement)
    out = everystep("receipts", release.folder).out
    assert "\x1b" not in out and "␛[31mred" in out and "(␛[2J␊loss)" in out


def test_receipts_of_a_release_elsewhere(
    release: Release, key: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A web server does not list what it has, so nobody knows which receipts there are."""
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    left(release, key, told(release))
    shutil.copytree(release.folder / "receipts", tmp_path / "collected")
    with serve_folder(release.folder) as web:
        done = everystep("receipts", web.url)
        assert done.code == 2 and "fetch the receipts, and name their folder: --in" in done.err
        done = everystep("receipts", web.url, "--in", tmp_path / "collected")
        assert done.code == 0 and "1 receipt is right; 3 of 10 stretches" in done.out
    assert not [path for path in list_files(tmp_path / "cache") if "receipts" in path]


def test_a_signed_release_stays_signed_when_receipts_are_added(release: Release, key: PrivateKey) -> None:
    sign(release, key)
    left(release, key, told(release))
    bundle = payload_of(release.folder / "signatures" / key_id(key.public_key()) / "model.sig")
    assert "receipts" in bundle["predicate"]["serialization"]["ignore_paths"]


def test_numerics_of_another_build_are_shown(release: Release, key: PrivateKey) -> None:
    statement = told(release)
    for numerics in statement["predicate"]["numerics"].values():
        numerics["torch"] = "3.0"
    statement["predicate"]["program"] = Program(version="9", code="0" * 64).to_json()
    left(release, key, statement)
    (receipt,) = check(release).receipts
    assert not receipt.same_code and not any(one.same_build for one in receipt.replayed)


def test_the_first_stretch_of_a_fork_begins_at_its_parents_state(release: Release) -> None:
    begun = {"state_digest": f"tensors-v1:{'7' * 64}", "step": 96, "tokens": 96, "first_sample": 0}
    states = release.model("tiny").to_json()["checkpoints"]
    own = [states[1] | {"step": 104, "revision": "step000104-tokens104"}]
    write_stub(Trained, "tiny", root=release.folder, parameters={"digest_every": 8, "parent": begun}, checkpoints=own)
    fork = Release.open(sealed_again(release.folder))
    assert stretches(fork, ["tiny"]) == [("tiny", 96, 104)]
    (verdict,) = told(fork, sample=1, models=["tiny"])["predicate"]["verdicts"]
    assert (verdict["start_state"], verdict["digests"]) == (begun["state_digest"], 1)


def test_a_finding_for_each_chosen_stretch(release: Release) -> None:
    plan = plan_audit(release, release.models(), BEACON, 3)
    words = Words(None, program_of(release), [SAME], {}, "x")
    with pytest.raises(EverystepError, match="the beacon chooses 3 stretches"):
        receipt_of(release, plan, words)


def test_verify_takes_receipts_beside_a_release_and_checks_them(
    built_project: Path, tmp_path: Path, key: PrivateKey
) -> None:
    folder = copied(built_project / "release", tmp_path / "built")
    release = Release.open(folder)
    numerics = {model: release.model(model).numerics for model in release.models()}
    plan = plan_audit(release, release.models(), BEACON, 8)
    words = Words(None, program_of(release), [SAME] * 8, numerics, "a processor")
    path = write_receipt(folder / "receipts", statement_of(release, plan, receipt_of(release, plan, words)), key)
    done = everystep("verify", folder)
    assert (done.code, done.out.splitlines()[-1]) == (
        0,
        "receipts: 1 audit by 1 key; 8 of 8 stretches were replayed; `everystep receipts` lists them",
    )
    assert len(json.loads(everystep("verify", folder, "--json").out)["receipts"]["receipts"]) == 1
    (folder / "receipts" / "notes.txt").write_text("trust me")
    assert everystep("verify", folder).code == 3
    path.rename(path.with_name(f"{'0' * 16}.intoto.json"))
    done = everystep("verify", folder)
    assert done.code == 1 and "but its receipts have 1 faults" in done.out and "not its name" in done.out


def test_receipts_are_published_with_a_release_and_added_to_it_later(
    release: Release, key: PrivateKey, other: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    address = f"memory://{tmp_path.name}"
    left(release, key, told(release))
    publish(release, open_store(address))
    left(release, other, told(release, beacon="ab" * 16))
    assert publish(release, open_store(address)).uploaded == 2  # the new receipt and its key
    done = everystep("receipts", address, "--json")
    assert done.code == 0 and len(json.loads(done.out)["receipts"]) == 2
    copy = verify(address)
    assert copy.others == [] and not [fault for fault in copy.faults if fault.startswith("receipts")]


# Nearly right receipts, rightly signed


def statements() -> list[Artefact]:
    release, key = _prepared()
    statement = canonical(told(release, sample=5, findings={4: Finding(12, "loss")}))

    def in_envelope(payload: bytes) -> bytes:
        return pretty(sealed(payload, key, ""))

    return [Artefact("receipt", statement, in_envelope), Artefact("receipt", in_envelope(statement))]


def read_receipt(folder: Path, file: Path) -> None:
    release, key = _prepared()
    try:
        payload = b64decode(json.loads(file.read_bytes())["payload"])
    except (ValueError, LookupError, TypeError):
        payload = b""
    with TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch) / key_id(key.public_key())
        place.mkdir()
        (place / "public.pem").write_bytes(pem(key.public_key()))
        shutil.copyfile(file, place / f"{name_of(payload)}.intoto.json")
        found = check_receipts(release, Path(scratch), {})
    assert len(found.faults) + len(found.receipts) == 1
    assert "\n" not in "".join(found.faults)
    "".join(found.lines("address")).encode()
    if found.faults:
        raise EverystepError(found.faults[0])


_PREPARED: list[tuple[Release, PrivateKey]] = []


def _prepared() -> tuple[Release, PrivateKey]:
    if not _PREPARED:
        folder = Path(mkdtemp())
        made = make_release(folder / "release")
        write_states(made, STEPS, "tiny")
        _PREPARED.append((Release.open(sealed_again(made)), make_key(folder / "key")[0]))
    return _PREPARED[0]


TARGETS = {"receipts": Target(statements, read_receipt)}


def test_a_nearly_right_receipt_is_read_or_refused(tmp_path: Path) -> None:
    run("tests.pipeline.audit.test_receipts", "receipts", tmp_path, cases=200)
