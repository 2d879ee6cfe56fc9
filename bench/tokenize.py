"""The stage `tokenize` against `tokenizers.encode_batch_fast` alone, on the documents of a built project.

    python -m bench.tokenize [PROJECT] [VOCABULARY ...] > tokenize.json

PROJECT has gone as far as the stage `dedup`. For each vocabulary a tokenizer is trained by our own stage; then the two
take turns: the whole stage, from shards of documents to written rows, index and order, every process of it counted
from its start to its end; and `encode_batch_fast` in one thread on the documents of every tenth shard, its results
dropped. Rates are of text per second of CPU. `steady` is the rate of the documents that the whole stage reads beyond
the first tenth of the shards: what is left when the fixed costs (imports, the comparison with the reference) are paid.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.turns import middle
from pipeline.base.files import sha256_file
from pipeline.base.yaml import load_yaml
from pipeline.formats.canonical import pretty
from pipeline.formats.documents import read_documents
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import Deduplicated, TokenizerTrained, Tokens, path_of, read_manifest

TURNS = 3
SHARE = 10
DEDUPLICATED, TOKENS = Path("data/deduplicated"), Path("data/tokens")


def main() -> None:
    project = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    report: dict[str, Any] = {"cores": len(os.sched_getaffinity(0))}
    for vocabulary in map(int, sys.argv[2:] or ["2048", "32768"]):
        with tempfile.TemporaryDirectory(prefix="everystep-bench-") as folder:
            report[f"vocabulary {vocabulary}"] = measure(project, Path(folder), vocabulary)
    json.dump(report, sys.stdout, indent=1)
    print()


def measure(project: Path, scratch: Path, vocabulary: int) -> dict[str, Any]:
    whole, tenth = scratch / "whole", scratch / "tenth"
    trained = None
    for folder, share in ((whole, 1), (tenth, SHARE)):
        make_project(project, folder, vocabulary, share)
        if trained is None:
            stage(folder, "tokenizer", 2)
        else:
            take_tokenizer(trained, folder)
        trained = folder
    turns = [turn(whole, tenth) for _ in range(TURNS)]
    two = stage(whole, "tokenize", 2)
    splits = read_manifest(Tokens, whole / path_of(Tokens)).splits
    both = (splits.train, splits.validation)
    return {
        "documents": sum(tally.documents for tally in both),
        "million_tokens": round(sum(tally.tokens for tally in both) / 1e6, 2),
        **{name: middle([turn[name] for turn in turns]) for name in turns[0]},
        "two_processes": {"cpu": round(two["cpu"], 2), "wall": round(two["wall"], 2)},
    }


def take_tokenizer(trained: Path, folder: Path) -> None:
    """Copy a tokenizer into another project, as if it had been trained on the documents there."""
    shutil.copytree(trained / "data/tokenizer", folder / "data/tokenizer")
    manifest = json.loads((trained / path_of(TokenizerTrained)).read_bytes())
    manifest["inputs"][str(path_of(Deduplicated))] = sha256_file(folder / path_of(Deduplicated))
    (folder / path_of(TokenizerTrained)).write_bytes(pretty(manifest))


def turn(whole: Path, tenth: Path) -> dict[str, float]:
    for folder in (tenth, whole):
        shutil.rmtree(folder / TOKENS, ignore_errors=True)  # a stage removes what it wrote before, and that takes time
    few, reference, all_ = stage(tenth, "tokenize", 1), reference_rate(tenth), stage(whole, "tokenize", 1)
    again = reference_rate(tenth)
    reference = statistics.mean([reference, again])
    size, small = text_bytes(whole), text_bytes(tenth)
    steady = (size - small) / (all_["cpu"] - few["cpu"])
    return {
        "encode_batch_fast_mb_per_s": reference / 1e6,
        "whole_stage_mb_per_s": size / all_["cpu"] / 1e6,
        "whole_stage_ratio": size / all_["cpu"] / reference,
        "steady_mb_per_s": steady / 1e6,
        "steady_ratio": steady / reference,
        "times_documents": size / small,
        "times_cpu": all_["cpu"] / few["cpu"],
        "peak_mib": all_["mib"],
        "peak_mib_of_a_tenth": few["mib"],
    }


def make_project(project: Path, folder: Path, vocabulary: int, share: int) -> None:
    """A project as after `dedup`, with the first of `share` parts of the shards of each split."""
    (folder / "data").mkdir(parents=True)
    shutil.copytree(project / "manifests", folder / "manifests", ignore=shutil.ignore_patterns("code.json"))
    (folder / DEDUPLICATED).symlink_to(project / DEDUPLICATED)
    manifest = read_manifest(Deduplicated, project / path_of(Deduplicated))
    fewer = {name: shards[: max(1, len(shards) // share)] for name, shards in manifest.outputs.items()}
    write = manifest.model_copy(update={"outputs": fewer}).to_json()
    (folder / path_of(Deduplicated)).write_bytes(pretty(write))
    params = load_yaml(project / "params.yaml")
    ours = load_yaml(Path("params.yaml"))
    params = ours | {name: params[name] for name in ("sources", "filter", "dedup", "models")}
    params["tokenizer"] = params["tokenizer"] | {"vocabulary": vocabulary}
    (folder / "params.yaml").write_bytes(pretty(params))


def stage(folder: Path, name: str, workers: int) -> dict[str, float]:
    """CPU and wall seconds of a stage and all its processes, and the memory of the largest of them."""
    environment = os.environ | {"EVERYSTEP_WORKERS": str(workers), "PYTHONPATH": str(Path.cwd())}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.stages", name], cwd=folder, env=environment, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} ended with {os.waitstatus_to_exitcode(status)} in {folder}")
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "wall": time.perf_counter() - began,
        "mib": used.ru_maxrss / 1024,
    }


def reference_rate(folder: Path) -> float:
    """Bytes of text per CPU second of `encode_batch_fast`, one thread, 256 documents at a time."""
    command = [sys.executable, "-m", "bench.tokenize", "--reference", str(folder)]
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def reference(folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "data/tokenizer/tokenizer.json"))
    tokenizer.encode_special_tokens = True
    paths = [folder / DEDUPLICATED / shard.path for shard in shards(folder, "train")]
    texts = [document.text for path in paths for document in read_documents(path)]
    began = time.process_time()
    for i in range(0, len(texts), 256):
        tokenizer.encode_batch_fast(texts[i : i + 256])
    print(sum(len(text.encode()) for text in texts) / (time.process_time() - began))


def text_bytes(folder: Path) -> int:
    splits = read_manifest(Tokens, folder / path_of(Tokens)).splits
    return splits.train.bytes + splits.validation.bytes


def shards(folder: Path, split: str) -> list[Shard]:
    return read_manifest(Deduplicated, folder / path_of(Deduplicated)).shards(split)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reference"]:
        reference(Path(sys.argv[2]))
    else:
        main()
