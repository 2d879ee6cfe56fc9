"""Keys that sign a release: pairs on the curve P-256; those that others made on P-384 and P-521 are read too.

The *key id* is the SHA-256 of the public key as PEM (SubjectPublicKeyInfo), in the 64-column form of RFC 7468. It is
the `hint` of an OpenSSF Model Signing bundle. The curve decides the hash, so a signature cannot choose a weaker one.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.base.errors import EverystepError
from pipeline.base.files import new_folder

PRIVATE, PUBLIC = "private.pem", "public.pem"
MAX_KEY_BYTES = 1 << 16
HASHES: dict[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
"""The curves of the OpenSSF registry, and the hash that belongs to each."""
PublicKey = ec.EllipticCurvePublicKey
PrivateKey = ec.EllipticCurvePrivateKey


def new_keys(folder: Path, passphrase: bytes | None = None) -> str:
    """Make `folder` with a new pair of keys, and return the key id. Nothing is ever overwritten.

    Only the owner can read the private key; with a passphrase, it is encrypted.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(_usable(passphrase))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    with new_folder(folder) as scratch:
        _write(scratch / PRIVATE, private, 0o600)
        _write(scratch / PUBLIC, pem(key.public_key()), 0o644)
    return key_id(key.public_key())


def read_private(path: Path, ask: Callable[[], bytes]) -> PrivateKey:
    """Read a private key that can sign; `ask` gives the passphrase, if the key has one."""
    content = _read(path)
    try:
        try:
            key = serialization.load_pem_private_key(content, None)
        except TypeError:  # cryptography says so of an encrypted key
            key = serialization.load_pem_private_key(content, _usable(ask()))
    except (ValueError, UnsupportedAlgorithm) as error:
        fix = "name the file private.pem that `everystep keys new` wrote, and its passphrase if it has one"
        raise EverystepError(f"{path}: no private key, or not its passphrase; {fix}") from error
    if not isinstance(key, PrivateKey) or key.curve.name not in HASHES:
        raise _wrong_kind(path)
    return key


def read_public(path: Path) -> PublicKey:
    """Read a public key from a file."""
    return parse_public(_read(path), path)


def parse_public(content: bytes, where: Path) -> PublicKey:
    """The public key in `content`, the bytes of the PEM file `where`."""
    try:
        key = serialization.load_pem_public_key(content[: MAX_KEY_BYTES + 1])
    except (ValueError, UnsupportedAlgorithm) as error:
        fix = "name the file public.pem that `everystep keys new` wrote"
        raise EverystepError(f"{where}: no public key in PEM; {fix}") from error
    if not isinstance(key, PublicKey) or key.curve.name not in HASHES:
        raise _wrong_kind(where)
    return key


def pem(key: PublicKey) -> bytes:
    """A public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id(key: PublicKey) -> str:
    """The key id: SHA-256 of the PEM, as 64 hex digits."""
    return hashlib.sha256(pem(key)).hexdigest()


def signature(key: PrivateKey, message: bytes) -> bytes:
    """The signature of `message` in DER. It is a function of key and message (RFC 6979): no random number is drawn."""
    return key.sign(message, ec.ECDSA(HASHES[key.curve.name], deterministic_signing=True))


def is_signed(key: PublicKey, message: bytes, signed: bytes) -> bool:
    """Whether the owner of `key` signed `message`."""
    try:
        key.verify(signed, message, ec.ECDSA(HASHES[key.curve.name]))
    except InvalidSignature:
        return False
    return True


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write a new file that never, not for a moment, had other permissions."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        os.fsync(file.fileno())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_BYTES + 1)
    except OSError as error:
        raise EverystepError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > MAX_KEY_BYTES:
        raise EverystepError(f"{path}: more than {MAX_KEY_BYTES} bytes; no key is that large")
    return content


def _usable(passphrase: bytes) -> bytes:
    if not passphrase:
        raise EverystepError("the passphrase is empty; leave the option out to make or use a key without one")
    return passphrase


def _wrong_kind(where: Path) -> EverystepError:
    return EverystepError(f"{where}: not a key on P-256, P-384 or P-521, as the OpenSSF registry of algorithms asks")
