"""Encoded: how many documents of each source `tokenize` compared with its reference, and how many it cut and filled.

The first documents of a source in the order of the hashes of ids are compared, and the longest.
"""

from collections import Counter
from collections.abc import Iterator

from pipeline.audit.recompute.columns import index_batches, removals
from pipeline.base.paths import SPLITS
from pipeline.blocks.fill_in_the_middle import Filling
from pipeline.formats.documents import id_hashes
from pipeline.formats.manifests import Deduplicated, Tokens
from pipeline.release.release import Release


def encoded_faults(release: Release) -> Iterator[str]:
    """Each of these counts that the index does not give."""
    tokens = release.manifest(Tokens)
    parameters = tokens.parameters.to_json()
    for split, said in zip(SPLITS, (tokens.splits.train, tokens.splits.validation), strict=True):
        found = _compared(release, split, parameters["checked_documents"])
        if said.compared_documents != found:
            yield f"{tokens.path}: splits.{split}.compared_documents is {said.compared_documents}, expected {found}"
    filled = _filled(release, tokens)
    if tokens.filled_documents_by_source != filled:
        yield f"{tokens.path}: filled_documents_by_source is {tokens.filled_documents_by_source}, expected {filled}"


def _compared(release: Release, split: str, most: int) -> dict[str, int]:
    """Count the first documents of each source, and its longest unless it is one of them."""
    seed = release.manifest(Deduplicated).parameters.seed
    seen: dict[str, list[tuple[int, int]]] = {}
    tables = [index_batches(release, split, ["id", "source", "bytes"])]
    if split == "train":
        mixed = [removed for removed in removals(release) if removed.manifest.stage == "tokenize"]
        tables += [removed.batches(release, ["id", "source", "bytes"]) for removed in mixed]
    for batches in tables:
        for batch in batches:
            ids, sources, sizes = (column.to_pylist() for column in batch.columns)
            for hashed, source, size in zip(id_hashes(ids, "shuffle", seed), sources, sizes, strict=True):
                seen.setdefault(source, []).append((hashed, size))
    found = {}
    for source, documents in sorted(seen.items()):
        ordered = [size for _, size in sorted({*documents})]
        found[source] = min(most, len(ordered)) + (ordered.index(max(ordered)) >= most)
    return found


def _filled(release: Release, tokens: Tokens) -> dict[str, int] | None:
    """Count the training documents whose middle was moved to their end; each copy counts."""
    rule = tokens.parameters.to_json().get("fill_in_the_middle")
    if rule is None:
        return None
    filling = Filling(rule["share"], rule["suffix_first_share"], tokens.parameters.seed)
    found: Counter[str] = Counter()
    for batch in index_batches(release, "train", ["id", "source"]):
        ids, sources = (column.to_pylist() for column in batch.columns)
        found.update(source for id, source in zip(ids, sources, strict=True) if filling.chooses(id))
    return dict(sorted(found.items()))
