"""Declared: every stage of the data read the sections of `params.yaml` and the manifests that it must, and its
parameters are what they declare, with the defaults filled in."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.base.paths import PARAMS
from pipeline.formats.canonical import Json, canonical
from pipeline.formats.manifests import (
    Code,
    Deduplicated,
    EvaluationNgrams,
    EvaluationSets,
    Extracted,
    Fetched,
    Filtered,
    Manifest,
    TokenizerTrained,
    Tokens,
    path_of,
)
from pipeline.formats.stages import manifest_path
from pipeline.release.release import Release
from pipeline.sources.declaration import parse_source

DEFAULTS = (None, 1)
"""What a parameter that `params.yaml` does not have may be: nothing, or one epoch."""


def declared_faults(release: Release) -> Iterator[str]:
    """Each parameter that differs from its declaration, and each basis that is not the stage's."""
    params = release.params()
    for name in release.sources():
        yield from _source(release, params, name)
    sets, grams = release.manifest(EvaluationSets), release.manifest(EvaluationNgrams)
    dedup, trained, tokens = (
        release.manifest(Deduplicated),
        release.manifest(TokenizerTrained),
        release.manifest(Tokens),
    )
    of_sets = params["evaluation_sets"]
    asked = {"words": of_sets["words"], "sets": of_sets["sets"]}
    filtered = [path_of(Filtered, name).as_posix() for name in release.sources()]
    yield from _agree(sets, of_sets["artefact"], ["evaluation_sets.artefact"], [])
    yield from _agree(grams, asked, ["evaluation_sets.words", "evaluation_sets.sets"], [sets.path.as_posix()])
    yield from _agree(dedup, params["dedup"], ["sources", "dedup"], filtered)
    yield from _agree(trained, params["tokenizer"], ["tokenizer", "tokenize"], [dedup.path.as_posix()])
    mixed = params["tokenize"] | {"mixture": params["mixture"]}
    yield from _agree(tokens, mixed, ["mixture", "tokenize"], [dedup.path.as_posix(), trained.path.as_posix()])
    yield from _code(release)


def _source(release: Release, params: Mapping[str, Any], name: str) -> Iterator[str]:
    """The faults of the stages that run for a source."""
    if name not in params["sources"]:
        yield f"{path_of(Fetched, name)}: {PARAMS} declares no such source"
        return
    source = parse_source(name, params["sources"][name], str(PARAMS))
    fetched, extracted = release.manifest(Fetched, name), release.manifest(Extracted, name)
    filtered, section = release.manifest(Filtered, name), f"sources.{name}"
    yield from _agree(fetched, source.model_dump(), [section], [])
    yield from _agree(extracted, {"reader": source.reader}, [section], [fetched.path.as_posix()])
    pinned = getattr(source, "sha256", None)
    if source.kind != "huggingface" and [file.sha256 for file in fetched.files] != [pinned]:
        yield f"{fetched.path}: files: are not the one with the sha256 that {PARAMS} declares"
    common = {key: value for key, value in params["filter"].items() if key != "sources"}
    rules = common | {
        key: common[key] | own if isinstance(own, dict) and isinstance(common.get(key), dict) else own
        for key, own in (params["filter"].get("sources") or {}).get(name, {}).items()
    }
    asked = {"cap_bytes": source.cap_bytes, "languages": source.languages, **rules}
    inputs = [extracted.path.as_posix()]
    if "contamination" in rules["steps"]:
        inputs.append(path_of(EvaluationNgrams).as_posix())
    yield from _agree(filtered, asked, [section, "filter"], inputs)


def _agree(manifest: Manifest, declared: Mapping[str, Json], sections: list[str], inputs: list[str]) -> Iterator[str]:
    """The manifest of a stage has what was declared for it, read from these sections and manifests."""
    parameters = manifest.parameters.to_json()
    yield from (
        f"{manifest.path}: parameters: {key} is not that of {PARAMS}" for key in _differing(declared, parameters)
    )
    if {*manifest.params} != {*sections}:
        yield f"{manifest.path}: params: lists {', '.join(manifest.params)}; its stage reads {', '.join(sections)}"
    if {*manifest.inputs} != {*inputs}:
        yield f"{manifest.path}: inputs: lists {', '.join(manifest.inputs)}; its stage reads {', '.join(inputs)}"


def _differing(declared: Mapping[str, Json], parameters: Mapping[str, Json], inside: str = "") -> Iterator[str]:
    """The keys that differ; one that is not declared may have its default."""
    for key in sorted(declared.keys() | parameters.keys()):
        ours, theirs = declared.get(key), parameters.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differing(ours, theirs, f"{inside}{key}.")
        elif canonical(ours) != canonical(theirs) and (key in declared or theirs not in DEFAULTS):
            yield f"{inside}{key}"


def _code(release: Release) -> Iterator[str]:
    """The pins of the libraries are those that the code was digested with."""
    path = "constraints.txt"
    if release.manifest(Code).files.get(path) != release.files[path].digest:
        yield f"{path}: is not the one that {manifest_path('code')} lists"
