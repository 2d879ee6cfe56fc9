"""What a release says of itself, out of its manifests and words: card, notice, the manifest of the release and `show`
read this.

Data is counted twice: *available* is what the training rows hold, *read* what of it stands in rows that a model read.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from pipeline.base.errors import EverystepError
from pipeline.base.files import read_small
from pipeline.base.paths import PARAMS
from pipeline.formats.canonical import Json, parse
from pipeline.formats.manifests import read_manifest
from pipeline.formats.stages import manifest_path
from pipeline.release.words import Words, check_words


def gather(release: Path, sources: list[str], models: list[str]) -> dict[str, Any]:
    """Facts of the named sources and models; every number comes from a manifest of the release."""
    words = read_words(release, sources)
    tokens = read_manifest(release / manifest_path("tokenize"), "tokenize")
    coverage = read_manifest(release / manifest_path("coverage"), "coverage")
    available = tokens["splits"]["train"]
    rows = {split: counts["rows"] for split, counts in tokens["splits"].items()}
    return {
        "release": words.release.model_dump(),
        "models": [_model(release, name, coverage["models"][name], rows["train"]) for name in models],
        "sources": [_source(release, name, words, available, coverage) for name in sources],
        "languages": sorted({language for name in sources for language in _fetched(release, name)["languages"]}),
        "licenses": _licenses(available, coverage),
        "rows": rows | {"read": coverage["rows"]},
        "context": tokens["width"] - 1,
        "cleaning": _cleaning(release, sources),
        "removed": _removed(release, sources),
    }


def read_words(release: Path, sources: list[str]) -> Words:
    """The words of a release, from the copy of `params.yaml` that it holds as JSON."""
    path = release / PARAMS
    tree = parse(read_small(path), path)
    if not isinstance(tree, dict):
        raise EverystepError(f"{path}: expected a mapping at the top, got {type(tree).__name__}")
    return check_words(tree, sources, str(path))


def _model(root: Path, name: str, read: dict[str, int], num_rows: int) -> dict[str, Any]:
    trained = read_manifest(root / manifest_path("train", name), "train")
    evaluated = read_manifest(root / manifest_path("evaluate", name), "evaluate")
    return {
        "name": name,
        "parameters": trained["parameters_unique"],
        "parameters_if_repeated": trained["parameters_if_repeated"],
        "tokens": trained["tokens"],
        "rows_read": read["rows"],
        "share_read": _share(read["rows"], num_rows),
        "epochs": _share(read["samples"], num_rows),
        "global_batch": trained["parameters"]["data"]["global_batch"],
        "checkpoints": [entry["revision"] for entry in trained["checkpoints"]],
        "steps": [entry["step"] for entry in trained["checkpoints"]],
        "numerics": trained["numerics"]["class"],
        "validation_loss": evaluated["results"][-1]["loss"],
        "bits_per_byte": evaluated["results"][-1]["bits_per_byte"],
        "validation_tokens": evaluated["targets"],
        "losses": [result["loss"] for result in evaluated["results"]],
    }


def _source(root: Path, name: str, words: Words, available: Json, coverage: Json) -> dict[str, Any]:
    fetched = _fetched(root, name)
    kept = read_manifest(root / manifest_path("dedup"), "dedup")["documents_by_source"]
    return {
        "name": name,
        "license": fetched["license"],
        **words.descriptions[name].model_dump(),
        "repository": fetched.get("repository"),
        "documents_found": read_manifest(root / manifest_path("extract", name), "extract")["documents"],
        "documents_kept": kept.get(name, 0),
        **_counts(available, coverage, "source", name),
    }


def _counts(available: Json, coverage: Json, by: str, name: str) -> dict[str, int]:
    """Training documents and tokens of a source or a licence, and how many of them were read."""
    counts = {}
    for what in ("documents", "tokens"):
        counts[what] = available[f"{what}_by_{by}"].get(name, 0)
        counts[f"{what}_read"] = coverage[f"{what}_by_{by}"].get(name, 0)
    return counts


def _fetched(root: Path, name: str) -> dict[str, Json]:
    """What was declared of a source."""
    parameters: dict[str, Json] = read_manifest(root / manifest_path("fetch", name), "fetch")["parameters"]
    return parameters


def _licenses(available: Json, coverage: Json) -> list[dict[str, Any]]:
    """What the training rows are made of, by the licences of the documents; the largest first."""
    largest_first = sorted(available["tokens_by_license"].items(), key=lambda pair: (-pair[1], pair[0]))
    rows = [{"license": license} | _counts(available, coverage, "license", license) for license, _ in largest_first]
    for row in rows:
        row["share"] = _share(row["tokens"], available["tokens"])
        row["share_read"] = _share(row["tokens_read"], coverage["tokens"])
    return rows


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


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
