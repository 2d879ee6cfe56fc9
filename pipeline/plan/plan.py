"""The plan of a project: every figure with where it is from and, where a build exists, what it came to.

Read are `params.yaml`, `sizes.yaml`, the small manifests of an earlier build and the sizes of files; no row, no tensor.
What follows from nothing known is unknown, and is said to be.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.base.console import in_bytes
from pipeline.base.errors import EverystepError
from pipeline.base.params import load_params, source_names
from pipeline.base.paths import (
    DEDUPLICATED,
    DOCUMENTS,
    FILTERED,
    PARAMS,
    PUBLISHED_ROWS,
    RAW,
    RUNS,
    SEARCH,
    SIZES,
    TOKENS,
)
from pipeline.formats.manifests import Deduplicated, Extracted, Fetched, Filtered, PublishedRows, Tokens, Trained
from pipeline.plan.rates import HOUR, Rates
from pipeline.plan.sizes import (
    UNKNOWN,
    Amount,
    Sizes,
    SourceSizes,
    converted,
    known,
    load_sizes,
    manifest,
    whole,
)
from pipeline.plan.training import Training

CORPUS, STAGES, DISK = "corpus", "data stages", "disk"
STATE, WEIGHTS = 12, 4
"""Bytes of a parameter in a checkpoint: weights and two moments in float32, or weights alone."""


class Figure(NamedTuple):
    """One figure of a plan."""

    section: str
    """`corpus`, `data stages`, `disk`, or the name of a model."""
    name: str
    what: str
    unit: str
    value: float | None
    origin: str
    built: float | None = None


class Corpus(NamedTuple):
    """What the data stages read and write."""

    download: Amount
    documents: Amount
    text: Amount
    filtered: Amount
    deduplicated: Amount
    tokens: Amount
    """Before the mixture."""
    rows: Amount
    """Training tokens in the rows, after the mixture."""


def make_plan(folder: Path, trainings: Sequence[Training], rates: Rates) -> list[Figure]:
    """Plan the project in `folder` with the trainings of its models."""
    params = load_params(folder / PARAMS)
    sizes = load_sizes(folder)
    if "rows" in params:
        corpus = _published_rows(folder, params, sizes, trainings)
        stages = list(_stages_on_rows(corpus, rates))
    else:
        corpus = _corpus(folder, params, sizes)
        stages = [] if "parent" in params else list(_stages(corpus, rates))
    models = [figure for training in trainings for figure in _model(folder, training, corpus, rates)]
    return [*_corpus_figures(corpus, "rows" in params), *stages, *models, *_disk(folder, params, corpus, models, rates)]


def _corpus(folder: Path, params: dict[str, Any], sizes: Sizes) -> Corpus:
    tokenized, deduplicated = manifest(folder, Tokens), manifest(folder, Deduplicated)
    of_source: dict[str, list[Amount]] = {kind: [] for kind in ("download", "documents", "text", "filtered", "tokens")}
    sources = source_names(folder / PARAMS)
    for name in sorted(set(sizes.sources) - set(sources)):
        raise EverystepError(
            f"{folder / SIZES}: sources.{name}: not a source of {PARAMS}; there are {', '.join(sources)}"
        )
    for name in sources:
        declared = sizes.sources.get(name, SourceSizes())
        fetched, extracted = manifest(folder, Fetched, name), manifest(folder, Extracted, name)
        filtered = manifest(folder, Filtered, name)
        counted = tokenized.available.tokens_by_source.get(name, 0) if tokenized else None
        stored = sum(file.bytes or 0 for file in fetched.files) if fetched else None
        text = known(declared.text, extracted.bytes if extracted else None, "extract")
        tokens = known(declared.tokens, counted, "tokenize")
        of_source["download"].append(known(declared.download, stored, "fetch"))
        of_source["documents"].append(known(declared.documents, extracted.documents if extracted else None, "extract"))
        of_source["text"].append(converted(text, tokens, sizes.bytes_per_token, lambda tokens, each: tokens * each))
        of_source["filtered"].append(known(None, filtered.bytes if filtered else None, "filter"))
        of_source["tokens"].append(converted(tokens, text, sizes.bytes_per_token, lambda text, each: text / each))
    found = {kind: whole(parts) for kind, parts in of_source.items()}
    kept = known(None, deduplicated.bytes if deduplicated else None, "dedup")
    return Corpus(
        **{kind: found[kind] for kind in ("download", "documents", "text")},
        filtered=_at_most(found["filtered"], found["text"]),
        deduplicated=_at_most(kept, _at_most(found["filtered"], found["text"])),
        tokens=found["tokens"],
        rows=_mixed(params, found["tokens"], tokenized),
    )


def _at_most(amount: Amount, before: Amount) -> Amount:
    if amount.value is not None or before.value is None:
        return amount
    return Amount(before.value, "at most: what cleaning removes is not known before", amount.built)


def _mixed(params: dict[str, Any], tokens: Amount, built: Tokens | None) -> Amount:
    """Training tokens after the mixture: known where it takes every source once."""
    actual = float(built.splits.train.rows * built.width) if built else None
    if not params["mixture"].get("sources"):
        return Amount(tokens.value, "every source once (`mixture`)" if tokens.value else tokens.origin, actual)
    return known(None, actual, "tokenize") if actual else Amount(None, "depends on the mixture's shares of the tokens")


def _published_rows(folder: Path, params: dict[str, Any], sizes: Sizes, trainings: Sequence[Training]) -> Corpus:
    files, width = params["rows"]["files"], trainings[0].context + 1
    built = manifest(folder, PublishedRows)
    stored = float(sum(file.bytes or 0 for file in built.files)) if built else None
    if sizes.rows is None:
        return Corpus(known(None, stored, "rows"), *[UNKNOWN] * (len(Corpus._fields) - 1))
    of_file, bytes_of_file = sizes.rows.rows, sizes.rows.bytes
    many = f"{files:,} files (`rows.files`)"
    tokens = Amount(files * of_file.value * width, f"{many} of {of_file.value:,.0f} rows ({of_file.source}) of {width}")
    download = Amount(files * bytes_of_file.value, f"{many} of {bytes_of_file.source}", stored)
    return Corpus(download, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, tokens, tokens)


def _corpus_figures(corpus: Corpus, is_rows: bool) -> Iterator[Figure]:
    yield Figure(CORPUS, "download", "to download", "bytes", *corpus.download)
    if not is_rows:
        yield Figure(CORPUS, "documents", "documents", "", *corpus.documents)
        yield Figure(CORPUS, "text", "text", "bytes", *corpus.text)
    yield Figure(CORPUS, "tokens", "ids in the rows" if is_rows else "tokens", "tokens", *corpus.tokens)
    if not is_rows and corpus.rows.built:
        yield Figure(CORPUS, "training_tokens", "tokens in the training rows", "tokens", *corpus.rows)


def _stages(corpus: Corpus, rates: Rates) -> Iterator[Figure]:
    """Processor hours of the data stages."""
    yield from _hours(
        rates,
        extract=corpus.text,
        filter=corpus.text,
        dedup=corpus.filtered,
        tokenize=corpus.deduplicated,
        search=corpus.rows,
    )


def _stages_on_rows(corpus: Corpus, rates: Rates) -> Iterator[Figure]:
    yield from _hours(rates, digest=corpus.download, check=corpus.download)


def _hours(rates: Rates, **amounts: Amount) -> Iterator[Figure]:
    found: dict[str, float | None] = {}
    for stage, amount in amounts.items():
        rate = rates.stages[stage]
        found[stage] = None if amount.value is None else amount.value / rate.per_second / HOUR
        by = f"{_rate(rate.per_second, rate.unit)} a CPU second ({rate.origin})"
        origin = amount.origin if amount.value is None else by
        yield Figure(STAGES, stage, f"{stage}, CPU hours", "hours", found[stage], origin)
    yield Figure(STAGES, "all", "all of these, CPU hours", "hours", *_sum(found))


def _sum(parts: Mapping[str, float | None]) -> tuple[float | None, str]:
    """Add the parts; if some are unknown, name them."""
    values = [value for value in parts.values() if value is not None]
    missing = [name for name, value in parts.items() if value is None]
    return (None, f"{', '.join(missing)}: unknown") if missing else (sum(values), "the sum")


def _rate(number: float, unit: str) -> str:
    return in_bytes(number) if unit == "bytes" else f"{number / 1e6:,.3g} million {unit}"


def _model(folder: Path, training: Training, corpus: Corpus, rates: Rates) -> Iterator[Figure]:
    """The figures of one model."""
    recipe, built = f"recipes/{training.name}.yaml", manifest(folder, Trained, training.name)

    def figure(name: str, what: str, unit: str, value: float | None, origin: str, built: float | None = None) -> Figure:
        return Figure(training.name, name, what, unit, value, origin, built)

    each, rows = training.parameters, training.steps * training.global_batch
    yield figure("parameters", "parameters", "", each, recipe, built.parameters_unique if built else None)
    yield figure("applied", "parameters that a token passes through", "", training.applied, recipe)
    yield figure("steps", "steps", "", training.steps, recipe)
    yield figure("rows", "rows read", "", rows, f"{training.global_batch:,} a step ({recipe})")
    yield figure("tokens", "tokens trained on", "tokens", training.tokens, recipe, built.tokens if built else None)
    available = corpus.rows.value
    epochs = rows * (training.context + 1) / available if available else None
    yield figure("epochs", "times that each row is read", "", epochs, "tokens" if epochs else corpus.rows.origin)
    yield figure("stored", "checkpoints stored", "", training.stored, recipe, len(built.checkpoints) if built else None)
    yield figure("virtual", "states that come back by replay", "", training.virtual, recipe)
    weights, states = WEIGHTS * each * training.stored, STATE * each * training.stored
    four, twelve = f"{WEIGHTS} bytes a parameter", f"{STATE} bytes a parameter"
    yield figure("weights_bytes", "disk, weights alone", "bytes", weights, four)
    found = _size(folder / RUNS / training.name)
    yield figure("checkpoints_bytes", "disk, weights and moments", "bytes", states, twelve, found)
    yield figure("virtual_bytes", "disk that replay saves", "bytes", STATE * each * training.virtual, twelve)
    for number, memory in enumerate(training.memory):
        what = f"memory of a {'process' if training.is_portable else 'GPU'}, {memory.what}"
        yield figure(f"memory_{number}", what, "bytes", memory.peak, f"{recipe} (trainer/memory.py)")
        for part, size in memory.parts.items():
            yield figure(f"memory_{number}.{part}", f"{what}: {part}", "bytes", size, f"{recipe} (trainer/memory.py)")
    if training.is_portable:
        rate = rates.stages["train"]
        operations = 6 * training.applied * training.tokens
        origin = f"{rate.per_second / 1e9:.3g} billion operations a CPU second by 6 N D ({rate.origin})"
        yield figure("cpu_hours", "CPU hours", "hours", operations / rate.per_second / HOUR, origin)
    else:
        days, origin = rates.gpu_days(training.applied, training.tokens)
        yield figure("gpu_days", f"GPU days ({rates.gpu.name})", "days", days, origin)


def _disk(
    folder: Path, params: dict[str, Any], corpus: Corpus, models: Sequence[Figure], rates: Rates
) -> Iterator[Figure]:
    """Disk at the end of a build, which is its peak: nothing that a stage wrote is removed. `release/` and DVC's cache
    hold links to the same bytes, where the file system has hard links."""
    checkpoints = sum(figure.value or 0 for figure in models if figure.name == "checkpoints_bytes")
    if "rows" in params:
        parts = [("rows", "published rows", corpus.download.value, corpus.download.origin, PUBLISHED_ROWS)]
    else:
        digits = len(str(params["tokenizer"]["vocabulary"] - 1)) + 1
        rows = None if corpus.rows.value is None else corpus.rows.value * digits
        index = rates.index_bytes_per_token.value
        places = None if corpus.rows.value is None else corpus.rows.value * index
        text = "at most: they are stored compressed"
        parts = [
            ("raw", "raw files", corpus.download.value, corpus.download.origin, RAW),
            ("documents", "documents", corpus.text.value, text, DOCUMENTS),
            ("filtered", "filtered documents", corpus.filtered.value, text, FILTERED),
            ("deduplicated", "deduplicated documents", corpus.deduplicated.value, text, DEDUPLICATED),
            ("rows", "rows of ids", rows, f"at most {digits} bytes an id: they are stored compressed", TOKENS),
            ("search", "search index", places, f"{index} bytes a token (docs/benchmarks.md)", SEARCH),
        ]
    for name, what, value, origin, place in parts:
        said = origin if value is not None else UNKNOWN.origin
        yield Figure(DISK, name, what, "bytes", value, said, _size(folder / place))
    sizes = [figure.built for figure in models if figure.name == "checkpoints_bytes" and figure.built is not None]
    built = sum(sizes) if sizes else None
    yield Figure(DISK, "checkpoints", "checkpoints of all models", "bytes", checkpoints, "12 bytes a parameter", built)
    values = {what: value for _, what, value, _, _ in parts} | {"checkpoints": checkpoints}
    peak, origin = _sum(values)
    if peak is None:
        yield Figure(DISK, "known", "what is known of it", "bytes", sum(filter(None, values.values())), "the sum")
    yield Figure(DISK, "peak", "peak, all together", "bytes", peak, origin)


def _size(folder: Path) -> float | None:
    """Bytes of the files below a folder, or None if there is no such folder."""
    if not folder.is_dir():
        return None
    found = 0
    for place, _, names in os.walk(folder):
        found += sum((Path(place) / name).lstat().st_size for name in names)
    return float(found)
