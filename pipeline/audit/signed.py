"""Signatures of a release: who signed it, and which of their claims were recomputed.

Read after `verify` has found every byte to be the promised one. Each statement is written again from the release and
compared, so one that passes says nothing about the release that the release does not say. What remains is somebody's
word: that upstream served these sources, that a commit exists, that nobody else's machine was involved.

A signature beside a release proves that the owner of a key signed it, and anybody can make a key. Only a key that the
reader *pins*, from a place that they trust, says who that is.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pipeline.audit.beside import as_fault, difference, files_beside, key_of, read_at_most
from pipeline.base.errors import Differs, EverystepError
from pipeline.formats.canonical import Json, canonical, parse
from pipeline.formats.manifests import Code, Trained
from pipeline.formats.release import BESIDE, SIGNATURES
from pipeline.release.code import installed
from pipeline.release.release import Release
from pipeline.signing.bundles import parse_bundle, signed_files
from pipeline.signing.envelopes import Envelope, opened
from pipeline.signing.keys import PUBLIC, PublicKey
from pipeline.signing.sign import BUNDLE, Place, place_of
from pipeline.signing.statements import CODE, PINS, commit_of, data_statement, model_statement

RELEASE, DATA = "release", "data"
"""What a claim may be about, besides a model."""
MAX_BYTES = 16 << 20
"""A bundle has about 200 bytes for each file of the release."""
MAX_SIGNERS = 100


@dataclass(frozen=True)
class Signer:
    """The owner of a key, whose every signature is right."""

    key: str
    """Key id."""
    pinned: bool
    """Whether the reader named this key."""
    statements: list[str]
    """What they made a statement about: `data`, and models."""


@dataclass(frozen=True)
class Claim:
    """One thing that a signer says."""

    key: str
    """Id of the signer's key."""
    about: str
    """`release`, `data`, or the name of a model."""
    claim: str
    """What is said."""
    recomputed: bool
    """Whether it was found again in the release; else it is the signer's word."""
    commit: str | None = None
    """The commit, if it names one."""


@dataclass(frozen=True)
class Signatures:
    """What was found below `signatures/`."""

    signers: list[Signer] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def check_signatures(release: Release, stored: Mapping[str, str], pinned: Mapping[str, PublicKey]) -> Signatures:
    """Check every signature of a release whose files are right. `stored` has the SHA-256 of the bytes of each file,
    `pinned` the keys that must have signed, by id."""
    found = Signatures()
    by_key: dict[str, dict[str, Place]] = {}
    for path, place in files_beside(release.folder, SIGNATURES, place_of, found, release.follow_links):
        by_key.setdefault(place.key, {})[path] = place
    unread = {link.key for link in map(place_of, found.links) if link}  # the owners of these may have signed, or not
    by_key = {key: places for key, places in by_key.items() if key not in unread}
    if SIGNATURES in found.links:
        return found
    if len(by_key) > MAX_SIGNERS:
        found.faults.append(f"{SIGNATURES}: {len(by_key)} signers; at most {MAX_SIGNERS} are read")
        return found
    for key, places in sorted(by_key.items()):
        _check_signer(_Check(release, stored, key), places, pinned.get(key), found)
    for key in sorted(pinned.keys() - by_key.keys() - unread):
        found.faults.append(f"{SIGNATURES}/{key}: missing; the owner of this pinned key has not signed the release")
    return found


@dataclass(frozen=True)
class _Check:
    """What the signatures of one signer are compared with."""

    release: Release
    stored: Mapping[str, str]
    key: str

    def read(self, path: str) -> bytes:
        return read_at_most(self.release.folder / path, MAX_BYTES, "signature")

    def says(self, claim: str, about: str, recomputed: bool, commit: str | None = None) -> Claim:
        return Claim(self.key, about, claim, recomputed, commit)


def _check_signer(check: _Check, places: Mapping[str, Place], pinned: PublicKey | None, found: Signatures) -> None:
    """The signatures of one signer; they become a signer only if nothing is wrong with any of them."""
    faults: list[str] = []
    claims: list[Claim] = []
    public = f"{SIGNATURES}/{check.key}/{PUBLIC}"
    try:
        key = key_of(check.key, check.read(public) if public in places else None, pinned, public)
    except (EverystepError, OSError) as error:
        found.faults.append(as_fault(public, error))
        return
    if BUNDLE not in {place.name for place in places.values()}:
        faults.append(f"{SIGNATURES}/{check.key}/{BUNDLE}: missing; without it nothing is signed")
    for path, place in sorted(places.items()):
        try:
            if place.name == BUNDLE:
                claims += _bundle(check, path, key)
            elif place.name != PUBLIC:
                claims += _statement(check, path, place, key)
        except (EverystepError, OSError) as error:
            faults.append(as_fault(path, error))
    found.faults.extend(faults)
    if not faults:
        about = sorted({claim.about for claim in claims} - {RELEASE})
        found.signers.append(Signer(check.key, pinned is not None, about))
        found.claims.extend(claims)


def _bundle(check: _Check, path: str, key: PublicKey) -> Iterator[Claim]:
    """The bundle signs exactly the files of the release."""
    signed = signed_files(parse_bundle(check.read(path), path), key, path)
    for name in sorted({*signed, *check.stored}):
        if name not in signed:
            raise Differs(f"does not cover {name!r}, a file of the release")
        if name not in check.stored:
            fix = f"; sign with --ignore-paths {name.partition('/')[0]}" if name.startswith(BESIDE) else ""
            raise Differs(f"signs {name!r}, which is no file of the release{fix}")
        if signed[name] != check.stored[name]:
            raise Differs(f"signs other bytes of {name!r}")
    yield check.says(f"the bytes of all {len(signed):,} files", RELEASE, True)


def _statement(check: _Check, path: str, place: Place, key: PublicKey) -> Iterator[Claim]:
    """The statement says what the release gives, and a commit."""
    release = check.release
    payload = opened(Envelope.parse(check.read(path), path), key, path)
    said = parse(payload, f"{path}: payload")
    commit = commit_of(said)
    if place.model is None:
        given = data_statement(release, check.stored, commit)
    elif place.model not in release.models():
        raise Differs(f"is about {place.model!r}, which is no model of the release")
    else:
        given = model_statement(release, place.model, check.stored, commit)
    if payload != canonical(given):
        raise Differs(f"payload: {difference(said, given)}")
    return _claims(check, given, place.model, commit)


def _claims(check: _Check, said: Json, model: str | None, commit: str | None) -> Iterator[Claim]:
    """What a statement that agrees with the release claims, in words."""
    about = model or DATA
    dependencies = said["predicate"]["buildDefinition"]["resolvedDependencies"]
    if model is None:
        raw = sum("uri" in one and one["name"] != CODE for one in dependencies)
        yield check.says(f"the bytes of the {len(said['subject']):,} files that came out", about, True)
        yield check.says("params.yaml, constraints.txt and dvc.lock are those in the release", about, True)
        yield check.says(f"upstream served the {raw:,} source files that went in", about, False)
        yield check.says("these sources give these files (test it: make reproduce)", about, False)
    else:
        entries = check.release.manifest(Trained, model).checkpoints
        stored = sum(entry.storage == "stored" for entry in entries)
        yield check.says(f"the digests of the {stored:,} stored checkpoints", about, True)
        if stored < len(entries):
            virtual = f"the digests of the {len(entries) - stored:,} virtual checkpoints (test them: everystep pull)"
            yield check.says(virtual, about, False)
        yield check.says("data, recipe, constraints.txt and dvc.lock are those in the release", about, True)
        yield check.says("this training gave these checkpoints (test it: everystep replay)", about, False)
    different, files = _other_code(check.release)
    code = f"the code is {check.release.manifest(Code).swhid}"
    if different:
        yield check.says(f"{code}; {different:,} of its {files:,} files are not this installation's", about, False)
    else:
        yield check.says(f"{code}, and this installation's", about, True)
    if commit is not None:
        yield check.says(f"the project was at commit {commit}", about, False, commit)
    yield check.says("who built it, and that no third party watched", about, False)


def _other_code(release: Release) -> tuple[int, int]:
    """How many files of the code that built a release are not in this installation, and how many there are."""
    files = {path: digest for path, digest in release.manifest(Code).files.items() if path != PINS}
    return len(files.items() - installed(files).items()), len(files)
