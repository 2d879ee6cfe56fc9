"""The stage `tokenize` beside what people run instead, each as a whole job: documents on disk to ids on disk.

    python -m bench.tokenize_peers ORIGINALS/bin/python [PROJECT] [--amber SCRIPT] > peers.json

ORIGINALS is the environment of bench/originals.txt, PROJECT has gone as far as the stage `dedup`. All contenders read
the same documents (the peers as plain JSON lines, which is less work than our compressed shards) with the same
tokenizer, in one process with one thread, and take turns; seconds are of the processor, from the start of a process to
its end:

- `ours`: the stage, to rows, document index, order, and its comparison with the reference
- `datasets`: `load_dataset`, `map` in batches with the fast tokenizer of transformers, `to_json`
- `datatrove`: `JsonlReader` and `DocumentTokenizer`, to `.ds` and its index
- `amber`: the script `convert_dataset_hf_refinedpajama_json.py` of LLM360/amber-data-prep as it is, named by its path,
  to rows of 2,049 ids in JSON lines
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.turns import middle

# The peers have an environment of their own: what is ours is imported where it is used.
ROW, VOCABULARY = 2049, 2048
ALONE = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    from bench.tokenize import make_project, stage

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("originals", help="python with the peers")
    parser.add_argument("project", nargs="?", type=Path, default=Path())
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--amber", type=lambda path: Path(path).resolve())
    arguments = parser.parse_args()
    project = arguments.project.resolve()
    with tempfile.TemporaryDirectory(prefix="everystep-bench-") as name:
        scratch = Path(name)
        make_project(project, scratch / "ours", VOCABULARY, 1)
        stage(scratch / "ours", "tokenizer", 1)
        size = write_plain(scratch / "ours", scratch / "documents/docs")
        save_tokenizer(scratch / "ours/data/tokenizer/tokenizer.json", scratch / "tokenizer")
        peers = ["datasets", "datatrove", *(["amber"] if arguments.amber else [])]
        seconds: dict[str, list[float]] = {}
        for _ in range(arguments.turns):
            seconds.setdefault("ours", []).append(stage(scratch / "ours", "tokenize", 1)["cpu"])
            for peer in peers:
                seconds.setdefault(peer, []).append(whole(arguments.originals, peer, scratch, arguments.amber))
    report = {
        peer: {
            "cpu_seconds": middle(found),
            "megabytes_per_second": middle([size / each for each in found]),
            "times": middle([each / ours for each, ours in zip(found, seconds["ours"], strict=True)]),
        }
        for peer, found in seconds.items()
    }
    json.dump(
        {"megabytes": round(size, 1), "load": round(os.getloadavg()[0], 1), "turns": report}, sys.stdout, indent=1
    )
    print()


def write_plain(project: Path, folder: Path) -> float:
    """Write the documents of all shards as plain JSON lines; return the megabytes of their texts."""
    from bench.tokenize import DEDUPLICATED, shards
    from pipeline.formats.documents import decode_document
    from pipeline.formats.lines import LineFile

    folder.mkdir(parents=True)
    size = 0
    with (folder / "train.jsonl").open("wb") as file:
        for split in ("train", "validation"):
            for shard in shards(project, split):
                with LineFile(project / DEDUPLICATED / shard.path) as lines:
                    for line in lines:
                        size += len(decode_document(line, lines.path).text.encode())
                        file.write(line + b"\n")
    return size / 1e6


def save_tokenizer(path: Path, folder: Path) -> None:
    """Write a folder that `AutoTokenizer` reads."""
    folder.mkdir()
    shutil.copy(path, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


def whole(python: str, peer: str, scratch: Path, amber: Path | None) -> float:
    """Run a peer in a process of its own, from nothing; return its CPU seconds."""
    out = scratch / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    environment = os.environ | ALONE | {"HF_HOME": str(out / "cache")}
    command = [python, "-m", "bench.tokenize_peers", "--peer", peer, str(scratch), str(amber)]
    with (scratch / "messages").open("wb") as messages:
        process = subprocess.Popen(command, env=environment, stdout=messages, stderr=messages)
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((scratch / "messages").read_text()[-3000:])
    return used.ru_utime + used.ru_stime


def run_datasets(scratch: Path, _: Path) -> None:
    from datasets import load_dataset
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(scratch / "tokenizer/tokenizer.json"))
    documents = load_dataset("json", data_files=str(scratch / "documents/docs/train.jsonl"), split="train")

    def encode(batch: dict[str, Any]) -> dict[str, Any]:
        return {"token_ids": tokenizer(batch["text"], add_special_tokens=False)["input_ids"]}

    encoded = documents.map(encode, batched=True, remove_columns=documents.column_names)
    encoded.to_json(str(scratch / "out/ids.jsonl"))


def run_datatrove(scratch: Path, _: Path) -> None:
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    writer = DocumentTokenizer(
        str(scratch / "out/tokens"),
        str(scratch / "tokenizer/tokenizer.json"),
        eos_token="<|endoftext|>",  # noqa: S106
        shuffle_documents=False,
    )
    writer.run(JsonlReader(str(scratch / "documents/docs")).run(), 0, 1)


def run_amber(scratch: Path, script: Path) -> None:
    os.chdir(scratch / "out")
    Path("starcoder-lang.list").touch()
    spec = importlib.util.spec_from_file_location("amber", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.subfolders = ["docs"]  # type: ignore[attr-defined]
    module.main(
        argparse.Namespace(
            input_root=str(scratch / "documents"),
            out_root="rows",
            concat_tokens=ROW,
            tokenizer=str(scratch / "tokenizer"),
            bos_text="",
            eos_text="<|endoftext|>",
            no_wrap=False,
            num_workers=1,  # the least that it can do
        )
    )


PEERS = {"datasets": run_datasets, "datatrove": run_datatrove, "amber": run_amber}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        PEERS[sys.argv[2]](Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
