"""Deduplication against datatrove and rensa: speed, recall and precision, in one run.

    python -m bench.dedup [--megabytes 30] [--turns 3] [--spacy PYTHON] > dedup.json

Start it from a project whose sources are extracted. The documents: the API pages of the default release, and near
duplicates planted among them (1, 5, 10, 20, 40 % of the words replaced). Ours is the stage `dedup` as it stands, from
document shards to shuffled document shards with evidence, one worker. A contender's run waits while another's is
made; seconds are of the processor, of the whole process with its start; `spacy` gets the first tenth of the text.

Recall and precision are against exhaustive comparison: every pair of a sample of documents is measured on its words.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from bench.corpora import PLANTED, planted, some
from pipeline.base.paths import FILTERED
from pipeline.base.yaml import load_yaml
from pipeline.blocks.shingles import fold_all, shingle_sets, similarity
from pipeline.formats.canonical import pretty
from pipeline.formats.documents import Document, encode_document
from pipeline.formats.manifests import Filtered
from tests.shards import write_sharded
from tests.stubs import write_stub

SOURCES = ("aws-api", "google-api")
SIMILAR = 0.8
SAMPLE = 4000
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=30)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--spacy", help="the python of an environment with datatrove and spaCy")
    arguments = parser.parse_args()
    originals = some(arguments.megabytes, *SOURCES)
    documents = sorted(originals + planted(originals, every=20), key=lambda document: document.id)
    tree = load_yaml(Path("params.yaml"))
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        folder = Path(name)
        commands = contenders(folder, documents, tree, arguments.spacy)
        seconds: dict[str, list[float]] = {key: [] for key in commands}
        for _ in range(arguments.turns):
            for key, (command, where) in commands.items():
                seconds[key].append(cpu_seconds(command, where))
        removed = {key: removed_by(key, folder, documents) for key in commands if key != "rensa-signatures"}
    whole = {key: gone for key, gone in removed.items() if key != "datatrove-spacy"}
    report = {
        "documents": len(documents),
        "megabytes": round(megabytes(documents), 1),
        "megabytes_per_cpu_second": {
            key: round(megabytes(share_of(key, documents)) / statistics.median(spent), 2)
            for key, spent in seconds.items()
        },
        "times_as_fast_as_datatrove": {key: round(rate_ratio(key, seconds, documents), 1) for key in seconds},
        "planted": planted_pairs(documents, whole),
        "against_every_pair": every_pair(documents, runs_of_ten(documents), whole),
    }
    json.dump(report, sys.stdout, indent=1)
    print()


def contenders(
    folder: Path, documents: list[Document], tree: Any, spacy: str | None
) -> dict[str, tuple[list[str], Path]]:
    """name -> (command, where it is started); what they read is written into `folder`."""
    ours = folder / "everystep"
    for part in ("pipeline",):
        shutil.copytree(ROOT / part, ours / part)
    tree["sources"] = {name: source for name, source in tree["sources"].items() if name in SOURCES}
    tree["dedup"]["max_removed_share"] = 1.0
    (ours / "params.yaml").write_bytes(pretty(tree))
    here = Path.cwd()
    os.chdir(ours)
    for source in SOURCES:
        shards = write_sharded(FILTERED / source, (d for d in documents if d.source == source))
        write_stub(Filtered, source, outputs={"documents": shards})
    os.chdir(here)
    plain = folder / "plain"
    commands = {"everystep": ([sys.executable, "-m", "pipeline.stages", "dedup"], ours)}
    write_plain(plain, documents)
    for peer in ("datatrove", "rensa", "rensa-signatures"):
        commands[peer] = ([sys.executable, "-m", "bench.dedup_peers", peer, str(plain), str(folder / peer)], ROOT)
    if spacy:
        write_plain(folder / "tenth", share_of("datatrove-spacy", documents))
        name = "datatrove-spacy"
        commands[name] = ([spacy, "-m", "bench.dedup_peers", name, str(folder / "tenth"), str(folder / name)], ROOT)
    return commands


def share_of(key: str, documents: list[Document]) -> list[Document]:
    return documents[: len(documents) // 10] if key == "datatrove-spacy" else documents


def write_plain(folder: Path, documents: list[Document]) -> None:
    folder.mkdir(parents=True)
    for number in range(0, len(documents), 8192):
        lines = map(encode_document, documents[number : number + 8192])
        (folder / f"{number:06d}.jsonl").write_bytes(b"".join(lines))


def cpu_seconds(command: list[str], where: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    one = {"EVERYSTEP_WORKERS": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, cwd=where, env=os.environ | one, check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def rate_ratio(key: str, seconds: dict[str, list[float]], documents: list[Document]) -> float:
    """The median over turns, at equal bytes."""
    work = megabytes(share_of(key, documents)) / megabytes(documents)
    return statistics.median(peer / own * work for own, peer in zip(seconds[key], seconds["datatrove"], strict=True))


def megabytes(documents: list[Document]) -> float:
    return sum(len(document.text.encode()) for document in documents) / 1e6


def removed_by(key: str, folder: Path, documents: list[Document]) -> set[str]:
    if key == "everystep":
        table = pq.read_table(folder / key / "data/deduplicated/removals.parquet")
        return set(table["id"].to_pylist())
    kept = set((folder / key / "kept.txt").read_text().splitlines())
    return {document.id for document in share_of(key, documents)} - kept


def planted_pairs(documents: list[Document], removed: dict[str, set[str]]) -> dict[str, Any]:
    """By the percentage of words replaced: how many pairs, how many of them similar, and of how many one fell."""
    texts = {document.id: document.text for document in documents}
    found = {}
    for percent in PLANTED:
        mark = f"/planted-{percent}/"
        pairs = [(id, id.partition(mark)[2]) for id in texts if mark in id]
        measured = [similarity(*sets_of([texts[id] for id in pair])) for pair in pairs]
        similar = [pair for pair, value in zip(pairs, measured, strict=True) if value >= SIMILAR]
        others = [pair for pair in pairs if pair not in set(similar)]
        found[f"{percent} %"] = {
            "pairs": len(pairs),
            "median_similarity": round(statistics.median(measured), 3),
            "similar": len(similar),
            "of_similar_one_fell": {key: share_hit(gone, similar) for key, gone in removed.items()},
            "of_others_one_fell": {key: share_hit(gone, others) for key, gone in removed.items()},
        }
    return found


def share_hit(removed: set[str], pairs: list[tuple[str, str]]) -> float | None:
    return round(statistics.mean(bool(removed & set(pair)) for pair in pairs), 4) if pairs else None


def sets_of(texts: list[str]) -> list[Any]:
    sets, stops = shingle_sets(fold_all(texts), 5)
    return np.split(sets, stops[:-1])


def runs_of_ten(documents: list[Document]) -> list[Document]:
    """A sample in runs of ten neighbours, among whom near duplicates are."""
    step = 10 * max(1, len(documents) // SAMPLE)
    return [document for start in range(0, len(documents), step) for document in documents[start : start + 10]]


def every_pair(documents: list[Document], sample: list[Document], removed: dict[str, set[str]]) -> dict[str, Any]:
    """Every pair of a sample, measured on its words.

    Recall: of the similar pairs, of how many one fell. Precision: of 200 documents that fell, how many have a similar
    one among all documents (each is compared with all).
    """
    each = sets_of([document.text for document in sample])
    similar = [
        (sample[i].id, sample[j].id)
        for i in range(len(sample))
        for j in similar_to(each[i], each, np.array([len(other) for other in each]))
        if i < j
    ]
    all_sets = sets_of([document.text for document in documents])
    sizes = np.array([len(each) for each in all_sets])

    def precision(gone: set[str]) -> float:
        fallen = [number for number, document in enumerate(documents) if document.id in gone]
        chosen = fallen[:: max(1, len(fallen) // 200)]
        return round(statistics.mean(len(similar_to(all_sets[i], all_sets, sizes)) > 1 for i in chosen), 4)

    return {
        "documents": len(sample),
        "pairs": len(sample) * (len(sample) - 1) // 2,
        "similar_pairs": len(similar),
        "recall": {key: share_hit(gone, similar) for key, gone in removed.items()},
        "precision": {key: precision(gone) for key, gone in removed.items()},
    }


def similar_to(one: Any, others: list[Any], sizes: Any) -> list[int]:
    """Which of the sets are similar to one of them; those whose sizes alone rule it out are not compared."""
    possible = np.flatnonzero(np.minimum(sizes, len(one)) >= SIMILAR * np.maximum(sizes, len(one)))
    return [int(j) for j in possible if similarity(one, others[j]) >= SIMILAR]


if __name__ == "__main__":
    main()
