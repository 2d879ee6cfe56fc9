"""`sign`: the same bytes each time, in a folder of one's own, checked by hand with openssl."""

import subprocess
from base64 import b64decode
from pathlib import Path

import pytest

from pipeline.base.errors import Differs, EverystepError, Linked
from pipeline.base.files import list_files, sha256_file
from pipeline.release.release import Release
from pipeline.signing.keys import PrivateKey, key_id, pem
from pipeline.signing.sign import place_of, sign, signatures, verified_sums
from pipeline.signing.statements import commit_of, model_statement
from tests.pipeline.signing.signed import COMMIT, MODEL, SWHID, payload_of
from tests.releases import flip, read_json


def test_signing_twice_gives_the_same_bytes_and_changes_no_other_file(release: Release, key: PrivateKey) -> None:
    before = {path: sha256_file(release.folder / path) for path in list_files(release.folder)}
    first = signatures(release, key, COMMIT)
    paths = sign(release, key, COMMIT)
    assert {path: (release.folder / path).read_bytes() for path in paths} == first == signatures(release, key, COMMIT)
    own = f"signatures/{key_id(key.public_key())}"
    assert paths == [
        f"{own}/{name}" for name in ("public.pem", "data.intoto.json", "models/tiny.intoto.json", "model.sig")
    ]
    assert {path: sha256_file(release.folder / path) for path in before} == before
    assert {*list_files(release.folder)} == {*before, *paths}


def test_a_second_signer_changes_nothing_of_the_first(release: Release, key: PrivateKey, other: PrivateKey) -> None:
    first = {path: (release.folder / path).read_bytes() for path in sign(release, key)}
    second = sign(release, other, COMMIT)
    assert set(first).isdisjoint(second)
    assert {path: (release.folder / path).read_bytes() for path in first} == first


@pytest.mark.parametrize("name", ["data.intoto.json", f"models/{MODEL}.intoto.json", "model.sig"])
def test_openssl_verifies_a_signature_by_hand(name: str, release: Release, key: PrivateKey, tmp_path: Path) -> None:
    sign(release, key, COMMIT)
    own = release.folder / "signatures" / key_id(key.public_key())
    tree = read_json(own / name)
    envelope = tree.get("dsseEnvelope", tree)
    payload = b64decode(envelope["payload"])
    (tmp_path / "signed").write_bytes(b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload)
    (tmp_path / "sig").write_bytes(b64decode(envelope["signatures"][0]["sig"]))
    command = f"openssl dgst -sha256 -verify {own}/public.pem -signature {tmp_path}/sig {tmp_path}/signed".split()
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "Verified OK\n"), done.stderr
    flip(tmp_path / "signed", 0.9)
    assert subprocess.run(command, capture_output=True).returncode == 1


def test_statements_say_what_went_in_and_what_came_out(release: Release, key: PrivateKey) -> None:
    sign(release, key, COMMIT)
    own = release.folder / "signatures" / key_id(key.public_key())
    data, model = payload_of(own / "data.intoto.json"), payload_of(own / f"models/{MODEL}.intoto.json")
    went_in = {one["name"]: one for one in data["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert {name: one["uri"] for name, one in went_in.items() if "uri" in one} == {
        "data/raw/tales/rows.jsonl": f"hf://datasets/o/n@{'4' * 40}",
        "data/evaluation_sets/a.whl": "pkg:pypi/an-evaluation@1.0",
        "code": SWHID,
    }
    assert went_in["commit"]["digest"] == {"gitCommit": COMMIT}
    assert went_in["dvc.lock"]["digest"] == {"sha256": sha256_file(release.folder / "dvc.lock")}
    assert [one["name"] for one in data["subject"]] == ["data/tokenizer/tokenizer.json"]
    weights = f"runs/{MODEL}/step000000-tokens0/model.safetensors"
    digests = {one["name"]: one["digest"] for one in model["subject"]}
    assert digests.keys() == {f"runs/{MODEL}/log.jsonl", weights}
    assert digests[weights]["sha256"] == sha256_file(release.folder / weights)
    assert f"tensors-v1:{digests[weights]['tensorsV1']}" == release.files[weights].digest
    assert {commit_of(data), commit_of(model)} == {COMMIT}
    assert {one["_type"] for one in (data, model)} == {"https://in-toto.io/Statement/v1"}
    assert {one["predicateType"] for one in (data, model)} == {"https://slsa.dev/provenance/v1"}


def test_weights_that_are_not_in_the_release_are_named_by_the_digest_of_their_tensors(
    release: Release, key: PrivateKey
) -> None:
    weights = f"runs/{MODEL}/step000000-tokens0/model.safetensors"
    files = {path: file for path, file in release.files.items() if path != weights}
    sums = dict.fromkeys(files, "0" * 64)
    digests = {one["name"]: one["digest"] for one in model_statement(release, MODEL, sums, None)["subject"]}
    assert digests[weights].keys() == {"tensorsV1"}


def test_nothing_is_signed_that_differs_from_what_the_release_promises(release: Release, key: PrivateKey) -> None:
    flip(release.folder / f"runs/{MODEL}/step000000-tokens0/model.safetensors", 1.0)
    with pytest.raises(Differs, match=r"model\.safetensors"):
        sign(release, key)
    assert not (release.folder / "signatures").exists()


def test_sums_that_say_something_else_are_not_signed(release: Release, key: PrivateKey) -> None:
    sums = release.folder / "SHA256SUMS"
    assert verified_sums(release).keys() == {*release.files, "release.json", "SHA256SUMS"}
    sums.write_text(sums.read_text().replace("  params.yaml", "  other.yaml"))
    with pytest.raises(Differs, match="SHA256SUMS: does not list"):
        sign(release, key)


@pytest.mark.parametrize("commit", ["main", "", "3" * 39, "G" * 40, "3" * 40 + "\n"])
def test_a_commit_is_named_in_full(release: Release, key: PrivateKey, commit: str) -> None:
    with pytest.raises(EverystepError, match="--commit"):
        sign(release, key, commit)


def test_signatures_are_not_written_through_a_link(release: Release, key: PrivateKey, tmp_path: Path) -> None:
    (release.folder / "signatures").symlink_to(tmp_path)
    with pytest.raises(Linked):
        sign(release, key)


def test_places_of_signatures_are_few(key: PrivateKey) -> None:
    own = f"signatures/{key_id(key.public_key())}"
    assert place_of(f"{own}/models/a.intoto.json") == (own.partition("/")[2], "models/a.intoto.json", "a")
    for path in (
        "somebody.sig",
        f"{own}/x",
        f"{own}/models/a/b.intoto.json",
        own,
        f"x/{own}/model.sig",
        f"{own}/model.sig\n",
    ):
        assert place_of(path) is None
    assert pem(key.public_key()).startswith(b"-----BEGIN PUBLIC KEY-----\n")
