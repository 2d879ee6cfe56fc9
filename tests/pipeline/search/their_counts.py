"""A program for infini-gram's own environment: counts in an index of these rows, each row a document.

python their_counts.py build FOLDER      FOLDER/rows.npy becomes an index
python their_counts.py count FOLDER      stdin: JSON lists of ids; stdout: their counts, and the seconds of each
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SEPARATOR = 0xFFFF
"""What infini-gram writes before each document, so no vocabulary may have it."""


def build(folder: Path) -> None:
    """Write what its first step writes from texts, which knows three tokenizers only; then run the others."""
    rows = np.load(folder / "rows.npy")
    documents = np.full((len(rows), rows.shape[1] + 1), SEPARATOR, dtype="<u2")
    documents[:, 1:] = rows
    documents.tofile(folder / "tokenized.0")
    (np.arange(len(rows), dtype="<u8") * documents.shape[1] * 2).tofile(folder / "offset.0")
    (folder / "texts").mkdir()
    command = ["--data_dir", folder / "texts", "--save_dir", folder, "--token_dtype", "u16", "--mem", "4"]
    command += ["--cpus", "1", "--ulimit", "1024"]
    subprocess.run([sys.executable, "-m", "infini_gram.indexing", *map(str, command)], check=True)


def count(folder: Path) -> None:
    from infini_gram.engine import InfiniGramEngine

    engine = InfiniGramEngine(index_dir=str(folder), eos_token_id=0, token_dtype="u16")
    found, seconds = [], []
    for ids in json.load(sys.stdin):
        begun = time.perf_counter()
        found.append(engine.count(input_ids=ids)["count"])
        seconds.append(time.perf_counter() - begun)
    json.dump({"counts": found, "seconds": seconds}, sys.stdout)


if __name__ == "__main__":
    {"build": build, "count": count}[sys.argv[1]](Path(sys.argv[2]))
