"""What a release says of itself, out of its manifests: the card, the manifest of the release and `show` read this.

Works on a project and on a release alike, because both have the same relative paths.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.formats.canonical import Json
from pipeline.formats.manifests import manifest_path, read_manifest


def gather(root: Path, sources: list[str], models: list[str]) -> dict[str, Any]:
    """Facts of the named sources and models; every number comes from a manifest below `root`."""
    tokens = read_manifest(root / manifest_path("tokenize"), "tokenize")
    return {
        "models": [_model(root, name) for name in models],
        "sources": [_source(root, name, tokens) for name in sources],
        "languages": sorted({language for name in sources for language in _fetched(root, name)["languages"]}),
        "licenses": _licenses(tokens["splits"]["train"]),
        "rows": {split: counts["rows"] for split, counts in tokens["splits"].items()},
        "context": tokens["width"] - 1,
        "cleaning": _cleaning(root, sources),
        "removed": _removed(root, sources),
    }


def _model(root: Path, name: str) -> dict[str, Any]:
    trained = read_manifest(root / manifest_path("train", name), "train")
    evaluated = read_manifest(root / manifest_path("evaluate", name), "evaluate")
    return {
        "name": name,
        "parameters": trained["parameters_unique"],
        "parameters_if_repeated": trained["parameters_if_repeated"],
        "tokens": trained["tokens"],
        "global_batch": trained["parameters"]["data"]["global_batch"],
        "checkpoints": [entry["revision"] for entry in trained["checkpoints"]],
        "steps": [entry["step"] for entry in trained["checkpoints"]],
        "numerics": trained["numerics"]["class"],
        "validation_loss": evaluated["results"][-1]["loss"],
        "bits_per_byte": evaluated["results"][-1]["bits_per_byte"],
        "validation_tokens": evaluated["targets"],
        "losses": [result["loss"] for result in evaluated["results"]],
    }


def _source(root: Path, name: str, tokens: dict[str, Json]) -> dict[str, Any]:
    fetched = _fetched(root, name)
    kept = read_manifest(root / manifest_path("dedup"), "dedup")["documents_by_source"]
    return {
        "name": name,
        "license": fetched["license"],
        "title": fetched["title"],
        "documents_found": read_manifest(root / manifest_path("extract", name), "extract")["documents"],
        "documents_kept": kept.get(name, 0),
        "tokens": tokens["splits"]["train"]["tokens_by_source"].get(name, 0),
    }


def _fetched(root: Path, name: str) -> dict[str, Json]:
    """What was declared of a source."""
    parameters: dict[str, Json] = read_manifest(root / manifest_path("fetch", name), "fetch")["parameters"]
    return parameters


def _licenses(counts: dict[str, Json]) -> list[dict[str, Any]]:
    """What the training rows are made of, by the licences of the documents; the largest first."""
    shares = sorted(counts["tokens_by_license"].items(), key=lambda pair: (-pair[1], pair[0]))
    return [
        {
            "license": license,
            "documents": counts["documents_by_license"][license],
            "tokens": tokens,
            "share": tokens / counts["tokens"],
        }
        for license, tokens in shares
    ]


def _cleaning(root: Path, sources: list[str]) -> list[dict[str, Any]]:
    """What each step of the filter saw, changed, removed and counted, over all sources, in the order of the steps."""
    steps: dict[str, dict[str, Any]] = {}
    for name in sources:
        for tally in read_manifest(root / manifest_path("filter", name), "filter")["steps"]:
            step = steps.setdefault(tally["step"], {"documents": 0, "rewritten": 0, "removed": 0, "counts": Counter()})
            step["documents"] += tally["documents"]
            step["rewritten"] += tally["rewritten"]
            step["removed"] += sum(tally["removed"].values())
            step["counts"].update(tally["counts"])
    return [{"step": step, **sums, "counts": dict(sorted(sums["counts"].items()))} for step, sums in steps.items()]


def _removed(root: Path, sources: list[str]) -> dict[str, dict[str, int]]:
    """Documents removed by stage and reason."""
    removed: dict[str, dict[str, int]] = {}
    for stage, of in [(stage, name) for stage in ("extract", "filter") for name in sources] + [("dedup", None)]:
        reasons = removed.setdefault(stage, {})
        for reason, number in read_manifest(root / manifest_path(stage, of), stage)["removed"].items():
            reasons[reason] = reasons.get(reason, 0) + number
    return removed
