"""Tallies: documents, bytes and tokens, counted by document from the index and the removals, and what is said of them.

A document that a stage passed on is in the rows or was removed later, so the counts and the bytes of every stage add up
again, source by source, and so do the steps of the filter and the shards.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import accumulate

from pipeline.audit.recompute.columns import index_batches, keys_of, removals
from pipeline.audit.recompute.reasons import step_of
from pipeline.base.paths import REMOVALS_FILE
from pipeline.blocks.mixture import ONE, Wish, passes
from pipeline.formats.canonical import Json
from pipeline.formats.documents import DOCUMENTS_PER_SHARD, shard_name
from pipeline.formats.manifests import Deduplicated, Extracted, Filtered, Manifest, Tokens
from pipeline.formats.stages import output_folder
from pipeline.formats.tables import REMOVALS, column_batches
from pipeline.release.release import Release

AMOUNTS = ("documents", "bytes", "tokens")


class Amounts:
    """Documents, bytes and tokens by source and by licence."""

    def __init__(self) -> None:
        self.of: dict[str, Counter[str]] = {
            f"{what}_by_{by}": Counter() for what in AMOUNTS for by in ("source", "license")
        }

    def add(self, source: str, license: str, *amounts: int) -> None:
        """Count documents, bytes and tokens."""
        for what, amount in zip(AMOUNTS, amounts, strict=False):
            self.of[f"{what}_by_source"][source] += amount
            self.of[f"{what}_by_license"][license] += amount

    def by_source(self, what: str) -> Counter[str]:
        return self.of[f"{what}_by_source"]

    def to_json(self) -> dict[str, Json]:
        """The counts as a manifest has them."""
        totals = {what: self.by_source(what).total() for what in AMOUNTS}
        return totals | {key: dict(counts) for key, counts in self.of.items()}


def tally_faults(release: Release) -> Iterator[str]:
    """Each count that the documents do not give."""
    tokens, dedup = release.manifest(Tokens), release.manifest(Deduplicated)
    train, unique = _in_rows(release, "train")
    held_out, _ = _in_rows(release, "validation")
    yield from _differing(tokens, "splits.train.", tokens.splits.train.to_json(), train.to_json())
    yield from _differing(tokens, "splits.validation.", tokens.splits.validation.to_json(), held_out.to_json())
    lost = {removed.manifest.path: _removed(release, removed.manifest) for removed in removals(release)}
    left_out = lost.get(tokens.path, Amounts())
    available = tokens.available.to_json()
    if not left_out.by_source("documents"):
        yield from _differing(tokens, "available.", available, unique.to_json())
    passed_on = {what: held_out.by_source(what) + _sums(unique, left_out, what) for what in ("documents", "bytes")}
    found: dict[str, Json] = {
        "documents_by_source": dict(passed_on["documents"]),
        "documents_by_split": {
            "train": _sums(unique, left_out, "documents").total(),
            "validation": held_out.by_source("documents").total(),
        },
        "bytes": passed_on["bytes"].total(),
        "documents": passed_on["documents"].total(),
    }
    yield from _differing(dedup, "", dedup.to_json(), found)
    for what in ("documents", "bytes"):
        found = {what: _sums(unique, left_out, what).total(), f"{what}_by_source": dict(_sums(unique, left_out, what))}
        yield from _differing(tokens, "available.", available, found)
    for name in release.sources():
        given = {what: passed_on[what][name] + lost[dedup.path].by_source(what)[name] for what in passed_on}
        yield from _differing(release.manifest(Filtered, name), "", release.manifest(Filtered, name).to_json(), given)
        yield from _steps(release, name)
    yield from _passes(release, tokens)


def _in_rows(release: Release, split: str) -> tuple[Amounts, Amounts]:
    """Count the documents of a split: every copy, and each document once."""
    every, once = Amounts(), Amounts()
    seen: set[int] = set()
    for batch in index_batches(release, split, ["id", "source", "license", "bytes", "num_tokens"]):
        columns = [column.to_pylist() for column in batch.columns]
        for key, _, source, license, size, tokens in zip(keys_of(columns[0]).tolist(), *columns, strict=True):
            every.add(source, license, 1, size, tokens)
            if key not in seen:
                seen.add(key)
                once.add(source, license, 1, size, tokens)
    return every, once


def _removed(release: Release, manifest: Manifest) -> Amounts:
    found = Amounts()
    table = release.file(output_folder(manifest.stage, manifest.of) / REMOVALS_FILE)
    for batch in column_batches(table, REMOVALS, ["source", "bytes"]):
        for source, size in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            found.add(source, "", 1, size or 0)
    return found


def _sums(one: Amounts, other: Amounts, what: str) -> Counter[str]:
    return one.by_source(what) + other.by_source(what)


def _differing(manifest: Manifest, prefix: str, said: Mapping[str, Json], found: Mapping[str, Json]) -> Iterator[str]:
    for key, value in found.items():
        if said[key] != value:
            yield f"{manifest.path}: {prefix}{key} is {said[key]}, the documents give {value}"


def _steps(release: Release, name: str) -> Iterator[str]:
    """Each step was given what the one before it passed on, and its removals are those of its reasons."""
    filtered, extracted = release.manifest(Filtered, name), release.manifest(Extracted, name)
    steps = [tally.step for tally in filtered.steps]
    if steps != filtered.parameters.to_json()["steps"]:
        yield f"{filtered.path}: steps: are not those of its parameters"
        return
    before = sum(filtered.removed.get(reason, 0) for reason in ("license", "cap"))
    lost = [sum(tally.removed.values()) for tally in filtered.steps]
    expected = [extracted.documents - before - earlier for earlier in accumulate(lost, initial=0)]
    counted: Counter[str] = Counter()
    for tally, documents in zip(filtered.steps, expected, strict=False):
        if tally.documents != documents:
            yield f"{filtered.path}: steps: {tally.step}: documents is {tally.documents}, the others give {documents}"
        if foreign := sorted(reason for reason in tally.removed if step_of(reason) not in (tally.step, None)):
            yield f"{filtered.path}: steps: {tally.step}: removed lists {', '.join(foreign)}, of other steps"
        counted.update(tally.removed)
    if filtered.removed != counted + Counter({k: filtered.removed.get(k, 0) for k in ("license", "cap")}):
        yield f"{filtered.path}: removed is {dict(filtered.removed)}, its steps removed {dict(counted)}"
    yield from _shards(filtered, [shard.lines for shard in filtered.shards("documents")], filtered.documents)
    full, rest = divmod(extracted.documents, DOCUMENTS_PER_SHARD)
    lines = [shard.lines for shard in extracted.shards("documents")]
    yield from _shards(extracted, lines, extracted.documents)
    if lines != [DOCUMENTS_PER_SHARD] * full + [rest] * (rest > 0) or len(filtered.shards("documents")) != len(lines):
        yield f"{extracted.path}: outputs.documents: are not shards of {DOCUMENTS_PER_SHARD} documents"


def _shards(manifest: Manifest, lines: list[int], documents: int) -> Iterator[str]:
    names = [shard.path for shard in manifest.shards("documents")]
    if sum(lines) != documents or names != [shard_name(number) for number in range(len(names))]:
        yield f"{manifest.path}: outputs.documents: hold {sum(lines)} documents, documents is {documents}"


def _passes(release: Release, tokens: Tokens) -> Iterator[str]:
    """The passes over each source are those that `mixture` asks for."""
    wishes = tokens.parameters.to_json()["mixture"]["sources"]
    asked = {name: Wish(wish["share"], wish["epochs"]) for name, wish in wishes.items()}
    found = passes(dict.fromkeys(asked, 0) | dict(tokens.available.tokens_by_source), asked)
    if {name: value / ONE for name, value in found.items()} != tokens.passes:
        yield f"{tokens.path}: passes are {dict(tokens.passes)}, the mixture asks for others"
