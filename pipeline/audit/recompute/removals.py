"""Removals: every one is of its source and stage, for a reason that holds, and nobody is removed twice or kept too.

A duplicate names the document that was kept, which is in the rows and has precedence: a lower priority of its source,
or the same and a lower id. A cap removes the documents with the largest hashes of their ids, and no more than it must.
What the manifests count and list of removals is counted again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from pipeline.audit.recompute.columns import (
    Keys,
    Removed,
    index_batches,
    index_keys,
    is_ascending,
    joined,
    keys_of,
    removals,
    repeated,
)
from pipeline.audit.recompute.reasons import DEDUP, EXTRACT, wrong_reason
from pipeline.base.errors import well_shaped
from pipeline.base.paths import SPLITS
from pipeline.formats.documents import id_hashes
from pipeline.formats.manifests import Deduplicated, EvaluationNgrams, Extracted, Fetched, Filtered
from pipeline.release.release import Release

COLUMNS = ["id", "source", "stage", "reason", "detail", "kept", "similarity", "bytes"]
EXAMPLES, LICENSES, OTHERS = 3, 100, "(others)"
OF_LICENSES = ("license", "unknown_license")


def removal_faults(release: Release) -> Iterator[str]:
    """Each removal that cannot be, and each summary of removals that does not follow from them."""
    gone: list[Keys] = []
    kept: list[Keys] = []
    for removed in removals(release):
        with well_shaped(release.folder / removed.path):
            yield from _table(release, removed, gone, kept)
    rows = np.unique(index_keys(release))
    yield from _named(release, repeated(joined([rows, *gone])), "is removed twice, or removed and in the rows")
    in_dedup = joined([rows, *gone[-1:]]) if removals(release)[-1].manifest.stage == "tokenize" else rows
    yield from _named(release, np.setdiff1d(joined(kept), in_dedup), "was not kept by dedup", "kept")
    for name in release.sources():
        yield from _cap(release, name)


def _table(release: Release, removed: Removed, gone: list[Keys], kept: list[Keys]) -> Iterator[str]:
    """The faults of the rows of a table. The keys of its ids go to `gone`, those of the documents named to `kept`."""
    where, manifest = removed.path, removed.manifest
    sources = {manifest.of} if manifest.of else {*release.sources()}
    priorities = {name: _priority(release, name) for name in release.sources()}
    parameters = manifest.parameters.to_json()
    examples: dict[str, list[str]] = {}
    licenses: Counter[str] = Counter()
    pairs: dict[str, Counter[str]] = {}
    places: list[tuple[int, str]] = [(-(2**63), "")]
    keys: list[Keys] = []
    for batch in removed.batches(release, COLUMNS):
        rows = batch.to_pylist()
        keys.append(keys_of(row["id"] for row in rows))
        kept.append(keys_of(row["kept"] for row in rows if row["kept"]))
        for row in rows:
            id, source, reason = row["id"], row["source"], row["reason"]
            if source not in sources or id.partition("/")[0] != source or row["stage"] != manifest.stage:
                yield f"{where}: {id}: is not a document of this stage and source"
                continue
            wrong = _wrong(row, parameters, priorities)
            if wrong:
                yield f"{where}: {id}: {reason}: {wrong}"
            if row["kept"]:
                pairs.setdefault(source, Counter())[row["kept"].partition("/")[0]] += 1
            if len(examples.setdefault(reason, [])) < EXAMPLES:
                examples[reason].append(id)
            if reason in OF_LICENSES:
                known = row["detail"] in licenses or len(licenses) < LICENSES
                licenses[row["detail"] if known else OTHERS] += 1
        if isinstance(manifest, Deduplicated):
            places = [places[-1], *((priorities[row["source"]], row["id"]) for row in rows if row["source"] in sources)]
            if not is_ascending(places):
                yield f"{where}: its rows are not in the order of priority and id"
    gone += keys or [np.empty(0, dtype=np.uint64)]
    counted = _summary(manifest, examples, licenses, pairs)
    for key, (said, found) in counted.items():
        if said != found:
            yield f"{manifest.path}: {key} is {said}, {where} gives {found}"


def _summary(
    manifest: Any, examples: dict[str, list[str]], licenses: Counter[str], pairs: dict[str, Counter[str]]
) -> dict[str, tuple[Any, Any]]:
    """What a manifest says of removals, and what they give."""
    if isinstance(manifest, Deduplicated):
        found = {source: dict(kept) for source, kept in pairs.items()}
        by_source = {source: sum(kept.values()) for source, kept in found.items()}
        return {
            "removed_by_source": (manifest.removed_by_source, by_source),
            "duplicates": (manifest.duplicates, found),
        }
    if isinstance(manifest, Extracted | Filtered):
        return {
            "examples": (manifest.examples, examples),
            "removed_by_license": (manifest.removed_by_license, dict(licenses)),
        }
    return {}


def _wrong(row: Mapping[str, Any], parameters: Mapping[str, Any], priorities: Mapping[str, int]) -> str | None:
    """What is wrong with a removal, by itself."""
    stage, reason = row["stage"], row["reason"]
    if (row["kept"] is None, row["similarity"] is None) != (stage != "dedup",) * 2:
        return "only a duplicate has a document that was kept, and a similarity"
    if (row["bytes"] is None) != (stage == "extract") or (row["bytes"] or 0) < 0:
        return f"bytes is {row['bytes']}"
    match stage:
        case "extract":
            return None if reason in EXTRACT else "extract gives no such reason"
        case "filter":
            return wrong_reason(reason, row["detail"], parameters)
        case "tokenize":
            return None if reason == "mixture" else "tokenize gives no such reason"
    kept, similarity = row["kept"], row["similarity"]
    source = kept.partition("/")[0]
    least = round(parameters["near"]["min_similarity"], 6)
    if reason not in DEDUP:
        return "dedup gives no such reason"
    if not (similarity == 1 if reason == "exact_duplicate" else least <= similarity <= 1):
        return f"a similarity of {similarity} is none of a duplicate"
    if source not in priorities or (priorities[source], kept) >= (priorities[row["source"]], row["id"]):
        return f"{kept} does not take precedence over it"
    return None


def _priority(release: Release, source: str) -> int:
    return int(release.manifest(Fetched, source).parameters.to_json()["priority"])


def _named(release: Release, keys: Keys, what: str, column: str = "id") -> Iterator[str]:
    """A fault for each removal whose key in `column` is one of `keys`."""
    for removed in removals(release) if len(keys) else ():
        for batch in removed.batches(release, [column]):
            ids = batch.column(column).to_pylist()
            found = np.isin(keys_of(id or "" for id in ids), keys)
            yield from (f"{removed.path}: {ids[place]}: {what}" for place in np.flatnonzero(found).tolist())


def _cap(release: Release, source: str) -> Iterator[str]:
    """A cap removed exactly the documents with the largest hashes, as far as the rest holds at most `cap_bytes`."""
    manifest = release.manifest(Filtered, source)
    cap_bytes = manifest.parameters.to_json()["cap_bytes"]
    if cap_bytes is None:
        return
    last, first, first_bytes, over = -1, 1 << 64, 0, 0
    for removed in removals(release):
        if removed.manifest.stage == "extract" or removed.manifest.of not in (source, None):
            continue
        for batch in removed.batches(release, ["id", "source", "reason", "bytes"]):
            rows = [row for row in batch.to_pylist() if row["source"] == source]
            for row, hashed in zip(rows, id_hashes([row["id"] for row in rows], "cap"), strict=True):
                if row["reason"] == "cap" and hashed < first:
                    first, first_bytes = hashed, row["bytes"]
                elif row["reason"] not in ("cap", "license"):
                    last = max(last, hashed)
                over += row["bytes"] if row["reason"] in ("cap", "license") else 0
    for split in SPLITS:
        for batch in index_batches(release, split, ["id", "source"]):
            ids = [row["id"] for row in batch.to_pylist() if row["source"] == source]
            last = max([last, *id_hashes(ids, "cap")])
    admitted = release.manifest(Extracted, source).bytes - over
    if last >= first or admitted > cap_bytes or (first_bytes and admitted + first_bytes <= cap_bytes):
        yield f"{manifest.path}: cap_bytes: {cap_bytes:,} bytes, taken in the order of the hashes, give other removals"


def contamination_faults(release: Release) -> Iterator[str]:
    """Each removal for contamination that names no evaluation set, and each count of a set that they do not give."""
    known = release.manifest(EvaluationNgrams).sets
    for removed in removals(release):
        if not isinstance(removed.manifest, Filtered):
            continue
        found: Counter[str] = Counter()
        is_whole = True
        for batch in removed.batches(release, ["id", "reason", "detail"]):
            for row in batch.to_pylist():
                if row["reason"] == "contamination":
                    detail = row["detail"] or ""
                    named = {part.partition(" ")[0] for part in detail.split(", ")}
                    if detail.partition(" ")[0] not in known:
                        yield f"{removed.path}: {row['id']}: contamination: {detail} is not in an evaluation set"
                    is_whole &= named <= known.keys() and not detail.endswith(" more")
                    found.update(named)
        said = removed.manifest.counts_of("contamination")
        if is_whole and said != dict(found):
            yield f"{removed.manifest.path}: contamination counts {said}, {removed.path} gives {dict(found)}"
