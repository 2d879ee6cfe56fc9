"""What each step of the filter costs on the documents of a project.

    python -m bench.steps [SOURCE ...] > steps.json

Run it in a project whose sources are extracted; without SOURCE, all of `params.yaml`. About `SAMPLE_BYTES` of each, by
the hash of their ids, go through the steps of `params.yaml`, one after another until one drops them. Seconds are of the
processor.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.base.params import load_section, source_names
from pipeline.base.paths import DOCUMENTS, EVALUATION_NGRAMS
from pipeline.blocks.block import Fault, Rewritten
from pipeline.blocks.contamination import EvaluationIndex
from pipeline.blocks.steps import make_blocks
from pipeline.formats.documents import decode_document, encode_document, id_hash, read_documents
from pipeline.formats.ngrams import read_ngrams
from pipeline.sources.declaration import load_source
from pipeline.stages.filter import FilterParams

SAMPLE_BYTES = 3_000_000
WARM = "Words that are enough to load what a step loads when it is first called.\n" * 3


def main() -> None:
    params = load_section(FilterParams, "filter")
    index = EvaluationIndex(13, *read_ngrams(EVALUATION_NGRAMS))
    found = {name: measure(name, params, index) for name in sys.argv[1:] or source_names()}
    print(json.dumps(found, indent=1))


def measure(name: str, params: FilterParams, index: EvaluationIndex) -> dict[str, Any]:
    lines = sample(name)
    blocks = make_blocks(params, load_source(name).languages, index)
    for _, block in blocks:
        block(WARM)
    seconds: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    texts = [timed(seconds, "read", lambda line: decode_document(line, Path(name)), line).text for line in lines]
    for text in texts:
        for step, block in blocks:
            seen[step] += 1
            outcome = timed(seconds, step, block, text)
            if isinstance(outcome, Rewritten):
                text = outcome.text
            if isinstance(outcome, Fault):
                break
    size = sum(len(text.encode()) for text in texts) / 1e6
    return {
        "documents": dict(seen),
        "megabytes": round(size, 2),
        "seconds": {step: round(spent, 2) for step, spent in seconds.most_common()},
        "megabytes_per_second": round(size / seconds.total(), 2),
    }


def timed(seconds: Counter[str], what: str, function: Callable[[Any], Any], given: Any) -> Any:
    began = time.process_time()
    result = function(given)
    seconds[what] += time.process_time() - began  # type: ignore[assignment]
    return result


def sample(name: str) -> list[bytes]:
    """Lines of documents."""
    paths = sorted((DOCUMENTS / name).glob("*.jsonl.zst"))
    documents = [document for path in paths for document in read_documents(path)]
    documents.sort(key=lambda document: id_hash(document.id, "bench"))
    taken: list[bytes] = []
    size = 0
    for document in documents:
        if size < SAMPLE_BYTES:
            taken.append(encode_document(document))
            size += len(document.text.encode())
    return taken


if __name__ == "__main__":
    main()
