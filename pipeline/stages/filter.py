"""Filter one source: cap it, clean each text, and drop what fails a rule, with the reason on record.

Reads `data/documents/SOURCE`, and `data/evaluation_ngrams` for the step `contamination`; writes
`data/filtered/SOURCE` (a shard for each shard, `removals.parquet` and `replaced.parquet`) and
`manifests/filtered/SOURCE.json`. In this order a document is

1. dropped unless `filter.licenses` satisfies its licence (reason `license`);
2. kept or dropped by the source's cap: documents in the order of a keyed hash of their id, until their bytes would
   exceed `cap_bytes` (reason `cap`);
3. taken through `filter.steps`, one after another, until one of them drops it; a blank text is dropped before any step
   (reason `empty`).

`filter.sources.NAME` changes single rules, or the list of steps, for one source. The build stops if all documents of a
source are dropped: otherwise a licence that is missing from the list would silently remove a corpus from a release.

A document on which a step fails is dropped too (reason `failed`): the detail names the step, the kind of error and the
line of code, but never the message, which may quote the text. The build stops if more than the source's
`max_failed_share` fail.

`replaced.parquet` lists each document in which the step `personal_data` replaced something, even if it is dropped
later, so that its columns sum up to the counts of that step. A worker writes both tables of its shard to
`.work/filter/SOURCE`; they are gathered in order.
"""

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from pipeline.base.console import progress
from pipeline.base.errors import ALWAYS_FATAL, EverystepError, error_site
from pipeline.base.files import fresh_folder
from pipeline.base.params import load_section, source_names
from pipeline.base.paths import DOCUMENTS, EVALUATION_NGRAMS, FILTERED, REMOVALS_FILE, REPLACED_FILE, WORK
from pipeline.base.spdx import License, is_satisfied
from pipeline.blocks.block import Block, Fault, Outcome, Rewritten
from pipeline.blocks.contamination import EvaluationIndex
from pipeline.blocks.steps import Steps, make_blocks
from pipeline.executor.ordered_map import ordered_map
from pipeline.formats.canonical import Json
from pipeline.formats.current import read_current, take_basis, write_manifest
from pipeline.formats.documents import Document, decode_document, encode_document, id_hash
from pipeline.formats.lines import Shard, promised_lines, write_lines
from pipeline.formats.manifests import EvaluationNgrams, Extracted, Filtered
from pipeline.formats.ngrams import read_ngrams
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import REMOVALS, REPLACED, check_table, removal, replacement, table_writer
from pipeline.sources.declaration import load_source
from pipeline.stages.removals import (
    gather_removals,
    gather_replaced,
    stop_if_nothing_stays,
    stop_if_too_many_failed,
)

SCRATCH = WORK / "filter"
EVERY_HASH = 2**64


class FilterParams(Steps):
    """Accepted licences, and the steps and rules for the documents of all sources or of one."""

    licenses: Annotated[list[License], Field(min_length=1)]
    sources: Annotated[dict[str, Steps], Field(default_factory=dict)]
    """Complete rules by name of a source; `params.yaml` has only those that differ."""

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, tree: Any) -> Any:
        if not isinstance(tree, dict) or not isinstance(tree.get("sources"), dict):
            return tree
        common = {key: value for key, value in tree.items() if key not in ("licenses", "sources")}
        return tree | {"sources": {name: _changed(common, own) for name, own in tree["sources"].items()}}

    def of_source(self, name: str) -> Steps:
        """Give the rules of one source."""
        for source in sorted(set(self.sources) - set(source_names())):
            raise EverystepError(f"params.yaml: filter.sources.{source}: not declared under sources")
        return self.sources.get(name, self)


class Job(NamedTuple):
    """Input that is the same for every shard of a source."""

    name: str
    languages: list[str]
    licenses: list[str]
    steps: Steps
    ngrams: tuple[int, str] | None = None
    """Words in an n-gram of the evaluation sets, and the digest of their table."""
    limit: int = EVERY_HASH


@dataclass
class Tally:
    """Counts of a step: documents it saw, rewrote, and dropped by reason, and its own counts."""

    documents: int = 0
    rewritten: int = 0
    removed: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        self.documents += other.documents
        self.rewritten += other.rewritten
        self.removed += other.removed
        self.counts += other.counts

    def to_json(self, step: str) -> Json:
        removed, counts = dict(self.removed), dict(self.counts)
        tree = {"step": step, "documents": self.documents, "rewritten": self.rewritten, "removed": removed}
        return tree | {"counts": counts}


class FilteredShard(NamedTuple):
    """Shard after the filter, the bytes of its texts, and the tally of each step."""

    shard: Shard
    bytes: int
    tallies: list[Tally]


def filter(name: str) -> None:
    """Filter the source `name`."""
    source = load_source(name)
    params = load_section(FilterParams, "filter")
    rules = params.of_source(name)
    folder = fresh_folder(FILTERED / name)
    fresh_folder(SCRATCH / name)
    upstream = [manifest_path("extract", name)]
    if "contamination" in rules.steps:
        upstream.append(manifest_path("evaluation_ngrams"))
    basis = take_basis(upstream, [f"sources.{name}", "filter"])
    extracted = read_current(Extracted, name).shards("documents")
    documents = sum(shard.lines for shard in extracted)
    job = Job(name, source.languages, params.licenses, rules)
    if "contamination" in rules.steps:
        hashed = read_current(EvaluationNgrams)
        table = hashed.shard("ngrams")
        check_table(EVALUATION_NGRAMS, table)
        job = job._replace(ngrams=(hashed.parameters.words, table.sha256))
    job = job._replace(limit=_cap_limit(job, extracted, source.cap_bytes))
    with progress(f"filter {name}", documents, "documents") as advance:
        tallies = [Tally() for _ in rules.steps]
        results = []
        for shard, result in zip(extracted, ordered_map(partial(_filter_shard, job=job), extracted), strict=True):
            results.append(result)
            for tally, more in zip(tallies, result.tallies, strict=True):
                tally.add(more)
            advance(shard.lines)
    removals = gather_removals((_scratch(name, shard, REMOVALS_FILE) for shard in extracted), folder)
    replaced = gather_replaced((_scratch(name, shard, REPLACED_FILE) for shard in extracted), folder)
    stop_if_too_many_failed(name, removals, tallies[0].documents, source.max_failed_share, folder)
    kept = sum(result.shard.lines for result in results)
    stop_if_nothing_stays(name, removals, kept, folder)
    write_manifest(
        Filtered,
        name,
        basis,
        parameters={
            "cap_bytes": source.cap_bytes,
            "languages": source.languages,
            **rules.model_dump(exclude={"sources"}),
            "licenses": params.licenses,
        },
        outputs={
            "documents": [result.shard for result in results],
            "removals": [removals.table],
            "replaced": [replaced],
        },
        documents=kept,
        bytes=sum(result.bytes for result in results),
        steps=[tally.to_json(step) for step, tally in zip(rules.steps, tallies, strict=True)],
        removed=removals.removed,
        removed_by_license=removals.by_license,
        examples=removals.examples,
    )
    shutil.rmtree(SCRATCH / name)


def _changed(common: dict[str, Any], own: Any) -> Any:
    """Replace rules for all sources by those of one source, key by key."""
    if not isinstance(own, dict):
        return own
    both = {key for key in own if isinstance(own[key], dict) and isinstance(common.get(key), dict)}
    return common | own | {key: common[key] | own[key] for key in both}


def _cap_limit(job: Job, shards: list[Shard], cap_bytes: int | None) -> int:
    """Find the smallest hash of which documents are dropped, so that those below it hold at most `cap_bytes`."""
    if cap_bytes is None:
        return EVERY_HASH
    sizes = []
    with progress(f"filter {job.name}: cap", sum(shard.lines for shard in shards), "documents") as advance:
        for shard, size in zip(shards, ordered_map(partial(_measure_shard, job=job), shards), strict=True):
            sizes.append(size)
            advance(shard.lines)
    measured = np.concatenate(sizes)
    measured = measured[np.argsort(measured["hash"], kind="stable")]
    over = np.flatnonzero(np.cumsum(measured["bytes"]) > cap_bytes)
    if len(over) and not over[0]:
        raise EverystepError(
            f"params.yaml: sources.{job.name}.cap_bytes: {cap_bytes:,} bytes is less than the "
            f"{measured['bytes'][0]:,} of the first document, so none would stay; raise it, or omit it to take all"
        )
    return int(measured["hash"][over[0]]) if len(over) else EVERY_HASH


def _measure_shard(shard: Shard, job: Job) -> np.ndarray[Any, Any]:
    """List (hash, bytes) of each document of a shard whose licence is accepted."""
    pairs = [
        (id_hash(document.id, "cap"), len(document.text.encode()))
        for line in promised_lines(DOCUMENTS / job.name, shard)
        if _is_licensed(document := decode_document(line, Path(shard.path)), job.licenses)
    ]
    return np.array(pairs, dtype=[("hash", np.uint64), ("bytes", np.int64)])


def _filter_shard(shard: Shard, job: Job) -> FilteredShard:
    kept_bytes = 0
    blocks = make_blocks(job.steps, job.languages, _index(*job.ngrams) if job.ngrams else None)
    tallies = [Tally() for _ in blocks]
    personal_data = dict(zip(job.steps.steps, tallies, strict=True)).get("personal_data", Tally())
    folder = DOCUMENTS / job.name
    with (
        table_writer(_scratch(job.name, shard, REMOVALS_FILE), REMOVALS) as remove,
        table_writer(_scratch(job.name, shard, REPLACED_FILE), REPLACED) as note_replaced,
    ):

        def kept() -> Iterator[bytes]:
            nonlocal kept_bytes
            for line in promised_lines(folder, shard):
                document = decode_document(line, folder / shard.path)
                before = personal_data.counts.copy()
                result = _admit(document, job) or clean(document.text, blocks, tallies)
                if replaced := personal_data.counts - before:
                    note_replaced(replacement(job.name, document.id, replaced))
                if isinstance(result, Fault):
                    size = len(document.text.encode())
                    remove(removal("filter", job.name, document.id, result.reason, detail=result.detail, bytes=size))
                    continue
                kept_bytes += len(result.encode())
                yield line + b"\n" if result == document.text else encode_document(document.with_text(result))

        written = write_lines(FILTERED / job.name / shard.path, kept(), shard.path)
    return FilteredShard(written, kept_bytes, tallies)


def _scratch(name: str, shard: Shard, table: str) -> Path:
    """Name the file of a table of one shard, until it is gathered."""
    return SCRATCH / name / f"{shard.path}.{table}"


def _admit(document: Document, job: Job) -> Fault | None:
    """Judge what is known without reading the text."""
    if not _is_licensed(document, job.licenses):
        return Fault("license", document.license)
    return Fault("cap") if job.limit < EVERY_HASH and id_hash(document.id, "cap") >= job.limit else None


def clean(text: str, blocks: Sequence[tuple[str, Block]], tallies: list[Tally]) -> str | Fault:
    """Return the text after all blocks, or the first fault; update `tallies`, one for each block."""
    for (step, block), tally in zip(blocks, tallies, strict=True):
        tally.documents += 1
        outcome = _tried(step, block, text)
        if outcome:
            tally.counts.update(outcome.counts)
        if isinstance(outcome, Rewritten):
            tally.rewritten += 1
            text = outcome.text
            outcome = Fault("empty") if _is_blank(text) else None
        if outcome:
            tally.removed[outcome.reason] += 1
            return outcome
    return text


def _tried(step: str, block: Block, text: str) -> Outcome:
    if _is_blank(text):
        return Fault("empty")
    try:
        return block(text)
    except ALWAYS_FATAL:
        raise
    except Exception as error:
        return Fault("failed", f"{step}: {error_site(error)}")


def _is_blank(text: str) -> bool:
    return not text or text.isspace()


def _is_licensed(document: Document, allowed: list[str]) -> bool:
    return _is_allowed(document.license, tuple(allowed))


@lru_cache(1 << 10)  # a source has few licences
def _is_allowed(license: str, allowed: tuple[str, ...]) -> bool:
    try:
        return is_satisfied(license, allowed)
    except ValueError:  # in a document that others extracted
        return False


@cache
def _index(words: int, _sha256: str) -> EvaluationIndex:
    """Read the n-grams, once per process; the digest distinguishes tables."""
    return EvaluationIndex(words, *read_ngrams(EVALUATION_NGRAMS))
