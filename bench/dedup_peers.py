"""The peers of deduplication as whole commands, at our parameters: 5 words a shingle, 14 bands of 8.

    PYTHON -m bench.dedup_peers datatrove|datatrove-spacy|rensa|rensa-signatures FOLDER OUT

FOLDER holds `.jsonl` files of documents. OUT gets `kept.txt`, the ids of what stays (not for bare signatures).
datatrove: reader, signatures, buckets, clusters, filter, writer; its word splitter is `\\w+` or, as it comes, spaCy's.
Imports nothing of ours, so that it runs in the peers' own environment too.
"""

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

WORDS, BANDS, ROWS = 5, 14, 8


def datatrove(folder: Path, out: Path, language: Any) -> None:
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig(n_grams=WORDS, num_buckets=BANDS, hashes_per_bucket=ROWS)
    num_files = len(list(folder.glob("*.jsonl")))
    sign = MinhashDedupSignature(str(out / "signatures"), config, language=language)
    for rank in range(num_files):
        sign.run(JsonlReader(str(folder)).run(rank=rank, world_size=num_files), rank, num_files)
    buckets = MinhashDedupBuckets(str(out / "signatures"), str(out / "buckets"), config=config)
    for rank in range(BANDS):
        buckets.run(None, rank, BANDS)
    MinhashDedupCluster(str(out / "buckets"), str(out / "remove"), config=config).run(None, 0, 1)
    with (out / "kept.txt").open("w") as kept:
        for rank in range(num_files):
            documents = JsonlReader(str(folder)).run(rank=rank, world_size=num_files)
            staying = MinhashDedupFilter(str(out / "remove")).run(documents, rank, num_files)
            for document in JsonlWriter(str(out / "documents"), compression=None).run(staying, rank, num_files):
                kept.write(f"{document.id}\n")


def split_by_expression() -> Any:
    from datatrove.utils.word_tokenizers import WordTokenizer

    class Words(WordTokenizer):  # type: ignore[misc]
        def word_tokenize(self, text: str) -> list[str]:
            return re.findall(r"\w+", text)

        def sent_tokenize(self, text: str) -> list[str]:
            raise NotImplementedError

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError

    return Words()


def rensa(folder: Path, out: Path, signatures_only: bool) -> None:
    import orjson
    from rensa import RMinHash, RMinHashLSH

    index = RMinHashLSH(threshold=0.8, num_perm=BANDS * ROWS, num_bands=BANDS)
    kept = []
    number = 0
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                document = orjson.loads(line)
                words = document["text"].lower().split()
                runs = {" ".join(words[i : i + WORDS]) for i in range(max(1, len(words) - WORDS + 1))}
                signature = RMinHash(num_perm=BANDS * ROWS, seed=1)
                signature.update(list(runs))
                if signatures_only:
                    signature.digest()
                    continue
                if not index.query(signature):
                    kept.append(document["id"])
                    index.insert(number, signature)
                    number += 1
    (out / "kept.txt").write_text("".join(f"{id}\n" for id in kept))


def main() -> None:
    method, folder, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    logging.disable()
    out.mkdir(parents=True, exist_ok=True)
    if method.startswith("datatrove"):
        datatrove(folder, out, "eng" if method == "datatrove-spacy" else split_by_expression())
    else:
        rensa(folder, out, method == "rensa-signatures")
    json.dump({"method": method}, sys.stdout)


if __name__ == "__main__":
    main()
