"""Receipts: what an auditor says of stretches that they replayed, as an in-toto statement in a DSSE envelope.

    receipts/KEY_ID/public.pem
    receipts/KEY_ID/DIGEST.intoto.json     the first digits of the SHA-256 of the statement

A receipt is a function of the release, of the beacon, and of the auditor's words: the verdicts, and where the replay
ran. So a reader writes it again from the release and these words, and one that differs is refused; what remains is the
word of the owner of the key. No clock, no host: the same audit gives the same bytes, and it was not made before its
beacon was known.
"""

import hashlib
import re
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from pipeline.base.errors import Differs
from pipeline.base.files import write_bytes
from pipeline.base.paths import RUNS
from pipeline.formats import checkpoints as ck
from pipeline.formats.canonical import Json, canonical, pretty
from pipeline.formats.checkpoints import Numerics
from pipeline.formats.manifests import Code, digest_of_code
from pipeline.formats.receipts import (
    BAD,
    PREDICATE,
    Beacon,
    Chance,
    Finding,
    Program,
    Receipt,
    Verdict,
    Words,
    is_step_of,
)
from pipeline.formats.release import RECEIPTS, ROOT
from pipeline.formats.sampling import Stretch, chance_to_catch
from pipeline.release.code import installed
from pipeline.release.release import Release
from pipeline.release.stretches import Plan, state_digests
from pipeline.signing.bundles import STATEMENT
from pipeline.signing.envelopes import sealed
from pipeline.signing.keys import PUBLIC, PrivateKey, key_id, pem
from pipeline.signing.statements import PINS, TENSORS

PLACE = re.compile(rf"([0-9a-f]{{64}})/({re.escape(PUBLIC)}|([0-9a-f]{{16}})\.intoto\.json)")


class Place(NamedTuple):
    """What a path in a folder of receipts is for."""

    key: str
    """Id of the auditor's key."""
    digest: str | None
    """First digits of the SHA-256 of the statement; none for the public key."""


def place_in(path: str) -> Place | None:
    """What the file `path` of a folder of receipts is for; none if it has no place there."""
    found = PLACE.fullmatch(path)
    return Place(found[1], found[3]) if found else None


def place_of(path: str) -> Place | None:
    """What the file `path` of a release says of an audit; none if it is no place of a receipt."""
    folder, _, below = path.partition("/")
    return place_in(below) if folder == RECEIPTS else None


def program_of(release: Release) -> Program:
    """This installation, as what replays a release."""
    return Program(version=version("everystep"), code=digest_of_code(installed(_code_of(release))))


def is_code_of(release: Release, program: Program) -> bool:
    """Whether a program trains with the files of code that trained a release."""
    return program.code == digest_of_code(_code_of(release))


def receipt_of(release: Release, plan: Plan, words: Words) -> Receipt:
    """What an auditor who followed `plan` says."""
    if len(words.findings) != len(plan.chosen):
        raise Differs(f"verdicts: {len(words.findings)}, and the beacon chooses {len(plan.chosen)} stretches")
    if words.numerics.keys() != {stretch.model for stretch in plan.chosen}:
        raise Differs("numerics: not those of the models that were replayed")
    for model, found in words.numerics.items():
        _require_class(found, release.model(model).numerics, model)
    bad = [number for number in BAD if number <= len(plan.stretches)]
    chosen = zip(plan.chosen, words.findings, strict=True)
    return Receipt(
        beacon=Beacon(value=plan.beacon, source=words.source),
        models=plan.models,
        stretches=len(plan.stretches),
        sample=len(plan.chosen),
        chances=[
            Chance(bad=number, caught=chance_to_catch(number, len(plan.chosen), len(plan.stretches))) for number in bad
        ],
        verdicts=[_verdict(release, stretch, finding) for stretch, finding in chosen],
        program=words.program,
        numerics=words.numerics,
        processor=words.processor,
    )


def words_of(receipt: Receipt) -> Words:
    """The auditor's words in a receipt. Law: `words_of(receipt_of(release, plan, words)) == words`."""
    findings = [Finding(verdict.first_difference, verdict.detail) for verdict in receipt.verdicts]
    return Words(receipt.beacon.source, receipt.program, findings, receipt.numerics, receipt.processor)


def statement_of(release: Release, plan: Plan, receipt: Receipt) -> Json:
    """The statement that is signed: the receipt, about the root manifest and the weights at the ends of stretches."""
    root = {"name": ROOT, "digest": {"sha256": plan.root_sha256}}
    return {
        "_type": STATEMENT,
        "subject": [root, *(_end(release, stretch) for stretch in plan.chosen)],
        "predicateType": PREDICATE,
        "predicate": receipt.to_json(),
    }


def write_receipt(folder: Path, statement: Json, key: PrivateKey) -> Path:
    """Sign a receipt and write it below `folder`, beside those of others; return its path. An equal one is the same
    file, and nothing else is ever overwritten."""
    payload, own = canonical(statement), key_id(key.public_key())
    path = folder / own / f"{name_of(payload)}.intoto.json"
    write_bytes(folder / own / PUBLIC, pem(key.public_key()))
    write_bytes(path, pretty(sealed(payload, key, own)))
    return path


def name_of(payload: bytes) -> str:
    """The first digits of the SHA-256 of a statement, which name its file."""
    return hashlib.sha256(payload).hexdigest()[:16]


def _verdict(release: Release, stretch: Stretch, finding: Finding) -> Verdict:
    states, every = state_digests(release, stretch.model), release.model(stretch.model).parameters.digest_every
    last = stretch.stop if finding.first_difference is None else finding.first_difference
    if not is_step_of(last, stretch.start, stretch.stop):
        raise Differs(f"verdicts: step {last} is not one of {stretch.model}, steps {stretch.start} to {stretch.stop}")
    return Verdict(
        model=stretch.model,
        start=stretch.start,
        stop=stretch.stop,
        start_state=states[stretch.start],
        stop_state=states[stretch.stop],
        digests=last // every - stretch.start // every,
        verdict="same" if finding.first_difference is None else "differs",
        first_difference=finding.first_difference,
        detail=finding.detail,
    )


def _require_class(found: Numerics, recorded: Numerics, model: str) -> None:
    """Of what decides the bits, an auditor may have another build or processor, and nothing that the recipe says."""
    for key in ("name", "dtype", "compiled"):
        mine, theirs = getattr(found, key), getattr(recorded, key)
        if mine != theirs:
            raise Differs(f"numerics.{model}: {mine!r}, and the model was trained with {theirs!r}")


def _code_of(release: Release) -> dict[str, str]:
    """SHA-256 of the files with which a release was trained, but for the pins, which an installation does not keep."""
    files = release.manifest(Code).files_of("train")
    return {path: sha256 for path, sha256 in files.items() if path != PINS}


def _end(release: Release, stretch: Stretch) -> Json:
    entry = next(entry for entry in release.model(stretch.model).checkpoints if entry.step == stretch.stop)
    path = (RUNS / stretch.model / entry.revision / ck.WEIGHTS).as_posix()
    return {"name": path, "digest": {TENSORS: entry.weights_digest.rpartition(":")[2]}}
