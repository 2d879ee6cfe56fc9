"""Do the published rules decide as the original does when words are split by us, and what does it cost?

    python -m bench.filters ORIGINALS/bin/python [SOURCE ...]

ORIGINALS is the environment of bench/originals.txt. Run it in a project whose sources are extracted
(`dvc repro extract`); without SOURCE, all of `params.yaml`. For each source, `SAMPLE` documents in the order of a hash
of their ids, normalized, go through datatrove's four filters with their published thresholds: once with spaCy's words,
once with ours. Both sides take turns, a batch each; seconds are of the processor.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from bench.originals import FILTERS, judge, make_filters
from pipeline.base.params import source_names
from pipeline.base.paths import DOCUMENTS
from pipeline.blocks.normalize import normalize
from pipeline.blocks.quality import plain_words
from pipeline.formats.documents import id_hash, read_documents

SAMPLE, BATCH = 2000, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("originals", help="the python of the environment with spaCy")
    parser.add_argument("sources", nargs="*")
    arguments = parser.parse_args()
    command = [arguments.originals, str(Path(__file__).parent / "originals.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as original:
        found = {name: compare(sample(name), original) for name in arguments.sources or source_names()}
    print(json.dumps(found, indent=1, sort_keys=True))


def sample(source: str) -> list[str]:
    """Texts that are not blank, of the smallest hashes."""
    paths = sorted((DOCUMENTS / source).glob("*.jsonl.zst"))
    documents = [document for path in paths for document in read_documents(path)]
    documents.sort(key=lambda document: id_hash(document.id, "bench"))
    return [text for text in (normalize(document.text) for document in documents[:SAMPLE]) if text]


def compare(texts: list[str], original: Any) -> dict[str, Any]:
    """Agreement of verdicts and reasons, and megabytes a CPU second of words and of each filter."""
    language = plain_words()
    filters = make_filters(language)
    judge(texts[:1], filters, language)
    equal: dict[str, Counter[str]] = {name: Counter() for name in FILTERS}
    seconds = {side: Counter[str]() for side in ("original", "ours")}
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        ours = judge(batch, filters, language)
        theirs = _ask(original, batch)
        for side, answer in (("original", theirs), ("ours", ours)):
            seconds[side].update(answer["seconds"])
        for one, other in zip(ours["verdicts"], theirs["verdicts"], strict=True):
            for name in FILTERS:
                equal[name]["kept_by_original"] += other[name] is None
                equal[name]["same_verdict"] += (one[name] is None) == (other[name] is None)
                equal[name]["same_reason"] += one[name] == other[name]
    size = sum(len(text.encode()) for text in texts) / 1e6
    rules = [name for name in FILTERS if name != "c4"]  # C4 splits sentences by itself
    return {
        "documents": len(texts),
        "megabytes": round(size, 2),
        "agreement": {name: dict(counts) for name, counts in equal.items()},
        "megabytes_per_second": {
            side: {name: round(size / spent, 2) for name, spent in times.items()} for side, times in seconds.items()
        },
        "words_as_share_of_words_and_rules": {
            side: round(times["words"] / (times["words"] + sum(times[name] for name in rules)), 3)
            for side, times in seconds.items()
        },
        "words_times_as_fast": round(seconds["original"]["words"] / seconds["ours"]["words"], 1),
    }


def _ask(original: Any, texts: list[str]) -> dict[str, Any]:
    print(json.dumps(texts), file=original.stdin, flush=True)
    answer = original.stdout.readline()
    if not answer:
        sys.exit("the original's side ended; its message stands above")
    tree: dict[str, Any] = json.loads(answer)
    return tree


if __name__ == "__main__":
    main()
