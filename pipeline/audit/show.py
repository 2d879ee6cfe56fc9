"""Show: what is in a release, from its manifests, for a person or (as one JSON object) for a program."""

from pathlib import Path
from typing import Any

from pipeline.formats.canonical import Json
from pipeline.formats.files import list_files
from pipeline.formats.manifests import manifest_path, read_manifest
from pipeline.release.layout import read_root


def summarize(release: Path) -> dict[str, Any]:
    """The facts that `everystep show` prints."""
    root = read_root(release)
    files = list_files(release)
    tokens = read_manifest(release / manifest_path("tokenize"), "tokenize")
    return {
        "name": root["name"],
        "version": root["version"],
        "files": len(files),
        "bytes": sum((release / file).stat().st_size for file in files),
        "models": [_model(release, name) for name in _of(root, "models")],
        "sources": [_source(release, name, tokens) for name in _of(root, "sources")],
        "rows": {split: counts["rows"] for split, counts in tokens["splits"].items()},
        "removed": _removed(release, _of(root, "sources")),
    }


def _of(root: dict[str, Json], folder: str) -> list[str]:
    prefix = f"manifests/{folder}/"
    return [
        path.removeprefix(prefix).removesuffix(".json") for path in sorted(root["files"]) if path.startswith(prefix)
    ]


def _model(release: Path, name: str) -> dict[str, Any]:
    trained = read_manifest(release / manifest_path("train", name), "train")
    evaluated = read_manifest(release / manifest_path("evaluate", name), "evaluate")
    return {
        "name": name,
        "parameters": trained["parameters_unique"],
        "tokens": trained["tokens"],
        "checkpoints": [entry["revision"] for entry in trained["checkpoints"]],
        "validation_loss": evaluated["results"][-1]["loss"],
        "bits_per_byte": evaluated["results"][-1]["bits_per_byte"],
        "numerics": trained["numerics"]["class"],
    }


def _source(release: Path, name: str, tokens: dict[str, Json]) -> dict[str, Any]:
    fetched = read_manifest(release / manifest_path("fetch", name), "fetch")["parameters"]
    extracted = read_manifest(release / manifest_path("extract", name), "extract")
    kept = read_manifest(release / manifest_path("dedup"), "dedup")["documents_by_source"].get(name, 0)
    return {
        "name": name,
        "license": fetched["license"],
        "title": fetched["title"],
        "documents_found": extracted["documents"],
        "documents_kept": kept,
        "tokens": tokens["splits"]["train"]["tokens_by_source"].get(name, 0),
    }


def _removed(release: Path, sources: list[str]) -> dict[str, dict[str, int]]:
    removed: dict[str, dict[str, int]] = {}
    for stage, of in [(stage, name) for stage in ("extract", "filter") for name in sources] + [("dedup", None)]:
        for reason, number in read_manifest(release / manifest_path(stage, of), stage)["removed"].items():
            reasons = removed.setdefault(stage, {})
            reasons[reason] = reasons.get(reason, 0) + number
    return removed
