"""Keys: made once, for their owner alone, and of the kinds that the OpenSSF's registry lists."""

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pipeline.base.errors import EverystepError
from pipeline.signing.keys import is_signed, key_id, new_keys, read_private, read_public, signature
from tests.releases import everystep


def nobody() -> bytes:
    raise AssertionError("no passphrase was expected")


def test_only_the_owner_can_read_a_private_key_and_no_key_is_overwritten(tmp_path: Path) -> None:
    done = everystep("keys", "new", "--out", tmp_path / "keys")
    private, public = tmp_path / "keys" / "private.pem", tmp_path / "keys" / "public.pem"
    assert (done.code, stat.S_IMODE(private.stat().st_mode)) == (0, 0o600)
    assert key_id(read_public(public)) in done.out
    before = private.read_bytes()
    again = everystep("keys", "new", "--out", tmp_path / "keys")
    assert (again.code, private.read_bytes()) == (2, before)
    assert "already exists" in again.err


def test_the_two_keys_of_a_pair_belong_together(tmp_path: Path) -> None:
    new_keys(tmp_path / "keys")
    private, public = read_private(tmp_path / "keys" / "private.pem", nobody), read_public(tmp_path / "keys/public.pem")
    signed = signature(private, b"message")
    assert is_signed(public, b"message", signed) and not is_signed(public, b"massage", signed)
    assert not is_signed(public, b"message", b"") and not is_signed(public, b"message", signed + b"\0")


def test_equal_messages_get_equal_signatures(tmp_path: Path) -> None:
    new_keys(tmp_path / "keys")
    private = read_private(tmp_path / "keys" / "private.pem", nobody)
    assert len({signature(private, b"message") for _ in range(20)}) == 1


def test_a_passphrase_is_needed_and_comes_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\nsecond line\n")
    assert everystep("keys", "new", "--out", tmp_path / "keys", "--passphrase-file", secret).code == 0
    private = tmp_path / "keys" / "private.pem"
    assert private.read_bytes().startswith(b"-----BEGIN ENCRYPTED")
    assert read_private(private, lambda: b"correct horse").curve.name == "secp256r1"
    with pytest.raises(EverystepError, match=r"private\.pem: no private key, or not its passphrase"):
        read_private(private, lambda: b"wrong")
    with pytest.raises(EverystepError, match="empty"):
        read_private(private, lambda: b"")
    secret.write_text("\n")
    assert everystep("keys", "new", "--out", tmp_path / "more", "--passphrase-file", secret).code == 2
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_the_other_curves_of_the_registry_are_read(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    made = ec.generate_private_key(curve)
    (tmp_path / "k").write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    private = read_private(tmp_path / "k", nobody)
    assert is_signed(private.public_key(), b"m", signature(private, b"m"))


@pytest.mark.parametrize(
    "made",
    [
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP224R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
        dsa.generate_private_key(1024),
    ],
    ids=lambda made: type(made).__name__,
)
def test_keys_of_another_kind_are_refused(
    tmp_path: Path, made: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey
) -> None:
    public, private = tmp_path / "public.pem", tmp_path / "private.pem"
    public.write_bytes(made.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    private.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(EverystepError, match=r"public\.pem: not a key on P-256"):
        read_public(public)
    with pytest.raises(EverystepError, match=r"private\.pem: not a key on P-256"):
        read_private(private, nobody)


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    new_keys(tmp_path / "keys")
    files = {
        "empty": b"",
        "private": (tmp_path / "keys" / "private.pem").read_bytes(),
        "cut": (tmp_path / "keys" / "public.pem").read_bytes()[:-40],
        "large": b"-" * (1 << 20),
        "text": b"-----BEGIN PUBLIC KEY-----\n!!!!\n-----END PUBLIC KEY-----\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(EverystepError, match=f"/{name}: "):
            read_public(tmp_path / name)
    with pytest.raises(EverystepError, match="cannot be read: No such file"):
        read_public(tmp_path / "missing")
    with pytest.raises(EverystepError, match="no private key"):
        read_private(tmp_path / "keys" / "public.pem", nobody)
