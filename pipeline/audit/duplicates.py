"""Duplicates: which texts were taken for the same, in clusters around the document that was kept; and the two texts.

Clusters come from the published record of removals. The texts are in a project that built them: there a removal is
measured once more, on words, by another rule than the one that removed it (sets of words, not of hashes).
"""

from dataclasses import dataclass
from difflib import unified_diff
from typing import Any

import pyarrow.compute as pc

from pipeline.base.errors import EverystepError, well_shaped
from pipeline.base.files import plain_name
from pipeline.base.paths import DEDUPLICATED, FILTERED, REMOVALS_FILE
from pipeline.formats.documents import read_documents
from pipeline.formats.manifests import Deduplicated
from pipeline.formats.tables import REMOVALS, read_table
from pipeline.release.release import Release

TABLE = DEDUPLICATED / REMOVALS_FILE


@dataclass(frozen=True)
class Cluster:
    """Documents removed for one that was kept; similarities are of each with that."""

    kept: str
    exact: int
    near: int
    least_similar: float
    sources: list[str]
    examples: list[str]


@dataclass(frozen=True)
class Comparison:
    """A removed document beside the one that was kept; `measured` now, `recorded` by the build."""

    removed: str
    kept: str
    recorded: float
    measured: float
    difference: list[str]


def clusters(release: Release) -> list[Cluster]:
    """All clusters of a release or a project, the largest first."""
    table = read_table(release.file(TABLE), REMOVALS)
    with well_shaped(release.folder / TABLE):
        return _clusters(table)


def _clusters(table: Any) -> list[Cluster]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in table.select(["id", "source", "reason", "kept", "similarity"]).to_pylist():
        groups.setdefault(row["kept"], []).append(row)
    found = [
        Cluster(
            kept=kept,
            exact=sum(row["reason"] == "exact_duplicate" for row in rows),
            near=sum(row["reason"] == "near_duplicate" for row in rows),
            least_similar=min(row["similarity"] for row in rows),
            sources=sorted({row["source"] for row in rows} | {kept.partition("/")[0]}),
            examples=sorted(row["id"] for row in rows)[:3],
        )
        for kept, rows in groups.items()
    ]
    return sorted(found, key=lambda cluster: (-cluster.exact - cluster.near, cluster.kept))


def compare(project: Release, id: str) -> Comparison:
    """Measure the removal of the document `id` again, on the texts that `data/filtered` of a project holds."""
    table = read_table(project.file(TABLE), REMOVALS)
    rows = table.filter(pc.equal(table["id"], id)).to_pylist()
    if not rows:
        raise EverystepError(f"{project.folder / TABLE}: {id} was not removed as a duplicate")
    kept = rows[0]["kept"]
    size = project.manifest(Deduplicated).parameters.near.shingle_words
    removed_text, kept_text = _text(project, id), _text(project, kept)
    return Comparison(
        removed=id,
        kept=kept,
        recorded=rows[0]["similarity"],
        measured=similarity(removed_text, kept_text, size),
        difference=list(unified_diff(kept_text.split("\n"), removed_text.split("\n"), kept, id, lineterm="", n=1)),
    )


def similarity(left: str, right: str, size: int) -> float:
    """Jaccard similarity of the sets of runs of `size` words, from the definition; six digits."""
    one, other = (_runs(text.lower().split(), size) for text in (left, right))
    return round(len(one & other) / len(one | other), 6)


def _runs(words: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(max(1, len(words) - size + 1))}


def _text(project: Release, id: str) -> str:
    source = plain_name(id.partition("/")[0], f"{TABLE}: {id}")
    for path in project.files:
        if path.startswith(f"{(FILTERED / source).as_posix()}/") and path.endswith(".jsonl.zst"):
            for document in read_documents(project.file(path)):
                if document.id == id:
                    return document.text
    where = project.folder / FILTERED / source
    raise EverystepError(f"{where}: {id} is not there; texts are compared where they were built")
