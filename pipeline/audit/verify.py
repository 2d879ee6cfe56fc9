"""Verify: climb the ladder as far as the bytes of a release alone allow (`pipeline.release.rungs`).

1. *files*: a missing, changed or unreadable file; a stored byte that `SHA256SUMS` does not promise; code that is not
   ours (`pipeline.release.code`); a root manifest that is not the one that the reader named.
2. *consistent*: a manifest whose inputs are not the ones beside it, a shard that its manifest does not promise, a
   checkpoint that fails the gate (`pipeline.audit.chain`); a table or a paper that differs from the records
   (`pipeline.audit.agreement`).
3. *recomputed*: weights that moved farther than training moves them, and all that rows, seeds and texts give again
   (`pipeline.audit.recompute.table`).

Every file is checked whatever is wrong with the others, and a fault is one line; a rung with faults ends the climb.
Links in place of files and files that are no part of the release are told apart from faults (`pipeline.audit.report`).

Nothing in a release is trusted to have the shape it should have. A file that changes between its digest and the last
use of it is a fault.
"""

import hashlib
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import NamedTuple

from pipeline.audit.agreement import disagreements
from pipeline.audit.chain import chain_faults
from pipeline.audit.leftovers import is_left_by_tools, is_tool_folder
from pipeline.audit.receipts import check_receipts
from pipeline.audit.receipts_report import Receipts
from pipeline.audit.recompute.table import recomputed_faults
from pipeline.audit.report import Report
from pipeline.audit.signed import Signatures, check_signatures
from pipeline.audit.sums import other_names, parse_sums
from pipeline.audit.verify_metadata import named_root
from pipeline.base.console import progress
from pipeline.base.errors import Differs, EverystepError, Linked
from pipeline.base.files import list_folder, read_small, safe_join, sha256_file, write_bytes
from pipeline.base.paths import RUNS
from pipeline.formats import checkpoints as ck
from pipeline.formats.release import (
    BESIDE,
    RECEIPTS,
    ROOT,
    SUMS,
    ListedFile,
    Root,
    content_digest,
    parse_root,
    release_root,
)
from pipeline.release.code import refuse_foreign_code
from pipeline.release.mirror import fetch_small
from pipeline.release.notices import PLACE as NOTICE
from pipeline.release.notices import notices_of
from pipeline.release.release import Release
from pipeline.release.rungs import Rung, recorded_beside, require_root, voucher
from pipeline.signing.keys import PublicKey
from pipeline.signing.receipts import place_of as place_of_receipt
from pipeline.signing.sign import place_of, places_of
from pipeline.stores.address import is_remote
from pipeline.stores.store import Missing

State = tuple[int, ...]


@dataclass
class _Reading:
    """What was read of a release: the state of each promised file before its digest was taken, the SHA-256 of its
    bytes, and what was found."""

    release: Path
    follow_links: bool
    root: Root
    states: dict[str, State] = field(default_factory=dict)
    stored: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)
    signatures: Signatures | None = None
    receipts: Receipts | None = None
    rung: Rung | None = None
    """The highest rung without a fault."""

    def promised(self) -> list[str]:
        return sorted({ROOT, SUMS, *self.root.files})


class Wanted(NamedTuple):
    """What the reader named: how far to climb, the keys that must have signed, by id, the SHA-256 of the root
    manifest."""

    top: Rung = Rung.RECOMPUTED
    keys: Mapping[str, PublicKey] = MappingProxyType({})
    root_sha256: str | None = None


def verify(address: str | Path, follow_links: bool = False, wanted: Wanted | None = None) -> Report:
    """Everything in the release that differs from what it promises, and everything beside it.

    A release that is elsewhere comes to this machine first, but for what is right in the cache.
    """
    wanted = wanted or Wanted()
    place, sha256 = named_root(address, wanted.root_sha256)
    wanted = wanted._replace(root_sha256=sha256)
    if not is_remote(place):
        return _verify_folder(Path(place.removeprefix("file://")), follow_links, wanted, is_here=True)
    release = Release.open(place)
    beside = _fetch_all(release, wanted.keys)
    report = _verify_folder(release.folder, False, wanted, is_here=False)
    others = (fault for fault in report.faults if fault.partition(": ")[0] not in beside.unfetched)
    return replace(
        report,
        faults=[*beside.faults, *others],
        others=[path for path in beside.others if not is_left_by_tools(path)],
        left_by_tools=[path for path in beside.others if is_left_by_tools(path)],
    )


class _Beside(NamedTuple):
    """What a store has beside a release, and what it could not give."""

    faults: list[str]
    unfetched: set[str]
    others: list[str]


def _fetch_all(release: Release, pinned: Mapping[str, PublicKey]) -> _Beside:
    """Bring every promised file of a remote release, and its signatures and receipts: all, or where the store cannot
    list the signatures of the pinned keys."""
    mirror, found = release.mirror, _Beside([], set(), [])
    assert mirror
    listed = mirror.store.list()
    for folder in BESIDE:
        shutil.rmtree(mirror.folder / folder, ignore_errors=True)
    guessed = [NOTICE, *(path for key in pinned for path in places_of(key, release.models()))]
    beside = [path for path in (guessed if listed is None else listed) if path.startswith(BESIDE)]
    wanted = [SUMS, *beside, *sorted(release.files)]
    with progress("fetch", len(wanted), "files") as advance:
        for path in wanted:
            try:
                if path in release.files:
                    mirror.fetch(path, release.files[path], quiet=True)
                else:  # nothing promises how long it is
                    write_bytes(safe_join(mirror.folder, path), fetch_small(mirror.store, path))
            except EverystepError as error:
                is_missing = isinstance(error, Missing)
                if not (is_missing and path in guessed):  # of the places of a key, some may well be empty
                    found.faults.append(f"{path}: {'missing' if is_missing else error}")
                    found.unfetched.add(path)
            advance(1, path)
    found.others.extend(sorted((listed or {}).keys() - {ROOT, *wanted}))
    return found


def _verify_folder(release: Path, follow_links: bool, wanted: Wanted, is_here: bool) -> Report:
    began = time.monotonic()
    try:
        content = release_root(release, follow_links)
        reading = _Reading(release, follow_links, parse_root(content, release / ROOT))
    except Linked:  # without it nothing is known of the other files
        return _unread(began, links=list_folder(release, is_tool_folder).links)
    except OSError as error:
        return _unread(began, faults=[f"{ROOT}: {_told(error)}"])
    except EverystepError as error:
        if not os.path.lexists(release / ROOT):
            raise
        return _unread(began, faults=[str(error)])
    _find_files(reading)
    _digest_files(reading, hashlib.sha256(content).hexdigest())
    vouched = _root_faults(reading, content, wanted, is_here)
    if not reading.faults and not reading.links:
        _climb(reading, wanted)
    reading.faults += _changed(reading)
    others = _others(reading)
    return Report(
        name=reading.root.name,
        version=reading.root.version,
        root_sha256=hashlib.sha256(content).hexdigest(),
        files=len(reading.stored),
        bytes=sum(reading.states[path][0] for path in reading.stored),
        checkpoints=sum(path.startswith(f"{RUNS}/") and path.endswith(f"/{ck.RECORD}") for path in reading.stored),
        seconds=round(time.monotonic() - began, 1),
        faults=reading.faults,
        links=sorted(reading.links),
        others=[path for path in others if not is_left_by_tools(path)],
        left_by_tools=[path for path in others if is_left_by_tools(path)],
        signatures=reading.signatures,
        receipts=reading.receipts,
        rung=None if reading.links else reading.rung,
        vouched=vouched,
    )


def _root_faults(reading: _Reading, content: bytes, wanted: Wanted, is_here: bool) -> str | None:
    """Compare the root manifest with the ones that are trusted; who vouches for it, besides signers."""
    try:
        require_root(content, wanted.root_sha256, str(reading.release))
    except Differs as error:
        reading.faults.append(str(error).removeprefix(f"{reading.release}: "))
        return None
    recorded = recorded_beside(reading.release) if is_here else None
    for name, sha256 in [(ROOT, recorded.root_sha256), (SUMS, recorded.sums_sha256)] if recorded else []:
        found = hashlib.sha256(content).hexdigest() if name == ROOT else reading.stored.get(name)
        if found not in (None, sha256):
            reading.faults.append(f"{name}: is not the one that {recorded and recorded.path} records")
            return None
    return voucher(reading.release, content, wanted.root_sha256 is not None, is_here)


def _climb(reading: _Reading, wanted: Wanted) -> None:
    """Check one rung after another; these read the files that were just found to be right."""
    root = reading.root
    release = Release(reading.release, root.name, root.version, root.files, reading.follow_links)
    release.trust(set(reading.stored))
    reading.rung = Rung.FILES
    if wanted.top >= Rung.CONSISTENT:
        reading.faults += chain_faults(release, reading.stored) or [
            *_safely(disagreements(release, reading.stored)),
            *_notices(release),
        ]
        reading.rung = Rung.FILES if reading.faults else Rung.CONSISTENT
    if not reading.faults:
        reading.signatures = check_signatures(release, reading.stored, wanted.keys)
        reading.links.update(reading.signatures.links)
    if wanted.top >= Rung.CONSISTENT and not reading.faults:
        reading.receipts = check_receipts(release, reading.release / RECEIPTS, {})
        reading.links.update(reading.receipts.links)
    if wanted.top >= Rung.RECOMPUTED and not reading.faults:
        reading.faults += _safely(recomputed_faults(release))
        reading.rung = Rung.CONSISTENT if reading.faults else Rung.RECOMPUTED
    for beside in (reading.signatures, reading.receipts):
        reading.faults += beside.faults if beside else []


def _unread(began: float, faults: list[str] | None = None, links: list[str] | None = None) -> Report:
    """The report of a release whose root manifest could not be read."""
    return Report(
        name=None,
        version=None,
        root_sha256=None,
        files=0,
        bytes=0,
        checkpoints=0,
        seconds=round(time.monotonic() - began, 1),
        faults=faults or [],
        links=links or [],
        others=[],
        left_by_tools=[],
    )


def _find_files(reading: _Reading) -> None:
    """Note the state of every promised file; a missing one is a fault, a link is noted apart."""
    for path in reading.promised():
        try:
            file = safe_join(reading.release, path, reading.follow_links)
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                raise EverystepError("not a file")
            reading.states[path] = _state(status)
        except Linked as error:
            reading.links.add(error.link.relative_to(reading.release).as_posix())
        except (FileNotFoundError, NotADirectoryError):
            reading.faults.append(f"{path}: missing")
        except (EverystepError, OSError) as error:
            reading.faults.append(f"{path}: {_told(error)}")


def _digest_files(reading: _Reading, root_sha256: str) -> None:
    """Compare every file that was found with what the two lists promise: content first, then stored bytes."""
    sums = _read_sums(reading)
    total = sum(state[0] for state in reading.states.values())
    with progress("verify", total, "bytes") as advance:
        for path in sorted(reading.states):
            file = reading.release / path
            try:
                sha256 = sha256_file(file)
                fault = _fault(reading.root.files.get(path), file, sha256, sums.get(path, sha256))
                if path == ROOT and sha256 != root_sha256:
                    fault = "changed while it was verified; run verify again"
                if fault is None:
                    refuse_foreign_code(path, sha256)
                    reading.stored[path] = sha256
                else:
                    reading.faults.append(f"{path}: {fault}")
            except (EverystepError, OSError) as error:
                reading.faults.append(f"{path}: {_told(error).removeprefix(f'{file}: ').removeprefix(f'{path}: ')}")
            advance(reading.states[path][0])


def _fault(entry: ListedFile | None, file: Path, sha256: str, in_sums: str) -> str | None:
    if entry and (sha256 if entry.kind == "file" else content_digest(file, entry.kind)) != entry.digest:
        return f"its content is not what {ROOT} promises"
    return None if sha256 == in_sums else f"its bytes are not those in {SUMS}"


def _read_sums(reading: _Reading) -> dict[str, str]:
    """The digests in `SHA256SUMS`; that it lists other files than the root manifest is a fault for each."""
    if SUMS not in reading.states:
        return {}
    try:
        sums = parse_sums(read_small(reading.release / SUMS))
    except OSError:
        return {}  # named where its digest is taken
    except EverystepError as error:
        told = _told(error).removeprefix(f"{reading.release / SUMS}: ").removeprefix(f"{SUMS}: ")
        reading.faults.append(f"{SUMS}: {told}")
        return {}
    reading.faults += other_names(sums, {*reading.promised()} - {SUMS})
    return sums


def _safely(faults: Iterator[str]) -> Iterator[str]:
    """The faults; what stops the search for them is one too."""
    try:
        yield from faults
    except (EverystepError, OSError) as error:
        yield _told(error)


def _notices(release: Release) -> Iterator[str]:
    """What is wrong with what is said beside the release."""
    try:
        notices_of(release)
    except (EverystepError, OSError) as error:
        yield _told(error).removeprefix(f"{release.folder}/")


def _changed(reading: _Reading) -> Iterator[str]:
    """Files that are no longer what they were before their digest was taken."""
    for path in sorted(reading.stored):
        try:
            now = _state((reading.release / path).stat())
        except OSError:
            now = ()
        if now != reading.states[path]:
            yield f"{path}: changed while it was verified; run verify again"


def _others(reading: _Reading) -> list[str]:
    """What lies in the folder and is neither promised nor a signature nor a receipt; folders that were not looked into,
    too."""
    promised = {*reading.promised()}
    above = {folder.as_posix() for path in promised for folder in PurePosixPath(path).parents}
    told = {fault.partition(": ")[0] for fault in reading.faults}  # a fault is one line
    found: list[str] = []
    pending = [""]
    while pending:
        inside = pending.pop()
        listing = list_folder(reading.release / inside, is_tool_folder)
        everything = [inside + path for paths in listing for path in paths]
        if reading.follow_links:
            pending += [f"{inside}{link}/" for link in listing.links if inside + link in above]
        found += [path for path in everything if path not in promised | above | told]
    beside = {path for path in found if place_of(path) or place_of_receipt(path) or path == NOTICE}
    return sorted(path for path in found if path not in beside and path not in reading.links)


def _state(status: os.stat_result) -> State:
    """The size, and what changes with every write."""
    return (status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def _told(error: Exception) -> str:
    return f"cannot be read: {error.strerror or error}" if isinstance(error, OSError) else str(error)
