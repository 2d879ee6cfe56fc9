"""The bundle that signs every byte of a release: OpenSSF Model Signing 1.0, method `key`, files hashed by SHA-256.

Specified by ossf/model-signing-spec (`spec/v1.0.md`): a Sigstore bundle that holds a DSSE envelope, whose statement
lists each file with its digest. So anybody can check it with the OpenSSF's own `model_signing verify key`.

Read strictly. A bundle of a release lists its files and no others, each once: a list of ignored paths that hides a file
of the release is refused, and so is what this reader cannot recompute (shards, other hashes, certificates).
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import safe_join
from pipeline.formats.canonical import Json, canonical, pretty
from pipeline.formats.release import RECEIPTS, SIGNATURES
from pipeline.formats.typed import Declared, Typed
from pipeline.signing.envelopes import Envelope, opened, sealed
from pipeline.signing.keys import PrivateKey, PublicKey, key_id

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MEDIA_TYPES = re.compile(r"application/vnd\.dev\.sigstore\.bundle(\.v0\.3\+json|\+json;version=0\.[123])")
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
BY_DEFAULT = (".git", ".gitattributes", ".github", ".gitignore")
"""What every tool leaves out at the top of a folder, whether the bundle says so or not."""
IGNORED = (".cache/huggingface", *BY_DEFAULT, RECEIPTS, SIGNATURES)
"""What our bundles leave out: what Git and the Hub's client keep beside a release, receipts, and signatures."""


class Bundle(Typed):
    """A bundle, before its signature was checked."""

    media_type: str = Field(alias="mediaType")
    """Which version of Sigstore's form it has."""
    verification_material: dict[str, Json] = Field(alias="verificationMaterial")
    """What says which key or certificate signed."""
    envelope: Envelope = Field(alias="dsseEnvelope")
    """The signed statement."""


class Resource(Declared):
    """A file of the release. Further keys of in-toto are passed over, as the specification asks."""

    name: Annotated[str, Field(min_length=1)]
    """Its path."""
    digest: Annotated[str, Field(pattern=r"\A[0-9a-f]+\z")]
    """Digest of its bytes."""
    algorithm: Literal["sha256", "blake2b", "blake3"]
    """Hash that gave the digest."""


class Serialization(Typed):
    """How the files were listed and hashed."""

    method: Literal["files", "shards"]
    """Whole files, or pieces of them."""
    hash_type: Literal["sha256", "blake2b", "blake3"]
    """Hash of all resources."""
    allow_symlinks: bool
    """Whether links were followed. `verify` has its own rule for that, and compares contents."""
    shard_size: Annotated[int, Field(gt=0)] | None = None
    """Bytes of a shard."""
    ignore_paths: list[Annotated[str, Field(min_length=1)]] | None = None
    """Paths that were left out."""


class Predicate(Typed):
    """The list of files, and how it was made."""

    resources: Annotated[list[Resource], Field(min_length=1)]
    """Each file."""
    serialization: Serialization
    """How they were listed."""


class Subject(Declared):
    """The release as a whole."""

    name: Annotated[str, Field(min_length=1)]
    """Its name; informational."""
    digest: dict[str, Annotated[str, Field(pattern=r"\A[0-9a-f]+\z")]]
    """`sha256`: SHA-256 of the digests of all resources, as bytes, in their order."""


class Statement(Typed):
    """The signed statement."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    """Version of in-toto's form."""
    subject: Annotated[list[Subject], Field(min_length=1, max_length=1)]
    """What is signed."""
    predicate_type: Literal["https://model_signing/signature/v1.0"] = Field(alias="predicateType")
    """Version of OpenSSF's form."""
    predicate: Predicate
    """What is said."""


def signed_bundle(name: str, files: Mapping[str, str], key: PrivateKey) -> bytes:
    """The bundle of a release: `files` maps each path to the SHA-256 of its bytes."""
    _refuse_hidden(IGNORED, files, "this release")
    resources = [{"algorithm": "sha256", "digest": files[path], "name": path} for path in sorted(files)]
    statement = {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": _root([files[path] for path in sorted(files)])}}],
        "predicateType": PREDICATE,
        "predicate": {
            "resources": resources,
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [*IGNORED],
            },
        },
    }
    bundle = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": key_id(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": sealed(canonical(statement), key, keyid=""),
    }
    return pretty(bundle)


def parse_bundle(content: bytes, where: object) -> Bundle:
    """The bundle in `content`, the bytes of the file `where`; it has the form, its signature was not checked."""
    bundle = Bundle.parse(content, where)
    if not MEDIA_TYPES.fullmatch(bundle.media_type):
        raise EverystepError(f"{where}: mediaType: {bundle.media_type!r:.100} is not a Sigstore bundle that we know")
    method_of(bundle, where)
    return bundle


def method_of(bundle: Bundle, where: object) -> Literal["key", "certificate", "sigstore"]:
    """Who vouches for the signature: a key, a chain of certificates, or Sigstore."""
    said = bundle.verification_material
    key, chain, certificate = (said.get(name) for name in ("publicKey", "x509CertificateChain", "certificate"))
    given = [one for one in (key, chain, certificate) if one is not None]
    if len(given) == 1 and isinstance(given[0], dict):
        if key is not None and any(isinstance(key.get(name), str) for name in ("hint", "rawBytes")):
            return "key"
        if chain is not None and isinstance(chain.get("certificates"), list) and chain["certificates"]:
            return "certificate"
        entries = said.get("tlogEntries")
        if certificate is not None and certificate.get("rawBytes") and isinstance(entries, list) and entries:
            return "sigstore"
    raise EverystepError(f"{where}: verificationMaterial: names neither a key, nor certificates, nor a log of Sigstore")


def signed_files(bundle: Bundle, key: PublicKey, where: object) -> dict[str, str]:
    """Each path that the owner of `key` signed, with the SHA-256 of its bytes. `Differs` if somebody else signed."""
    if (method := method_of(bundle, where)) != "key":
        raise EverystepError(f"{where}: signed by the method {method!r}, and Everystep checks the method 'key' only")
    hint = bundle.verification_material["publicKey"].get("hint")
    if hint not in (None, key_id(key)):
        raise Differs(f"{where}: publicKey.hint: names the key {hint!r:.80}, not {key_id(key)}")
    statement = Statement.parse(opened(bundle.envelope, key, where), f"{where}: payload")
    resources, how = statement.predicate.resources, statement.predicate.serialization
    if (how.method, how.hash_type, how.shard_size) != ("files", "sha256", None):
        raise EverystepError(f"{where}: serialization: lists {how.method} by {how.hash_type}; we check files by sha256")
    names = Counter(resource.name for resource in resources)
    for resource in resources:
        _require_plain(resource.name, f"{where}: resources")
        if names[resource.name] > 1:
            raise EverystepError(f"{where}: resources: {resource.name!r} is listed twice")
        if resource.algorithm != "sha256" or len(resource.digest) != 64:
            raise EverystepError(f"{where}: resources: {resource.name!r} has no SHA-256")
    root = _root([resource.digest for resource in resources])
    if statement.subject[0].digest.get("sha256") != root:
        raise Differs(f"{where}: subject: its digest is not that of the resources, {root}")
    _refuse_hidden([*BY_DEFAULT, *(how.ignore_paths or [])], names, where)
    return {resource.name: resource.digest for resource in resources}


def _root(digests: Iterable[str]) -> str:
    """The digest of a list of files: SHA-256 of their digests as bytes, one after the other."""
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


def _require_plain(path: str, where: str) -> None:
    try:
        safe_join(Path(), path, follow_links=True)  # looks at the name alone
    except EverystepError as error:
        raise EverystepError(f"{where}: {error}") from error


def _refuse_hidden(ignored: Iterable[str], files: Iterable[str], where: object) -> None:
    """Refuse a list of ignored paths that is not one, or that hides a file."""
    left_out = set(ignored)
    for path in left_out:
        _require_plain(path, f"{where}: ignore_paths")
        if not set(path).isdisjoint("*?["):
            raise EverystepError(f"{where}: ignore_paths: {path!r} is a pattern; a path is expected")
    for file in sorted(files):
        if hidden := left_out & {file, *map(str, PurePosixPath(file).parents)}:
            raise EverystepError(f"{where}: ignore_paths: {min(hidden)!r} hides {file!r}, a file of the release")
