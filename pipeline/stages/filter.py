"""Filter one source: cap it, clean each text, and drop what fails a rule, with the reason on record.

Reads `data/documents/SOURCE`; writes `data/filtered/SOURCE` (a shard for each shard, and
`removals.parquet`) and `manifests/filtered/SOURCE.json`. In this order a document is

1. kept or dropped by the source's cap: documents in the order of a keyed hash of their id, until the
   bytes would exceed `cap_bytes` (reason `cap`);
2. normalized; 3. judged by the quality rules; 4. judged by language.
"""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from pipeline.blocks.language import identify
from pipeline.blocks.normalize import normalize
from pipeline.blocks.quality import QualityRules, quality_fault
from pipeline.console import progress, run_command
from pipeline.formats.documents import Document, id_hash, read_documents, write_documents
from pipeline.formats.files import fresh_folder
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import manifest_path, read_manifest, shards_of, write_manifest
from pipeline.formats.project import DOCUMENTS, FILTERED, REMOVALS_FILE
from pipeline.formats.tables import REMOVALS, removal, write_table
from pipeline.formats.yaml import Section
from pipeline.stages.parallel import ordered_map
from pipeline.stages.params import Share, load_section, load_source

EXAMPLES = 3  # ids a reason that a manifest lists
EVERY_HASH = 2**64


class FilterParams(Section):
    """How documents are cleaned and judged."""

    quality: QualityRules
    min_language_probability: Share


class Judged(NamedTuple):
    """What became of one shard."""

    shard: Shard
    removals: list[dict[str, Any]]
    bytes: int
    repaired: int


def filter(name: str) -> None:
    """Filter the source `name`."""
    source = load_source(name)
    params = load_section(FilterParams, "filter")
    folder = fresh_folder(FILTERED / name)
    upstream = manifest_path("extract", name)
    shards = [shard.path for shard in shards_of(read_manifest(upstream, "extract"), "documents")]
    with progress(f"filter {name}", len(shards), "shards") as advance:
        limit = _cap_limit(name, shards, source.cap_bytes)
        judge = partial(_judge_shard, name=name, languages=source.languages, params=params, limit=limit)
        judged = []
        for result in ordered_map(judge, shards):
            judged.append(result)
            advance(1)
    removals = [row for result in judged for row in result.removals]
    table = write_table(folder / REMOVALS_FILE, removals, REMOVALS, REMOVALS_FILE)
    write_manifest(
        "filter",
        name,
        inputs=[upstream],
        parameters={"cap_bytes": source.cap_bytes, "languages": source.languages, **params.model_dump()},
        outputs={"documents": [result.shard for result in judged], "removals": [table]},
        documents=sum(result.shard.lines for result in judged),
        bytes=sum(result.bytes for result in judged),
        normalized=sum(result.repaired for result in judged),
        removed=dict(Counter(row["reason"] for row in removals)),
        examples=_examples(removals),
    )


def _cap_limit(name: str, shards: list[str], cap_bytes: int | None) -> int:
    """The hash from which on documents are dropped, so that those below it hold at most `cap_bytes`."""
    if cap_bytes is None:
        return EVERY_HASH
    measured = np.concatenate(list(ordered_map(partial(_measure_shard, name=name), shards)))
    measured = measured[np.argsort(measured["hash"], kind="stable")]
    over = np.flatnonzero(np.cumsum(measured["bytes"]) > cap_bytes)
    return int(measured["hash"][over[0]]) if len(over) else EVERY_HASH


def _measure_shard(shard: str, name: str) -> np.ndarray[Any, Any]:
    """(hash, bytes) of each document of a shard."""
    pairs = [(id_hash(d.id, "cap"), len(d.text.encode())) for d in read_documents(DOCUMENTS / name / shard)]
    return np.array(pairs, dtype=[("hash", np.uint64), ("bytes", np.int64)])


def _judge_shard(shard: str, name: str, languages: list[str], params: FilterParams, limit: int) -> Judged:
    removals: list[dict[str, Any]] = []
    kept_bytes = repaired = 0

    def kept() -> Iterator[Document]:
        nonlocal kept_bytes, repaired
        for document in read_documents(DOCUMENTS / name / shard):
            size = len(document.text.encode())
            if id_hash(document.id, "cap") >= limit:
                removals.append(removal("filter", name, document.id, "cap", bytes=size))
                continue
            text = normalize(document.text)
            fault = quality_fault(text, params.quality) or _language_fault(text, languages, params)
            if fault:
                removals.append(removal("filter", name, document.id, fault[0], detail=fault[1], bytes=size))
                continue
            kept_bytes += len(text.encode())
            repaired += text != document.text
            yield document if text == document.text else document.with_text(text)

    written = write_documents(FILTERED / name / shard, kept(), shard)
    return Judged(written, removals, kept_bytes, repaired)


def _language_fault(text: str, languages: list[str], params: FilterParams) -> tuple[str, str] | None:
    language, probability = identify(text)
    if language in languages and probability >= params.min_language_probability:
        return None
    return "language", f"{language} {probability:.3f}"


def _examples(removals: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The first few ids of each reason."""
    examples: dict[str, list[str]] = {}
    for row in removals:
        ids = examples.setdefault(row["reason"], [])
        if len(ids) < EXAMPLES:
            ids.append(row["id"])
    return examples


if __name__ == "__main__":
    run_command(filter, "SOURCE")
