"""Verify what a release says, without the bytes that it is about: no rows, no tables, no tensors are read.

Of a release elsewhere, only small files move. What they prove together: the lists name the same files, every manifest
was built from those beside it, each model has all its checkpoints, with records, logs, parents and digests that agree,
and cards and tables say what the manifests say. That the large files *have* the promised digests is left to `verify`;
here the store is asked whether they are there, and for their SHA-256 if it keeps one.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.audit.agreement import told_twice
from pipeline.audit.chain import chain_faults
from pipeline.audit.report import SHOWN
from pipeline.audit.sums import other_names, parse_sums
from pipeline.base.console import in_bytes, progress
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import read_small, safe_join
from pipeline.formats import checkpoints as ck
from pipeline.formats.release import ROOT, SUMS
from pipeline.release.mirror import fetch_small
from pipeline.release.release import Release
from pipeline.release.rungs import FRAGMENT, NOBODY, Pinned, Rung, pinned_root, voucher
from pipeline.stores.store import Listed

INDEXES = (".ids", ".nodes")
"""Ends of the names of large files that are digested as bytes: those of the search index."""


@dataclass(frozen=True, kw_only=True)
class MetadataReport:
    """Outcome of a verification of the metadata. `files` and `bytes` were read, `unread` files were not."""

    name: str
    version: str | None
    root_sha256: str
    files: int
    bytes: int
    unread: int
    checkpoints: int
    seconds: float
    faults: list[str]
    vouched: str | None
    """Who vouches for the root manifest; null if nobody."""

    @property
    def exit_code(self) -> int:
        return Differs.exit_code if self.faults else 0

    def to_json(self) -> dict[str, Any]:
        return {"metadata_verified": not self.faults, **asdict(self)}

    def lines(self, address: str) -> Iterator[str]:
        """Yield the lines that a person reads."""
        yield from self.faults[:SHOWN]
        if len(self.faults) > SHOWN:
            yield f"... and {len(self.faults) - SHOWN:,} more faults; --json lists all"
        amount = f"{self.files:,} files, {in_bytes(self.bytes)}, {self.checkpoints:,} checkpoints, {self.seconds:.1f} s"
        if self.faults:
            yield f"{address}: {len(self.faults):,} faults; this is not the release that was published"
        else:
            yield f"{address}: the metadata agree: {self.name} {self.version}, {amount}"
            yield f"{Rung.CONSISTENT.title}, of the small files alone"
            yield f"not read: {self.unread:,} files of rows, tables and tensors; verify without --metadata reads them"
        yield f"sha256 of release.json: {self.root_sha256}"
        yield f"vouched for by {self.vouched or NOBODY}"


def named_root(address: str | Path, root_sha256: str | None) -> Pinned:
    """Take the SHA-256 of the root manifest from the address or from `root_sha256`; two different ones are an error."""
    place, sha256 = pinned_root(address)
    if None not in (sha256, root_sha256) and sha256 != root_sha256:
        raise EverystepError(f"{address}: the address and --root name two different digests")
    return Pinned(place, sha256 or root_sha256)


def verify_metadata(address: str, follow_links: bool = False, root_sha256: str | None = None) -> MetadataReport:
    """Everything in the metadata of the release at `address` that contradicts itself, or what its store says."""
    began = time.monotonic()
    place, sha256 = named_root(address, root_sha256)
    release = Release.open(f"{place}{FRAGMENT}{sha256}" if sha256 else place, follow_links)
    if release.version is None:
        raise EverystepError(f"{address}: has no {ROOT}; a project is verified by `dvc status`")
    root = read_small(safe_join(release.folder, ROOT, follow_links))
    small = sorted(path for path, file in release.files.items() if file.kind == "file" and not path.endswith(INDEXES))
    faults, read = [], len(root)
    with progress("verify", len(small), "files") as advance:
        for path in small:
            try:
                read += release.file(path).stat().st_size
            except (EverystepError, OSError) as error:
                faults.append(f"{path}: {error}")
            advance(1, path)
    if not faults:
        sums = _sums(release)
        faults += _contradictions(release, sums, hashlib.sha256(root).hexdigest())
        faults += _there(release, sums)
        faults += chain_faults(release, sums, tensors=False)
    if not faults:
        try:
            faults += told_twice(release, sums)
        except (EverystepError, OSError) as error:
            faults.append(str(error))
    return MetadataReport(
        name=release.name,
        version=release.version,
        root_sha256=hashlib.sha256(root).hexdigest(),
        files=len(small) + 2,
        bytes=read,
        unread=len(release.files) - len(small),
        checkpoints=sum(Path(path).name == ck.RECORD for path in small),
        seconds=round(time.monotonic() - began, 1),
        faults=faults,
        vouched=voucher(release.folder, root, release.pinned, release.mirror is None),
    )


def _sums(release: Release) -> dict[str, str]:
    if release.mirror:
        return parse_sums(fetch_small(release.mirror.store, SUMS))
    return parse_sums(read_small(safe_join(release.folder, SUMS, release.follow_links)))


def _contradictions(release: Release, sums: dict[str, str], root_sha256: str) -> Iterator[str]:
    """Both lists name the same files, and give those that are digested as bytes the same digest."""
    listed = {path: file.digest for path, file in release.files.items() if file.kind == "file"} | {ROOT: root_sha256}
    yield from other_names(sums, {ROOT, *release.files})
    for path in sorted(listed.keys() & sums.keys()):
        if listed[path] != sums[path]:
            yield f"{path}: {SUMS} and {ROOT} promise different bytes"


def _there(release: Release, sums: dict[str, str]) -> Iterator[str]:
    """Every promised file is there, with the SHA-256 that the store has of it, if it keeps one."""
    if release.mirror is None:
        places = {path: safe_join(release.folder, path, release.follow_links) for path in release.files}
        listed: dict[str, Listed] | None = {path: Listed(0, None) for path, file in places.items() if file.is_file()}
    else:
        listed = release.mirror.store.list()
    if listed is None:
        return  # a web server; a file that is missing is found by who asks for it
    for path in sorted(release.files):
        if path not in listed:
            yield f"{path}: missing"
        elif listed[path].sha256 not in (None, sums.get(path)):
            yield f"{path}: the store has other bytes than {SUMS} promises"
