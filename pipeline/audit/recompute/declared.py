"""Declared: the parameters of every stage but `train` are what `params.yaml` declares, with the defaults filled in."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.base.paths import PARAMS
from pipeline.formats.canonical import Json, canonical
from pipeline.formats.manifests import (
    Code,
    Deduplicated,
    Evaluated,
    EvaluationNgrams,
    EvaluationSets,
    Extracted,
    Fetched,
    Filtered,
    Manifest,
    TasksMade,
    TokenizerTrained,
    Tokens,
    path_of,
)
from pipeline.release.release import Release
from pipeline.sources.declaration import parse_source

DEFAULTS = (None, 1)
"""What a parameter that `params.yaml` does not have may be: nothing, or one epoch."""
CONSTRAINTS = "constraints.txt"


def declared_faults(release: Release) -> Iterator[str]:
    """Each parameter that differs from its declaration; pinned sources and libraries too."""
    params = release.params()
    for name in release.sources():
        yield from _source(release, params, name)
    sets = params["evaluation_sets"]
    declared: list[tuple[type[Manifest], Mapping[str, Json]]] = [
        (EvaluationSets, sets["artefact"]),
        (EvaluationNgrams, {"words": sets["words"], "sets": sets["sets"]}),
        (Deduplicated, params["dedup"]),
        (TokenizerTrained, params["tokenizer"]),
        (Tokens, params["tokenize"] | {"mixture": params["mixture"]}),
        (TasksMade, params["tasks"]),
    ]
    for kind, section in declared:
        yield from _agree(release.manifest(kind), section)
    for name in release.models():
        yield from _agree(release.manifest(Evaluated, name), params["evaluate"])
    if release.manifest(Code).files.get(CONSTRAINTS) != release.files[CONSTRAINTS].digest:
        yield f"{CONSTRAINTS}: is not the one that {path_of(Code)} lists"


def _source(release: Release, params: Mapping[str, Any], name: str) -> Iterator[str]:
    """The faults of the stages that run for a source."""
    fetched = release.manifest(Fetched, name)
    if name not in params["sources"]:
        yield f"{fetched.path}: {PARAMS} declares no such source"
        return
    source = parse_source(name, params["sources"][name], str(PARAMS))
    rules = {key: value for key, value in params["filter"].items() if key != "sources"}
    for key, own in params["filter"].get("sources", {}).get(name, {}).items():
        rules[key] = rules[key] | own if isinstance(own, dict) and isinstance(rules.get(key), dict) else own
    cleaned = {"cap_bytes": source.cap_bytes, "languages": source.languages, **rules}
    yield from _agree(fetched, source.model_dump())
    yield from _agree(release.manifest(Extracted, name), {"reader": source.reader})
    yield from _agree(release.manifest(Filtered, name), cleaned)
    if source.kind != "huggingface" and [file.sha256 for file in fetched.files] != [source.sha256]:
        yield f"{fetched.path}: files: are not the one whose sha256 {PARAMS} declares"


def _agree(manifest: Manifest, declared: Mapping[str, Json]) -> Iterator[str]:
    for key in _differing(declared, manifest.parameters.to_json()):
        yield f"{manifest.path}: parameters: {key} is not what {PARAMS} declares"


def _differing(declared: Mapping[str, Json], parameters: Mapping[str, Json], inside: str = "") -> Iterator[str]:
    """The keys that differ; one that is not declared may have its default."""
    for key in sorted(declared.keys() | parameters.keys()):
        ours, theirs = declared.get(key), parameters.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differing(ours, theirs, f"{inside}{key}.")
        elif canonical(ours) != canonical(theirs) and (key in declared or theirs not in DEFAULTS):
            yield f"{inside}{key}"
