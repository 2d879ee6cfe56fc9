"""Receipts of audits: which stretches of a release were replayed, by the owners of which keys, and what they found.

Every receipt is written again from the release, its beacon and its auditor's words (`pipeline.signing.receipts`); one
that differs is a fault: another release, stretches that its beacon does not choose, another key. A right receipt is
still somebody's word that the replay was run, and that the beacon is the public number that it is said to be. Anybody
can make a key; whose words count is the reader's choice.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.audit.beside import as_fault, difference, files_beside, key_of, read_at_most
from pipeline.audit.receipts_report import Covered, Read, Receipts, Replayed
from pipeline.base.errors import Differs, EverystepError
from pipeline.base.files import safe_join, write_bytes
from pipeline.formats.canonical import canonical, parse
from pipeline.formats.receipts import Receipt, Statement
from pipeline.formats.release import RECEIPTS
from pipeline.release.mirror import fetch_small
from pipeline.release.release import Release
from pipeline.release.stretches import opened_root, plan_audit, stretches
from pipeline.signing.envelopes import Envelope, opened
from pipeline.signing.keys import PUBLIC, PublicKey
from pipeline.signing.receipts import (
    Place,
    is_code_of,
    name_of,
    place_in,
    place_of,
    receipt_of,
    statement_of,
    words_of,
)

MAX_BYTES = 4 << 20
"""A receipt has about 500 bytes for each stretch."""
MAX_FILES = 2000


def check_receipts(release: Release, folder: Path, pinned: Mapping[str, PublicKey]) -> Receipts:
    """Check every receipt in `folder` against a release. With `pinned` keys, by id, only what their owners say counts,
    and each of them must have left a receipt."""
    found = Receipts(pinned=bool(pinned))
    follow = release.follow_links

    def place(path: str) -> Place | None:
        placed = place_in(path.partition("/")[2])
        if placed is None:
            found.others.append(path)
        return placed

    by_key: dict[str, dict[str, Place]] = {}
    for path, placed in files_beside(folder.parent, folder.name, place, found, follow):
        by_key.setdefault(placed.key, {})[path] = placed
    if sum(map(len, by_key.values())) > MAX_FILES:
        found.faults.append(f"{folder.name}: more than {MAX_FILES:,} files; name a folder with fewer")
        return found
    every = stretches(release, release.models())
    root = opened_root(release)
    for key, files in sorted(by_key.items()):
        reader = _Reader(release, root, folder.parent, key, not pinned or key in pinned)
        reader.read(files, pinned.get(key), found)
    for key in sorted(pinned.keys() - {receipt.key for receipt in found.receipts}):
        found.faults.append(f"{folder.name}/{key}: the owner of this pinned key has left no receipt that is right")
    counted = [receipt for receipt in found.receipts if receipt.counts]
    found.covered.extend(Covered(*stretch, *_keys(stretch, counted)) for stretch in every)
    return found


@contextmanager
def receipts_beside(release: Release) -> Iterator[Path]:
    """The folder of the receipts beside a release. Of a release elsewhere they are brought here, for as long."""
    if release.mirror is None:
        yield release.folder / RECEIPTS
        return
    listed = release.mirror.store.list()
    if listed is None:
        raise EverystepError(
            f"{release.address}: a web server does not list its files; fetch the receipts, and name their folder: --in"
        )
    paths = sorted(path for path in listed if path.startswith(f"{RECEIPTS}/"))
    if len(paths) > MAX_FILES or sum(listed[path].bytes for path in paths) > MAX_FILES * MAX_BYTES // 16:
        raise EverystepError(f"{release.address}/{RECEIPTS}: too many files, or too large; fetch some, and name --in")
    with TemporaryDirectory(prefix="everystep-receipts-") as scratch:
        for path in paths:
            is_ours = place_of(path) is not None  # of other files only the name is shown
            write_bytes(safe_join(Path(scratch), path), fetch_small(release.mirror.store, path) if is_ours else b"")
        yield Path(scratch) / RECEIPTS


@dataclass(frozen=True)
class _Reader:
    """What the receipts of one auditor are compared with."""

    release: Release
    root_sha256: str
    above: Path
    key: str
    counts: bool

    def read(self, files: Mapping[str, Place], pinned: PublicKey | None, found: Receipts) -> None:
        """Add the receipts of one auditor that are right, and a fault for each that is not."""
        public = next((path for path, place in files.items() if place.digest is None), None)
        where = public or f"{next(iter(files)).rpartition('/')[0]}/{PUBLIC}"
        try:
            content = None if public is None else read_at_most(self.above / public, MAX_BYTES, "key")
            key = key_of(self.key, content, pinned, where)
        except (EverystepError, OSError) as error:
            found.faults.append(as_fault(where, error))
            return
        for path, place in sorted(files.items()):
            try:
                if place.digest is not None:
                    found.receipts.append(self._receipt(path, place.digest, key))
            except (EverystepError, OSError) as error:
                found.faults.append(as_fault(path, error))

    def _receipt(self, path: str, name: str, key: PublicKey) -> Read:
        content = read_at_most(self.above / path, MAX_BYTES, "receipt")
        payload = opened(Envelope.parse(content, path), key, path)
        said = parse(payload, f"{path}: payload")
        statement = Statement.from_json(said, f"{path}: payload")
        about, receipt = statement.subject[0].digest.get("sha256"), statement.predicate
        if about != self.root_sha256:
            raise Differs(f"is of another release, whose release.json has the SHA-256 {about!r:.80}")
        given = self._given(receipt)
        if payload != canonical(given):
            raise Differs(f"payload: {difference(said, given)}")
        if name_of(payload) != name:
            raise Differs(f"not its name: the SHA-256 of this statement begins with {name_of(payload)}")
        return self._read(path, receipt)

    def _given(self, receipt: Receipt) -> Any:
        """The statement that the release, the beacon and the auditor's words give."""
        unknown = sorted(set(receipt.models) - set(self.release.models()))
        if unknown:
            raise Differs(f"models: {unknown[0]!r:.80} is no model of the release")
        plan = plan_audit(self.release, receipt.models, receipt.beacon.value, receipt.sample)
        return statement_of(self.release, plan, receipt_of(self.release, plan, words_of(receipt)))

    def _read(self, path: str, receipt: Receipt) -> Read:
        recorded = {model: self.release.model(model).numerics for model in receipt.numerics}
        replayed = [
            Replayed(
                one.model,
                one.start,
                one.stop,
                one.first_difference,
                one.detail,
                receipt.numerics[one.model] == recorded[one.model],
            )
            for one in receipt.verdicts
        ]
        return Read(
            path=path,
            key=self.key,
            counts=self.counts,
            beacon=receipt.beacon.value,
            source=receipt.beacon.source,
            models=receipt.models,
            stretches=receipt.stretches,
            replayed=replayed,
            classes=sorted({numerics.name for numerics in receipt.numerics.values()}),
            processor=receipt.processor,
            version=receipt.program.version,
            same_code=is_code_of(self.release, receipt.program),
        )


def _keys(stretch: tuple[str, int, int], receipts: list[Read]) -> tuple[list[str], list[str]]:
    """The keys whose owners say that a stretch came out the same, and of those who say that it did not."""
    said = [
        (receipt.key, one.first_difference is None)
        for receipt in receipts
        for one in receipt.replayed
        if (one.model, one.start, one.stop) == stretch
    ]
    return sorted({key for key, same in said if same}), sorted({key for key, same in said if not same})
