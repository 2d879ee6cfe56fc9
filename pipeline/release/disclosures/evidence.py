"""The evidence of the disclosures: the facts of a release, and what only these papers say, from the same manifests.

`everystep show` asks for the facts alone. What is here needs the digests of the files as stored as well, because other
people's tools compare those.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pipeline.base.errors import Differs
from pipeline.base.files import plain_lines
from pipeline.base.paths import DEDUPLICATED, REMOVALS_FILE, REPLACED_FILE, RESULTS, SCORES, TOKENIZER, TOKENS
from pipeline.formats.manifests import (
    Counting,
    Deduplicated,
    Evaluated,
    EvaluationNgrams,
    Extracted,
    Fetched,
    Filtered,
    ReadCounts,
    Scored,
    StoredFile,
    TasksMade,
    Tokens,
    Trained,
    path_of,
)
from pipeline.formats.model import ModelSpec
from pipeline.formats.release import REVISIONS, SUMS
from pipeline.formats.samples import NAME as SAMPLES
from pipeline.formats.samples import Written
from pipeline.formats.scores import SCORES_FILE, Score
from pipeline.formats.stages import output_folder
from pipeline.formats.typed import Count, Counts, Sha256, TensorsDigest, Typed
from pipeline.release.comparison import Siblings, siblings
from pipeline.release.facts import Facts, gather, read_words
from pipeline.release.release import Release
from pipeline.release.report.trainings import TrainingFacts, gather_trainings

T = TypeVar("T", bound=Typed)
PASSES = 3
"""Forward, and backward with respect to activations and to weights."""


class ArtefactFacts(Typed):
    """Where a source comes from, pinned, and what is said of its texts."""

    source: str
    """Name of the source."""
    identifier: str
    """Name and version of the artefact."""
    link: str
    """Address of that version."""
    files: list[StoredFile]
    """Its files, as fetched."""
    languages: list[str]
    """Codes of its languages."""
    cap_bytes: Count | None
    """Bytes of text at which it was capped."""
    removed: Counts
    """Cap, step of cleaning, `duplicates` or `held_out` → documents that are not in the training rows for it."""
    content: str | None
    """Kind of its texts, the word of `params.yaml`."""
    collected_from: str | None
    """When the collection began, the word of `params.yaml`."""
    collected_to: str | None
    """When it ended."""


class TableFacts(Typed):
    """A file of the release that holds data."""

    path: str
    """Path in the release."""
    sha256: Sha256
    """SHA-256 of the bytes as stored."""
    records: Count | None
    """Lines or rows; null for a file that is one object."""


class DesignFacts(Typed):
    """A model: its shapes, how it was trained, and what proves which one it is."""

    name: str
    """Name of the model."""
    family: str
    """Family of its recipe."""
    layers: Count
    """Layers in depth; a stored layer that acts twice counts twice."""
    stored_layers: Count
    """Layers whose weights are stored."""
    width: Count
    """Width of the residual stream."""
    query_heads: list[Count]
    """Different numbers of query heads of a layer, ascending."""
    kv_heads: list[Count]
    """Different numbers of key and value heads of a layer, ascending."""
    ffn_widths: list[Count]
    """Different widths of the FFN of a layer, ascending."""
    activations: list[str]
    """Activations of its FFNs."""
    norms: list[str]
    """Norms of its layers."""
    tied_embedding: bool
    """Whether embedding and output are one matrix."""
    attention_within_documents: bool
    """Whether a token sees only its own document."""
    steps: Count
    """Updates."""
    schedule: str
    """Shape of the learning rate."""
    peak: float
    """Highest learning rate."""
    floor: float
    """Lowest learning rate after the warm-up, as a share of the peak."""
    warmup_steps: Count
    """Updates until the peak."""
    global_batch: Count
    """Rows that a step reads."""
    seed: Count
    """Seed of the first weights."""
    order_seed: Count
    """Seed of the order of the rows."""
    optimizer: dict[str, Any]
    """The section `optimizer` of its recipe."""
    training_flops: Count
    """Floating-point operations of the training (Chowdhery et al. 2022, appendix B)."""
    inference_flops: Count
    """Floating-point operations of one token at full context."""
    dtype: str
    """Number format of the computation."""
    torch: str
    """Version of torch."""
    last: str
    """Name of its last checkpoint."""
    weights_digest: TensorsDigest
    """Digest of the weights of its last checkpoint."""


class LossFacts(Typed):
    """The last checkpoint of a model on the held-out tokens of one source, or of all."""

    model: str
    """Name of the model."""
    source: str | None
    """Name of the source; null for all of them."""
    bits_per_byte: float
    """Bits per byte of text."""
    standard_error: float | None
    """Its standard error over rows; null for fewer than two."""
    targets: Count
    """Tokens that were predicted."""


class Evidence(Facts):
    """Everything that the papers of a release say."""

    artefacts: list[ArtefactFacts]
    """Where the sources come from."""
    tables: list[TableFacts]
    """The files that hold rows, documents and removals."""
    designs: list[DesignFacts]
    """The models."""
    bytes: Count
    """Bytes of text in the training rows."""
    tokens: Count
    """Tokens in the training rows."""
    tokens_read: Count
    """Of these, tokens in rows that a model read."""
    documents: Count
    """Documents in the training rows."""
    held_out: Count
    """Documents that are held out."""
    vocabulary: Count
    """Tokens of the vocabulary."""
    tokens_by_languages: Counts
    """Languages that a source declares, joined by commas → tokens of such sources in the training rows."""
    evaluation_sets: list[str]
    """Names of the evaluation sets whose items training must not contain."""
    duplicates: dict[str, Counts]
    """Source of documents removed as duplicates → source of those that were kept in their place → documents."""
    trainings: list[TrainingFacts]
    """How the models were trained."""
    losses: list[LossFacts]
    """What the last checkpoints reach on the held-out rows."""
    scores: dict[str, list[Score]]
    """Model → what its last scored checkpoint scores in the tasks."""
    counting: Counting
    """What models that count runs of tokens reach and score."""
    samples: dict[str, list[Written]]
    """Model → what its last checkpoint writes."""
    siblings: Siblings
    """Which models differ only in a seed."""
    contents: Sha256
    """Digest of all files but the papers (`docs/formats.md`, section 12)."""


def gather_evidence(release: Release, read: ReadCounts, sums: Mapping[str, str], contents: str) -> Evidence:
    """The evidence of a release; `sums` has the SHA-256 of its files as stored, `contents` is its contents digest."""
    facts, tokens = gather(release, read), release.manifest(Tokens)
    train = tokens.splits.train
    artefacts = [_artefact(release, name, tokens) for name in release.sources()]
    by_languages: dict[str, int] = {}
    for artefact in artefacts:
        key = ", ".join(sorted(artefact.languages))
        by_languages[key] = by_languages.get(key, 0) + train.tokens_by_source.get(artefact.source, 0)
    return Evidence(
        **dict(facts),
        artefacts=artefacts,
        tables=list(_tables(release, sums)),
        designs=[_design(release, model.name) for model in facts.models],
        bytes=train.bytes,
        tokens=train.tokens,
        tokens_read=read.tokens,
        documents=train.documents,
        held_out=tokens.splits.validation.documents,
        vocabulary=tokens.vocabulary,
        tokens_by_languages=dict(sorted(by_languages.items())),
        evaluation_sets=sorted(release.manifest(EvaluationNgrams).sets),
        duplicates=release.manifest(Deduplicated).duplicates,
        trainings=gather_trainings(release, [model.name for model in facts.models]),
        losses=[loss for model in facts.models for loss in _losses(release, model.name)],
        scores={model.name: list(_scores(release, model.name)) for model in facts.models},
        counting=release.manifest(TasksMade).counting,
        samples={model.name: list(_samples(release, model.name)) for model in facts.models},
        siblings=siblings({model.name: release.manifest(Trained, model.name).parameters for model in facts.models}),
        contents=contents,
    )


def described(release: Release) -> dict[str, int | None]:
    """Path of each file of the release that the disclosures describe → its lines or rows."""
    return dict(sorted(_described(release)))


def _tables(release: Release, sums: Mapping[str, str]) -> Iterator[TableFacts]:
    for path, records in described(release).items():
        if path not in sums:
            raise Differs(f"{path}: {SUMS} does not list it, though a manifest names it")
        yield TableFacts(path=path, sha256=sums[path], records=records)


def _described(release: Release) -> Iterator[tuple[str, int | None]]:
    tokens = release.manifest(Tokens)
    for output in ("train", "validation", "train_index", "validation_index", "order"):
        yield from (((TOKENS / shard.path).as_posix(), shard.lines) for shard in tokens.shards(output))
    yield (DEDUPLICATED / REMOVALS_FILE).as_posix(), release.manifest(Deduplicated).shard("removals").lines
    for name in release.sources():
        extracted, filtered = release.manifest(Extracted, name), release.manifest(Filtered, name)
        for stage, output, file in (
            (extracted, "removals", REMOVALS_FILE),
            (filtered, "removals", REMOVALS_FILE),
            (filtered, "replaced", REPLACED_FILE),
        ):
            yield (output_folder(stage.stage, name) / file).as_posix(), stage.shard(output).lines
    yield TOKENIZER.as_posix(), None
    yield REVISIONS, sum(len(release.model(name).checkpoints) for name in release.models())


def _artefact(release: Release, name: str, tokens: Tokens) -> ArtefactFacts:
    fetched, filtered = release.manifest(Fetched, name), release.manifest(Filtered, name)
    said = read_words(release).descriptions[name]
    identifier, link = _pinned(fetched.parameters.to_json())
    removed = {step.step: sum(step.removed.values()) for step in filtered.steps}
    removed["cap"] = sum(filtered.removed.values()) - sum(removed.values())
    removed["duplicates"] = release.manifest(Deduplicated).removed_by_source.get(name, 0)
    removed["held_out"] = tokens.splits.validation.documents_by_source.get(name, 0)
    return ArtefactFacts(
        source=name,
        identifier=identifier,
        link=link,
        files=fetched.files,
        languages=fetched.parameters.languages,
        cap_bytes=fetched.parameters.to_json().get("cap_bytes"),
        removed={cause: number for cause, number in removed.items() if number},
        content=said.content,
        collected_from=said.collected_from,
        collected_to=said.collected_to,
    )


def _losses(release: Release, name: str) -> Iterator[LossFacts]:
    """Of each source, then of all."""
    evaluated = release.manifest(Evaluated, name)
    last = evaluated.results[-1]
    sources = [result for result in evaluated.by_source if result.revision == last.revision]
    for source, result in [*((result.source, result) for result in sources), (None, last)]:
        yield LossFacts(
            model=name,
            source=source,
            bits_per_byte=result.bits_per_byte,
            standard_error=result.standard_error,
            targets=evaluated.sources[source].targets if source else evaluated.targets,
        )


def _scores(release: Release, name: str) -> Iterator[Score]:
    """None in a fork, which is not scored."""
    if path_of(Scored, name).as_posix() not in release.files:
        return
    last = release.manifest(Scored, name).checkpoints[-1].revision
    yield from (score for score in _lines(release, SCORES / name / SCORES_FILE, Score) if score.revision == last)


def _samples(release: Release, name: str) -> Iterator[Written]:
    last = release.manifest(Evaluated, name).results[-1].revision
    yield from (line for line in _lines(release, RESULTS / name / SAMPLES, Written) if line.revision == last)


def _lines(release: Release, path: Path, kind: type[T]) -> Iterator[T]:
    """The lines of a file, each of which is of a kind."""
    for number, line in enumerate(plain_lines(release.file(path)), 1):
        yield kind.parse(line, f"{path}:{number}")


def _pinned(declared: Mapping[str, Any]) -> tuple[str, str]:
    """Name with version, and address, of an artefact as it was declared."""
    if declared.get("kind") == "package":
        package, version = declared["package"], declared["version"]
        return f"{package} {version}", f"https://pypi.org/project/{package}/{version}/"
    if declared.get("kind") == "huggingface":
        repository, revision = declared["repository"], declared["revision"]
        return f"{repository} at {revision}", f"https://huggingface.co/datasets/{repository}/tree/{revision}"
    url = str(declared.get("url", ""))
    return Path(url).name, url


def _design(release: Release, name: str) -> DesignFacts:
    trained, evaluated = release.manifest(Trained, name), release.manifest(Evaluated, name)
    spec = ModelSpec.from_json(trained.model, str(trained.path))
    recipe, last = trained.parameters, trained.checkpoints[-1]
    forward = forward_flops(spec)
    return DesignFacts(
        name=name,
        family=str(recipe.model["family"]),
        layers=len(spec.applications),
        stored_layers=len(spec.layers),
        width=spec.width,
        query_heads=sorted({layer.query_heads for layer in spec.layers}),
        kv_heads=sorted({layer.kv_heads for layer in spec.layers}),
        ffn_widths=sorted({layer.ffn_width for layer in spec.layers}),
        activations=sorted({layer.activation for layer in spec.layers}),
        norms=sorted({layer.norm for layer in spec.layers}),
        tied_embedding=spec.tied_embedding,
        attention_within_documents=spec.attention_within_documents,
        steps=recipe.schedule.steps,
        schedule=recipe.schedule.shape,
        peak=recipe.schedule.peak,
        floor=recipe.schedule.floor,
        warmup_steps=recipe.schedule.warmup_steps,
        global_batch=recipe.data.global_batch,
        seed=recipe.seed,
        order_seed=recipe.data.seed,
        optimizer=recipe.optimizer.to_json(),
        training_flops=PASSES * forward * trained.tokens,
        inference_flops=forward,
        dtype=trained.numerics.dtype,
        torch=trained.numerics.torch,
        last=evaluated.results[-1].revision,
        weights_digest=last.weights_digest,
    )


def forward_flops(spec: ModelSpec) -> int:
    """Floating-point operations of one token at full context: two for each weight of a matrix product, and four for
    each pair of a position and a dimension of a query (Chowdhery et al. 2022, appendix B)."""
    weights = attention = 0
    for layer in (spec.layers[number] for number in spec.applications):
        heads = 2 * layer.query_heads + 2 * layer.kv_heads
        matrices = 3 if layer.activation == "swiglu" else 2
        weights += spec.width * (heads * layer.head_width + matrices * layer.ffn_width)
        attention += layer.query_heads * layer.head_width
    return 2 * (weights + spec.width * spec.vocabulary) + 4 * spec.context * attention
