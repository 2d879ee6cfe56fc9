"""The facts of a release, gathered from its manifests and words: what its papers and `everystep show` tell.

Every number comes from a manifest of the release; what is somebody's word comes from its `params.yaml`.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from pydantic import Field

from pipeline.base.errors import EverystepError
from pipeline.base.paths import PARAMS
from pipeline.formats.manifests import (
    Code,
    Coverage,
    Deduplicated,
    Evaluated,
    Extracted,
    Fetched,
    Filtered,
    Forgetting,
    LicenseFacts,
    ModelFacts,
    ReadCounts,
    RowFacts,
    StepTally,
    Tally,
    Tokens,
    Trained,
    path_of,
)
from pipeline.formats.typed import Count, Counts, Sha256, TensorsDigest, Typed
from pipeline.release.ancestors import ancestors, root_sha256
from pipeline.release.release import Release
from pipeline.release.words import ReleaseParams, Words, check_words


class SourceFacts(Typed):
    """A source: what was declared and said of it, and what became of its documents."""

    name: str
    """Its name."""
    license: str
    """SPDX expression, the word of `params.yaml`."""
    title: str
    """What it is, the word of `params.yaml`."""
    issuer: str
    """Who publishes it."""
    evidence: str
    """Where its licence is stated."""
    attribution: str | None
    """What its licence asks to be said."""
    repository: str | None
    """Data set of the Hub that it came from."""
    documents_found: Count
    """Documents that its reader found."""
    documents_kept: Count
    """Documents that deduplication passed on."""
    documents: Count
    """Documents in the training rows."""
    documents_read: Count
    """Of these, documents with a token that a model read."""
    tokens: Count
    """Tokens in the training rows."""
    tokens_read: Count
    """Of these, tokens in rows that a model read."""


class AncestorFacts(Typed):
    """A state of another release that a training went on from."""

    release: str
    """Name of the release."""
    version: str
    """Its version."""
    release_sha256: Sha256
    """SHA-256 of its root manifest."""
    model: str
    """Name of the model there."""
    step: Count
    """Step of the state."""
    tokens: Count
    """Tokens that the model was trained on until there."""
    state_digest: TensorsDigest
    """Digest of the state."""


class ForgottenFacts(Typed):
    """What a release has forgotten of the release before it."""

    documents: Count
    """Documents, a repeated one as often as it occurs."""
    rows: Count
    """Rows that hold filler in their place."""
    tokens: Count
    """Tokens that are filler now."""
    why: str
    """Why, in the word of who built it."""


class Facts(Typed):
    """Everything that the papers of a release say."""

    release: ReleaseParams
    """What its publisher says of it."""
    models: list[ModelFacts]
    """Its models."""
    sources: list[SourceFacts]
    """Its sources."""
    languages: list[str]
    """Languages of its sources, sorted."""
    licenses: list[LicenseFacts]
    """What its training rows hold, by licence; the largest first."""
    rows: RowFacts
    """Its rows."""
    context: Count
    """Tokens that a model reads at once."""
    cleaning: list[StepTally]
    """What each step of cleaning did, over all sources."""
    removed: dict[str, Counts]
    """Stage → reason → documents removed."""
    swhid: str
    """Software Heritage identifier of the code that built it."""
    ancestors: list[AncestorFacts] = Field(default=[])
    """What the trainings went on from, generation by generation; missing if they began with new weights."""
    forgotten: ForgottenFacts | None = None
    """What was forgotten of the release before it; missing if nothing was."""


def gather(release: Release, read: ReadCounts) -> Facts:
    """The facts of a release whose models read what `read` counts."""
    words = read_words(release)
    tokens = release.manifest(Tokens)
    train, validation = tokens.splits.train, tokens.splits.validation
    fetched = [release.manifest(Fetched, name) for name in release.sources()]
    return Facts(
        release=words.release,
        models=[_model(release, name, read, train.rows) for name in _models(release)],
        sources=[_source(release, manifest, words, train, read) for manifest in fetched],
        languages=sorted({language for manifest in fetched for language in manifest.parameters.languages}),
        licenses=_licenses(train, read),
        rows=RowFacts(train=train.rows, validation=validation.rows, read=read.rows),
        context=tokens.width - 1,
        cleaning=_cleaning(release),
        removed=_removed(release),
        swhid=release.manifest(Code).swhid,
        **_if_any("ancestors", _all_ancestors(release)),
        **_forgotten(release),
    )


def _all_ancestors(release: Release) -> list[AncestorFacts]:
    """What the models went on from, without repetition: generation by generation, in the order of the models."""
    chains = [ancestor_facts(release, name) for name in _models(release)]
    found = [state for generation in zip_longest(*chains) for state in generation if state]
    return [state for number, state in enumerate(found) if state not in found[:number]]


def _forgotten(release: Release) -> dict[str, Any]:
    """The key `forgotten`, if the release has a certificate."""
    if path_of(Forgetting).as_posix() not in release.files:
        return {}
    said = release.manifest(Forgetting)
    why = said.parameters.why
    return {"forgotten": ForgottenFacts(documents=len(said.documents), rows=said.rows, tokens=said.ids, why=why)}


def ancestor_facts(release: Release, model: str) -> list[AncestorFacts]:
    """What the training of a model went on from, the nearest first."""
    return [
        AncestorFacts(
            release=state.release.name,
            version=state.release.version or "",
            release_sha256=root_sha256(state.release),
            model=state.model,
            step=state.entry.step,
            tokens=state.entry.tokens,
            state_digest=state.entry.state_digest,
        )
        for state in ancestors(release, model)
    ]


def _if_any(key: str, items: list[Any]) -> dict[str, Any]:
    """A key that is left out where there is nothing to say."""
    return {key: items} if items else {}


def read_words(release: Release) -> Words:
    """What its publisher says of it."""
    return check_words(release.params(), release.sources(), str(release.folder / PARAMS))


def _models(release: Release) -> list[str]:
    """Its models in the order of `params.yaml`."""
    where, declared = release.folder / PARAMS, release.params().get("models")
    if not declared or not isinstance(declared, list) or sorted(map(str, declared)) != release.models():
        raise EverystepError(f"{where}: models: lists other models than those with a manifest: {release.models()}")
    return list(map(str, declared))


def _model(release: Release, name: str, read: ReadCounts, num_rows: int) -> ModelFacts:
    trained, evaluated = release.manifest(Trained, name), release.manifest(Evaluated, name)
    if name not in read.models:
        raise EverystepError(f"{release.folder / path_of(Coverage)}: has no counts for the model {name}")
    return ModelFacts(
        name=name,
        parameters=trained.parameters_unique,
        parameters_if_repeated=trained.parameters_if_repeated,
        tokens=trained.tokens,
        rows_read=read.models[name].rows,
        share_read=_share(read.models[name].rows, num_rows),
        epochs=_share(read.models[name].samples, num_rows),
        global_batch=trained.parameters.data.global_batch,
        checkpoints=[entry.revision for entry in trained.checkpoints],
        steps=[entry.step for entry in trained.checkpoints],
        numerics=trained.numerics.name,
        validation_loss=evaluated.results[-1].loss,
        bits_per_byte=evaluated.results[-1].bits_per_byte,
        validation_tokens=evaluated.targets,
        losses=[result.loss for result in evaluated.results],
    )


def _source(release: Release, fetched: Fetched, words: Words, available: Tally, read: ReadCounts) -> SourceFacts:
    name, said = fetched.of, words.descriptions[fetched.of]
    return SourceFacts(
        name=name,
        license=fetched.parameters.license,
        title=said.title,
        issuer=said.issuer,
        evidence=said.evidence,
        attribution=said.attribution,
        repository=fetched.parameters.repository,
        documents_found=release.manifest(Extracted, name).documents,
        documents_kept=release.manifest(Deduplicated).documents_by_source.get(name, 0),
        documents=available.documents_by_source.get(name, 0),
        documents_read=read.documents_by_source.get(name, 0),
        tokens=available.tokens_by_source.get(name, 0),
        tokens_read=read.tokens_by_source.get(name, 0),
    )


def _licenses(available: Tally, read: ReadCounts) -> list[LicenseFacts]:
    """What the training rows hold, by the licences of the documents; the largest first."""
    return [
        LicenseFacts(
            license=license,
            documents=available.documents_by_license.get(license, 0),
            documents_read=read.documents_by_license.get(license, 0),
            tokens=tokens,
            tokens_read=read.tokens_by_license.get(license, 0),
            share=_share(tokens, available.tokens),
            share_read=_share(read.tokens_by_license.get(license, 0), read.tokens),
        )
        for license, tokens in sorted(available.tokens_by_license.items(), key=lambda pair: (-pair[1], pair[0]))
    ]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _cleaning(release: Release) -> list[StepTally]:
    """What each step of the filter saw, changed, removed and counted, over all sources. Steps are in the order of the
    first source that ran them."""
    by_step: dict[str, list[StepTally]] = {}
    for name in release.sources():
        for tally in release.manifest(Filtered, name).steps:
            by_step.setdefault(tally.step, []).append(tally)
    return [
        StepTally(
            step=step,
            documents=sum(tally.documents for tally in tallies),
            rewritten=sum(tally.rewritten for tally in tallies),
            removed=_sums(tally.removed for tally in tallies),
            counts=_sums(tally.counts for tally in tallies),
        )
        for step, tallies in by_step.items()
    ]


def _removed(release: Release) -> dict[str, Counts]:
    """Documents removed by stage and reason."""
    sources = release.sources()
    return {
        "extract": _sums(release.manifest(Extracted, name).removed for name in sources),
        "filter": _sums(release.manifest(Filtered, name).removed for name in sources),
        "dedup": _sums([release.manifest(Deduplicated).removed]),
    }


def _sums(tallies: Iterable[Counts]) -> Counts:
    """Counts added up by name, sorted."""
    total: Counter[str] = Counter()
    for tally in tallies:
        total.update(tally)
    return dict(sorted(total.items()))
