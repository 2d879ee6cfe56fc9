"""Sign a release: one bundle over every byte, and the statements of data and models, below `signatures/KEY_ID/`.

Every signer has a folder of their own, so a signature never changes another's, and nothing that is signed lists what is
below `signatures/`. The same release, key and commit give the same bytes. A signature is no judgement: who signs should
have verified, and `everystep sign` does it first.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.base.errors import Differs
from pipeline.base.files import read_small, safe_join, sha256_file, write_bytes
from pipeline.formats.canonical import canonical, pretty
from pipeline.formats.release import ROOT, SIGNATURES, SUMS, parse_root, release_root
from pipeline.release.release import Release
from pipeline.signing.bundles import signed_bundle
from pipeline.signing.envelopes import sealed
from pipeline.signing.keys import PUBLIC, PrivateKey, key_id, pem
from pipeline.signing.statements import checked_commit, data_statement, model_statement

BUNDLE, OF_DATA, OF_MODELS, ENDING = "model.sig", "data.intoto.json", "models", ".intoto.json"
PLACE = re.compile(rf"{SIGNATURES}/([0-9a-f]{{64}})/({PUBLIC}|{BUNDLE}|{OF_DATA}|{OF_MODELS}/([^/]+){ENDING})")


class Place(NamedTuple):
    """What a path below `signatures/` is for."""

    key: str
    """Id of the key that signed."""
    name: str
    """Path in the signer's folder."""
    model: str | None
    """Model that it is about."""


def place_of(path: str) -> Place | None:
    """What the file `path` of a release signs; none if it is no place of a signature."""
    found = PLACE.fullmatch(path)
    return Place(found[1], found[2], found[3]) if found else None


def places_of(key: str, models: Iterable[str]) -> list[str]:
    """Every path at which the owner of a key may have signed a release with these models."""
    names = [PUBLIC, BUNDLE, OF_DATA, *(f"{OF_MODELS}/{name}{ENDING}" for name in models)]
    return [f"{SIGNATURES}/{key}/{name}" for name in names]


def sign(release: Release, key: PrivateKey, commit: str | None = None) -> list[str]:
    """Write the signatures of `key` into the folder of a release, and return their paths.

    `commit` is the commit of the project that built the release. It is the signer's word: nothing here can check it.
    """
    files = signatures(release, key, commit)
    for path, content in files.items():
        write_bytes(safe_join(release.folder, path), content)
    return list(files)


def signatures(release: Release, key: PrivateKey, commit: str | None = None) -> dict[str, bytes]:
    """The files that `sign` writes, by path; the bundle, which makes the signer a signer, is the last."""
    if commit is not None:
        checked_commit(commit)
    sums, own = verified_sums(release), key_id(key.public_key())
    said = {OF_DATA: data_statement(release, sums, commit)}
    said |= {f"{OF_MODELS}/{name}{ENDING}": model_statement(release, name, sums, commit) for name in release.models()}
    files = {PUBLIC: pem(key.public_key())}
    files |= {name: pretty(sealed(canonical(statement), key, own)) for name, statement in said.items()}
    files[BUNDLE] = signed_bundle(release.name, sums, key)
    return {f"{SIGNATURES}/{own}/{name}": content for name, content in files.items()}


def verified_sums(release: Release) -> dict[str, str]:
    """The SHA-256 of the bytes of each file that a signature covers, after both lists were found to promise them."""
    root = release_root(release.folder, release.follow_links)
    if parse_root(root, release.folder / ROOT).files != release.files:
        raise Differs(f"{release.folder / ROOT}: changed while it was read; run the command again")
    sums = {path: sha256_file(release.file(path)) for path in release.files}
    sums[ROOT] = hashlib.sha256(root).hexdigest()
    listed = read_small(safe_join(release.folder, SUMS, release.follow_links))
    if sorted(listed.decode("utf-8", "replace").splitlines()) != sorted(f"{sha}  {path}" for path, sha in sums.items()):
        raise Differs(
            f"{release.folder / SUMS}: does not list the bytes of this release; `everystep verify` says which"
        )
    sums[SUMS] = hashlib.sha256(listed).hexdigest()
    return sums
