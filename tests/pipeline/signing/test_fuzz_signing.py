"""Readers of keys, bundles and statements, against thousands of nearly right files. Most of them are rightly signed:
what a signer says is no safer than what a stranger says."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.formats.canonical import parse
from pipeline.signing.bundles import parse_bundle, signed_bundle, signed_files
from pipeline.signing.envelopes import Envelope, opened, sealed
from pipeline.signing.keys import is_signed, key_id, parse_public, pem
from pipeline.signing.statements import commit_of
from tests.fuzzing import Artefact, Target, run
from tests.pipeline.signing.test_bundles import VECTORS

KEY = ec.derive_private_key(7, ec.SECP256R1())
FILES = {"a/b.json": "1" * 64, "a.json": "2" * 64, "c": "3" * 64}
STATEMENT = {
    "_type": "https://in-toto.io/Statement/v1",
    "predicate": {"buildDefinition": {"resolvedDependencies": [{"digest": {"gitCommit": "4" * 40}, "name": "commit"}]}},
}


def in_bundle(statement: bytes) -> bytes:
    """A bundle of these bytes, rightly signed."""
    tree = json.loads(signed_bundle("x", FILES, KEY))
    return json.dumps(tree | {"dsseEnvelope": sealed(statement, KEY, "")}).encode()


def bundles() -> Sequence[Artefact]:
    ours = signed_bundle("demo", FILES, KEY)
    statement = opened(parse_bundle(ours, "b").envelope, KEY.public_key(), "b")
    theirs = [Artefact("model.sig", path.read_bytes(), valid=False) for path in sorted((VECTORS / "valid").iterdir())]
    return [Artefact("model.sig", ours), *(Artefact("model.sig", statement, in_bundle) for _ in range(3)), *theirs]


def read_bundle(_folder: Path, file: Path) -> None:
    files = signed_files(parse_bundle(file.read_bytes(), file), KEY.public_key(), file)
    assert all(len(digest) == 64 and not name.startswith("/") and ".." not in name for name, digest in files.items())


def statements() -> Sequence[Artefact]:
    inner = json.dumps(STATEMENT).encode()

    def in_envelope(statement: bytes) -> bytes:
        return json.dumps(sealed(statement, KEY, key_id(KEY.public_key()))).encode()

    return [Artefact("s.json", in_envelope(inner)), *(Artefact("s.json", inner, in_envelope) for _ in range(3))]


def read_statement(_folder: Path, file: Path) -> None:
    envelope = Envelope.parse(file.read_bytes(), file)
    commit = commit_of(parse(opened(envelope, KEY.public_key(), file), file))
    assert commit is None or len(commit) in (40, 64)


def keys() -> Sequence[Artefact]:
    curves = (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1())
    return [Artefact("k.pem", pem(ec.derive_private_key(9, curve).public_key())) for curve in curves]


def read_key(_folder: Path, file: Path) -> None:
    key = parse_public(file.read_bytes(), file)
    assert len(key_id(key)) == 64 and not is_signed(key, b"message", b"signature")


TARGETS = {
    "bundles": Target(bundles, read_bundle),
    "statements": Target(statements, read_statement),
    "keys": Target(keys, read_key),
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_nearly_right_signature_is_read_or_refused(target: str, tmp_path: Path) -> None:
    run("tests.pipeline.signing.test_fuzz_signing", target, tmp_path, cases=400)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_a_nearly_right_signature_is_read_or_refused_for_long(
    target: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    found = run("tests.pipeline.signing.test_fuzz_signing", target, tmp_path, seconds=15)
    record_property("said", f"{found['cases']:,} files, {found.get('read', 0):,} read")
