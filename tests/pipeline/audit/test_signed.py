"""Who signed a release, by its signatures: found, pinned, and refused where anything about them is wrong.

Most of it is asked of a release that is small enough to be signed in every test; the last part runs the commands on
the one that was built.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.audit import signed
from pipeline.audit.report import OTHER_FILES
from pipeline.audit.signed import Signatures, check_signatures
from pipeline.audit.verify import Wanted, verify
from pipeline.base.errors import Linked
from pipeline.base.files import list_files
from pipeline.release.release import Release
from pipeline.signing.bundles import signed_bundle
from pipeline.signing.envelopes import sealed
from pipeline.signing.keys import PrivateKey, key_id, new_keys, pem
from pipeline.signing.sign import sign, verified_sums
from tests.pipeline.signing.signed import (
    CODE,
    COMMIT,
    MODEL,
    SWHID,
    make_key,
    make_release,
    payload_of,
    sealed_again,
    sign_bundle,
    sign_statement,
    write_weights,
)
from tests.project import MODELS
from tests.releases import copied, everystep, flip, write_json
from tests.servers.faults import Faults
from tests.servers.web import serve_folder

Tree = dict[str, Any]
DATA, OF_MODEL, BUNDLE = "data.intoto.json", f"models/{MODEL}.intoto.json", "model.sig"


@pytest.fixture
def release(tmp_path: Path) -> Release:
    return Release.open(make_release(tmp_path / "release"))


@pytest.fixture
def key(tmp_path: Path) -> PrivateKey:
    return make_key(tmp_path / "ours")[0]


@pytest.fixture
def other(tmp_path: Path) -> PrivateKey:
    return make_key(tmp_path / "theirs")[0]


def check(release: Release, *pinned: PrivateKey, follow_links: bool = False) -> Signatures:
    again = Release.open(release.folder, follow_links)
    keys = {key_id(one.public_key()): one.public_key() for one in pinned}
    return check_signatures(again, verified_sums(again), keys)


@pytest.mark.parametrize("status", [500, 403])
def test_a_signature_that_a_web_server_does_not_give_is_a_fault(
    release: Release, key: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Only a place that is empty is passed over: a server that withholds a statement must not hide it."""
    monkeypatch.setenv("EVERYSTEP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pipeline.release.mirror.FIRST_WAIT_SECONDS", 0.01)
    sign(release, key)
    path = (own(release, key) / DATA).relative_to(release.folder).as_posix()
    pinned = {key_id(key.public_key()): key.public_key()}
    with serve_folder(release.folder) as web:
        assert not [fault for fault in verify(web.url, wanted=Wanted(keys=pinned)).faults if path in fault]
    with serve_folder(release.folder, Faults(busy={DATA: [status] * 9})) as web:
        assert [fault for fault in verify(web.url, wanted=Wanted(keys=pinned)).faults if fault.startswith(f"{path}: ")]


def own(release: Release, key: PrivateKey) -> Path:
    return release.folder / "signatures" / key_id(key.public_key())


def only_fault(found: Signatures) -> str:
    (fault,) = found.faults
    assert not found.signers and not found.claims
    return fault


def test_a_signed_release_names_its_signer_and_an_unsigned_one_nobody(release: Release, key: PrivateKey) -> None:
    assert check(release) == Signatures()
    sign(release, key, COMMIT)
    found = check(release)
    assert (found.faults, found.links) == ([], [])
    assert [(one.key, one.pinned, one.statements) for one in found.signers] == [
        (key_id(key.public_key()), False, ["data", MODEL])
    ]
    assert [one.pinned for one in check(release, key).signers] == [True]


def test_a_pinned_key_must_have_signed(release: Release, key: PrivateKey, other: PrivateKey) -> None:
    missing = (
        f"signatures/{key_id(other.public_key())}: missing; the owner of this pinned key has not signed the release"
    )
    assert check(release, other).faults == [missing]
    sign(release, key)
    assert check(release, other).faults == [missing] == check(release, key, other).faults
    sign(release, other)
    found = check(release, key, other)
    assert (found.faults, [one.pinned for one in found.signers]) == ([], [True, True])


def test_a_folder_named_after_a_pinned_key_does_not_make_another_key_it(
    release: Release, key: PrivateKey, other: PrivateKey
) -> None:
    sign(release, other)
    own(release, other).rename(own(release, key))
    assert "is the key" in only_fault(check(release, key))
    (own(release, key) / "public.pem").write_bytes(pem(key.public_key()))
    assert len(check(release, key).faults) == 3
    (own(release, key) / "public.pem").unlink()
    assert len(check(release, key).faults) == 3


def test_a_pinned_key_need_not_be_in_the_release(release: Release, key: PrivateKey) -> None:
    sign(release, key)
    (own(release, key) / "public.pem").unlink()
    assert check(release, key).faults == []
    assert only_fault(check(release)).endswith("public.pem: missing; name the signer's key with --key")


@pytest.mark.parametrize("name", [DATA, OF_MODEL, BUNDLE])
def test_a_flipped_bit_in_a_signature_is_a_fault(name: str, release: Release, key: PrivateKey) -> None:
    sign(release, key)
    path = own(release, key) / name
    content = path.read_bytes()
    for place in (0.0, 0.01, 0.2, 0.5, 0.8, 0.99):
        flip(path, place)
        assert name in only_fault(check(release)), place
        path.write_bytes(content)
    path.write_bytes(content[: len(content) // 2])
    assert "not valid JSON" in only_fault(check(release))


def test_signatures_of_another_build_are_faults(release: Release, key: PrivateKey) -> None:
    """The release is built again, with every digest right, below signatures of the one before."""
    sign(release, key)
    write_weights(release.folder, 2.0)
    signatures = release.folder / "signatures"
    signatures.rename(release.folder.parent / "aside")
    sealed_again(release.folder)
    (release.folder.parent / "aside").rename(signatures)
    found = check(release, key)
    assert not found.signers
    assert [fault.rpartition(f"{key_id(key.public_key())}/")[2] for fault in found.faults] == [
        "model.sig: signs other bytes of 'SHA256SUMS'",
        f"models/{MODEL}.intoto.json: payload: predicate.runDetails.byproducts.0.digest.sha256: says "
        + found.faults[1].partition("says ")[2],
    ]


def test_a_bundle_must_cover_every_file_and_no_other(release: Release, key: PrivateKey) -> None:
    sign(release, key)
    sums = verified_sums(release)
    for files, said in (
        ({path: sums[path] for path in sums if path != "params.yaml"}, "does not cover 'params.yaml'"),
        (sums | {"more": "0" * 64}, "signs 'more', which is no file of the release"),
        (sums | {"params.yaml": "0" * 64}, "signs other bytes of 'params.yaml'"),
    ):
        (own(release, key) / BUNDLE).write_bytes(signed_bundle("small", files, key))
        assert f"{BUNDLE}: {said}" in only_fault(check(release))


def test_a_bundle_that_hides_a_file_does_not_cover_it(release: Release, key: PrivateKey) -> None:
    sign(release, key)
    path = own(release, key) / BUNDLE
    statement = payload_of(path)
    statement["predicate"]["serialization"]["ignore_paths"] += ["recipes"]
    sign_bundle(path, statement, key)
    assert "'recipes' hides 'recipes/tiny.yaml'" in only_fault(check(release))
    names = statement["predicate"]["resources"]
    statement["predicate"]["resources"] = [one for one in names if one["name"] != "recipes/tiny.yaml"]
    statement["subject"][0]["digest"]["sha256"] = signed_root(statement)
    sign_bundle(path, statement, key)
    assert only_fault(check(release)).endswith("does not cover 'recipes/tiny.yaml', a file of the release")


def signed_root(statement: Tree) -> str:
    digests = [bytes.fromhex(one["digest"]) for one in statement["predicate"]["resources"]]
    return hashlib.sha256(b"".join(digests)).hexdigest()


def at(path: str, value: Any) -> Callable[[Tree], None]:
    *above, last = path.split("/")

    def change(tree: Any) -> None:
        for part in above:
            tree = tree[int(part) if part.isdigit() else part]
        tree[int(last) if last.isdigit() else last] = value

    return change


BUILD = "predicate/buildDefinition"
LIES = {
    "another digest came out": at("subject/0/digest/sha256", "0" * 64),
    "another file came out": at("subject/0/name", "data/secret"),
    "nothing came out": at("subject", []),
    "another source": at(f"{BUILD}/resolvedDependencies/0/digest/sha256", "0" * 64),
    "another address of a source": at(f"{BUILD}/resolvedDependencies/0/uri", "https://example.com"),
    "another code": at(f"{BUILD}/resolvedDependencies/5/uri", f"swh:1:dir:{'0' * 40}"),
    "another builder": at("predicate/runDetails/builder/id", "https://github.com/actions/runner"),
    "a commit that is none": at(f"{BUILD}/resolvedDependencies/6/digest", {"gitCommit": "main"}),
    "two digests of a commit": at(f"{BUILD}/resolvedDependencies/6/digest/sha256", "0" * 64),
    "a clock": at("predicate/runDetails/metadata", {"startedOn": "2026-01-01T00:00:00Z"}),
    "another form": at("predicateType", "https://slsa.dev/provenance/v0.2"),
    "another kind of build": at(f"{BUILD}/buildType", "urn:everystep:build:data:2"),
    "no predicate": at("predicate", None),
    "dependencies that are none": at(f"{BUILD}/resolvedDependencies", 7),
    "a dependency that is none": at(f"{BUILD}/resolvedDependencies/6", "commit"),
    "a list for a text": at("_type", ["x"] * 100),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_statement_that_says_anything_else_is_a_fault(lie: str, release: Release, key: PrivateKey) -> None:
    sign(release, key, COMMIT)
    path = own(release, key) / DATA
    statement = payload_of(path)
    LIES[lie](statement)
    sign_statement(path, statement, key)
    fault = only_fault(check(release))
    assert f"{DATA}: payload: " in fault and "the release gives" in fault and len(fault) < 600


@pytest.mark.parametrize("statement", [[], "text", 7, None, {}, {"predicate": []}])
def test_a_statement_of_another_shape_is_a_fault(statement: Any, release: Release, key: PrivateKey) -> None:
    sign(release, key)
    sign_statement(own(release, key) / OF_MODEL, statement, key)
    assert "payload: " in only_fault(check(release))


def test_a_statement_that_is_not_in_canonical_form_is_a_fault(release: Release, key: PrivateKey) -> None:
    sign(release, key)
    path = own(release, key) / DATA
    spaced = json.dumps(payload_of(path)).encode()
    write_json(path, sealed(spaced, key, ""))
    assert "the whole: not in canonical JSON" in only_fault(check(release))


def test_a_statement_in_the_place_of_another_is_a_fault(release: Release, key: PrivateKey) -> None:
    sign(release, key)
    folder = own(release, key)
    shutil.copy(folder / DATA, folder / "models" / "other.intoto.json")
    assert "is about 'other', which is no model of the release" in only_fault(check(release))
    (folder / "models" / "other.intoto.json").rename(folder / OF_MODEL)
    assert OF_MODEL in only_fault(check(release))


def test_statements_of_another_signer_cannot_be_taken_over(
    release: Release, key: PrivateKey, other: PrivateKey
) -> None:
    sign(release, key)
    sign(release, other)
    shutil.copy(own(release, key) / DATA, own(release, other) / DATA)
    found = check(release)
    assert [one.key for one in found.signers] == [key_id(key.public_key())]
    assert "its signature is not one that this key made" in found.faults[0]


def test_statements_without_a_bundle_sign_nothing(release: Release, key: PrivateKey) -> None:
    sign(release, key)
    (own(release, key) / BUNDLE).unlink()
    assert only_fault(check(release)).endswith("model.sig: missing; without it nothing is signed")


def test_a_bundle_alone_is_a_signature(release: Release, key: PrivateKey) -> None:
    sign(release, key)
    shutil.rmtree(own(release, key) / "models")
    (own(release, key) / DATA).unlink()
    found = check(release)
    assert [one.statements for one in found.signers] == [[]]
    assert [(one.about, one.recomputed) for one in found.claims] == [("release", True)]


def test_what_is_no_file_is_not_read(release: Release, key: PrivateKey, tmp_path: Path) -> None:
    sign(release, key)
    path = own(release, key) / DATA
    content = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    assert check(release).faults == [f"{path.relative_to(release.folder)}: not a file"]
    path.unlink()
    (tmp_path / "aside").write_bytes(content)
    path.symlink_to(tmp_path / "aside")
    found = check(release)
    assert (found.links, found.faults, found.signers) == ([path.relative_to(release.folder).as_posix()], [], [])
    assert check(release, follow_links=True).faults == []
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "not a file" in check(release, follow_links=True).faults[0]
    path.unlink()
    path.symlink_to("/nowhere")
    assert "not a file" in check(release, follow_links=True).faults[0]


def test_a_folder_of_signatures_that_is_a_link_is_not_followed(
    release: Release, key: PrivateKey, tmp_path: Path
) -> None:
    sign(release, key)
    (release.folder / "signatures").rename(tmp_path / "aside")
    (release.folder / "signatures").symlink_to(tmp_path / "aside")
    assert check(release, key) == Signatures(links=["signatures"])


def test_a_bundle_that_is_a_link_is_neither_missing_nor_a_signature(
    release: Release, key: PrivateKey, other: PrivateKey, tmp_path: Path
) -> None:
    sign(release, key)
    sign(release, other)
    path = own(release, key) / BUNDLE
    path.rename(tmp_path / "aside")
    path.symlink_to(tmp_path / "aside")
    found = check(release, key, other)
    assert (found.faults, found.links) == ([], [path.relative_to(release.folder).as_posix()])
    assert [one.key for one in found.signers] == [key_id(other.public_key())]
    assert len(check(release, key, other, follow_links=True).signers) == 2


def test_sizes_and_numbers_are_bounded(release: Release, key: PrivateKey) -> None:
    sign(release, key)
    path = own(release, key) / DATA
    with path.open("r+b") as file:
        file.truncate(1 << 40)  # a sparse file
    assert "no signature is that large" in only_fault(check(release))
    for number in range(101):
        (release.folder / "signatures" / f"{number:064}").mkdir()
        (release.folder / "signatures" / f"{number:064}" / BUNDLE).touch()
    assert only_fault(check(release)) == "signatures: 102 signers; at most 100 are read"


def test_each_claim_is_recomputed_or_the_word_of_its_signer(release: Release, key: PrivateKey) -> None:
    sign(release, key, COMMIT)
    claims = check(release).claims
    assert {one.key for one in claims} == {key_id(key.public_key())}
    words = {(one.about, one.claim.split()[0]) for one in claims if not one.recomputed}
    assert words == {("data", "upstream"), ("data", "these"), (MODEL, "this")} | {
        (about, word) for about in ("data", MODEL) for word in ("the", "who")
    }
    found = {(one.about, " ".join(one.claim.split()[:5])) for one in claims if one.recomputed}
    assert found == {
        ("release", f"the bytes of all {len(verified_sums(release))}"),
        ("data", "the bytes of the 1"),
        ("data", "params.yaml, constraints.txt and dvc.lock are"),
        (MODEL, "the digests of the 1"),
        (MODEL, "data, recipe, constraints.txt and dvc.lock"),
    }
    assert [one.about for one in claims if COMMIT in one.claim] == ["data", MODEL]


def test_code_is_recomputed_if_this_installation_has_it(
    release: Release, key: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(release, key)

    def said() -> list[tuple[str, bool]]:
        return [(one.claim, one.recomputed) for one in check(release).claims if one.claim.startswith("the code")]

    assert said() == [(f"the code is {SWHID}; 1 of its 1 files are not this installation's", False)] * 2
    (path,) = CODE
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_bytes(CODE[path])
    monkeypatch.setattr(signed, "INSTALLED", tmp_path)
    assert said() == [(f"the code is {SWHID}, and this installation's", True)] * 2


# The commands, on the release that was built


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys") / "keys"
    new_keys(folder)
    return folder


def test_verify_says_who_signed_and_what_is_their_word(built_project: Path, tmp_path: Path, keys: Path) -> None:
    folder = copied(built_project / "release", tmp_path / "release")
    assert "unsigned: nobody has signed this release" in everystep("verify", folder).out.splitlines()
    assert everystep("verify", folder, "--key", keys / "public.pem").code == 1
    done = everystep("sign", folder, "--key", keys / "private.pem", "--commit", COMMIT)
    assert done.code == 0, done.said
    plain, pinned = everystep("verify", folder), everystep("verify", folder, "--key", keys / "public.pem")
    assert (plain.code, pinned.code) == (0, 0)
    name = next((folder / "signatures").iterdir()).name
    assert f"signed by {name} (not pinned: anyone can make a key)" in plain.out.splitlines()
    assert f"signed by {name} (the key that you named)" in pinned.out.splitlines()
    assert any(line.endswith(f"word of {name[:16]}") and COMMIT in line for line in plain.out.splitlines())
    assert any(line.endswith("recomputed") and line.startswith("the bytes of all") for line in plain.out.splitlines())
    found = json.loads(everystep("verify", folder, "--json").out)["signatures"]
    assert found["signers"] == [{"key": name, "pinned": False, "statements": ["data", *sorted(MODELS)]}]
    assert all(one["recomputed"] for one in found["claims"] if "the code" in one["claim"])  # ours built it
    sums = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert (sums.returncode, sums.stdout) == (0, b"")

    again = {path: (folder / path).read_bytes() for path in list_files(folder) if path.startswith("signatures/")}
    shutil.rmtree(folder / "signatures")
    assert everystep("sign", folder, "--key", keys / "private.pem", "--commit", COMMIT).code == 0
    assert again == {path: (folder / path).read_bytes() for path in again}

    (folder / "signatures" / "somebody.sig").write_bytes(b"trust me")
    done = everystep("verify", folder)
    assert (done.code, "signatures/somebody.sig" in done.out) == (OTHER_FILES, True)
    (folder / "signatures" / "somebody.sig").unlink()
    (folder / "signatures" / name / "model.sig").rename(tmp_path / "model.sig")
    (folder / "signatures" / name / "model.sig").symlink_to(tmp_path / "model.sig")
    assert everystep("verify", folder).code == Linked.exit_code
    assert everystep("verify", folder, "--follow-links").code == 0
    flip(tmp_path / "model.sig", 0.5)
    done = everystep("verify", folder, "--follow-links")
    assert (done.code, "but its signatures have 1 faults" in done.out) == (1, True)
    flip(folder / "README.md", 0.5)
    done = everystep("verify", folder, "--follow-links", "--key", keys / "public.pem")
    assert (done.code, "signatures were not checked, because of the above" in done.out) == (1, True)


def test_what_does_not_verify_is_not_signed(built_project: Path, tmp_path: Path, keys: Path) -> None:
    folder = copied(built_project / "release", tmp_path / "release")
    (folder / "more.txt").touch()
    done = everystep("sign", folder, "--key", keys / "private.pem")
    assert (done.code, "more.txt" in done.err, "not signed" in done.err) == (OTHER_FILES, True, True)
    assert everystep("sign", built_project, "--key", keys / "private.pem").code == 2
    assert everystep("sign", folder, "--key", keys / "public.pem").code == 2
    assert everystep("sign", folder, "--key", keys / "private.pem", "--commit", "main").code == 2
    assert not (folder / "signatures").exists()
