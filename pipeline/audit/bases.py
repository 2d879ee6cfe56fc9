"""Bases: what every manifest must say that it was built from.

A manifest is compared with those that it names. So one that leaves a name out would be compared with less.
"""

from collections.abc import Iterator

from pipeline.base.paths import RECIPES
from pipeline.formats.manifests import Filtered, Manifest, Parent, path_of
from pipeline.formats.stages import manifest_path
from pipeline.release.release import Release

SECTIONS = {
    "evaluation_sets": ("evaluation_sets.artefact",),
    "evaluation_ngrams": ("evaluation_sets.words", "evaluation_sets.sets"),
    "fetch": ("sources.{of}",),
    "extract": ("sources.{of}",),
    "filter": ("sources.{of}", "filter"),
    "dedup": ("sources", "dedup"),
    "tokenizer": ("tokenizer", "tokenize"),
    "tokenize": ("mixture", "tokenize"),
    "tasks": ("tasks",),
    "evaluate": ("evaluate",),
    "score": ("score",),
    "parent": ("parent",),
}
"""Sections of `params.yaml` that each stage reads."""


def missing_bases(release: Release, manifest: Manifest) -> Iterator[str]:
    """Name what a manifest must have been built from and does not list."""
    for name in _inputs(release, manifest):
        if name not in manifest.inputs:
            yield f"{manifest.path}: inputs: does not list {name}, from which it was built"
    for section in SECTIONS.get(manifest.stage, ()):
        name = section.format(of=manifest.of)
        if name not in manifest.params:
            yield f"{manifest.path}: params: does not list `{name}`, with which it was built"


def _inputs(release: Release, manifest: Manifest) -> list[str]:
    """Paths of the manifests and recipes that a stage reads."""
    of = manifest.of
    before: dict[str, list[tuple[str, str | None]]] = {
        "evaluation_ngrams": [("evaluation_sets", None)],
        "extract": [("fetch", of)],
        "filter": [("extract", of), *[("evaluation_ngrams", None)] * _compares_items(manifest)],
        "dedup": [("filter", source) for source in release.sources()],
        "tokenizer": [("dedup", None)],
        "tokenize": [("dedup", None), ("tokenizer", None)],
        "tasks": [("evaluation_sets", None), ("tokenizer", None), ("tokenize", None)],
        "train": [("tokenize", None), *[("parent", None)] * (path_of(Parent).as_posix() in release.files)],
        "evaluate": [("train", of), ("tokenize", None), ("tokenizer", None)],
        "score": [("train", of), ("tokenize", None), ("tokenizer", None), ("tasks", None)],
        "coverage": [("tokenize", None), *(("train", model) for model in release.models())],
    }
    read = [manifest_path(*stage) for stage in before.get(manifest.stage, [])]
    recipes = [RECIPES / f"{of}.yaml"] if manifest.stage == "train" else []
    return [path.as_posix() for path in (*read, *recipes)]


def _compares_items(manifest: Manifest) -> bool:
    return isinstance(manifest, Filtered) and "contamination" in manifest.parameters.to_json().get("steps", [])
