"""Agreement: facts that a release states twice must agree.

Every digest may be right and a table still tell another story, because a digest only says that a file is the one that
was listed. So the CSVs are compared with their JSON lines, the evaluations, the published order and the sizes of the
models with what gives them, what was read of the rows with order and index, the papers with those that the manifests
and `params.yaml` give, and the tables of removals and of replaced personal data with the counts of the stages. Read
after `verify` has found each file to be the promised one, and the manifests to be a chain.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, zip_longest
from math import log as log_e
from math import prod
from pathlib import Path

import numpy as np

from pipeline.base.errors import well_shaped
from pipeline.base.files import plain_lines
from pipeline.base.paths import (
    MANIFESTS,
    PARAMS,
    REMOVALS_FILE,
    REPLACED_FILE,
    RESULTS,
    RUNS,
    SPLITS,
    TOKENIZER,
    TOKENS,
)
from pipeline.formats import checkpoints as ck
from pipeline.formats import log
from pipeline.formats.canonical import Json, canonical, parse
from pipeline.formats.current import section_digest
from pipeline.formats.lines import LineFile
from pipeline.formats.manifests import (
    Coverage,
    Deduplicated,
    Evaluated,
    Extracted,
    Filtered,
    Tokens,
    Trained,
    parse_any_manifest,
    path_of,
)
from pipeline.formats.model import num_parameters_if_repeated
from pipeline.formats.order import permute
from pipeline.formats.release import ROOT, contents_digest
from pipeline.formats.stages import output_folder
from pipeline.formats.tables import DOCUMENT_INDEX, PERSONAL_DATA, REMOVALS, REPLACED, column_batches, group_digests
from pipeline.formats.tensors import TensorFile
from pipeline.release.coverage import count
from pipeline.release.disclosures.evidence import Evidence, gather_evidence
from pipeline.release.forgetting import forgetting_faults
from pipeline.release.papers import PAPERS
from pipeline.release.release import Release

ORDER = TOKENS / "order.jsonl.zst"
EVALUATION, BY_SOURCE = "evaluation.jsonl", "sources.jsonl"
CONSTRAINTS = "constraints.txt"
SAMPLES_AT_ONCE = 1 << 16
CLOSE = 1e-12
"""Relative difference between two ways to compute the same number in float64."""


def disagreements(release: Release, sums: Mapping[str, str]) -> Iterator[str]:
    """Each place where two files of the release tell different things, with both; `sums` are those of `SHA256SUMS`."""
    with well_shaped(release.folder):  # tables may hold anything
        yield from _removals(release)
        yield from _replaced(release)
        yield from _index_groups(release)
        yield from forgetting_faults(release)
        out_of_order = list(_order(release))
        yield from out_of_order
        if not out_of_order:
            yield from _coverage(release)
        for name in release.models():
            yield from _model(release, name)
    yield from told_twice(release, sums)


def told_twice(release: Release, sums: Mapping[str, str]) -> Iterator[str]:
    """The disagreements of files that are neither rows, tables nor tensors."""
    with well_shaped(release.folder):  # logs may hold anything
        yield from _sections(release)
        yield from _flow(release)
        yield from _libraries(release)
        for name in release.models():
            yield from _evaluation(release, name)
            yield from _csv(release, RUNS / name / log.JSONL)
            yield from _csv(release, RESULTS / name / EVALUATION)
            yield from _csv(release, RESULTS / name / BY_SOURCE)
        contents = contents_digest({path: file for path, file in release.files.items() if path not in PAPERS})
        evidence = gather_evidence(release, release.manifest(Coverage), sums, contents)
        yield from _words(release, evidence)
        yield from _papers(release, evidence)


def _sections(release: Release) -> Iterator[str]:
    """Every manifest was built with the sections of the `params.yaml` beside it."""
    params = release.params()
    for path in sorted(path for path in release.files if path.startswith(f"{MANIFESTS}/")):
        for section, digest in parse_any_manifest(release.read(path), Path(path)).params.items():
            if section_digest(params, section) != digest:
                yield f"{path}: was built with another `{section}` than the one in {PARAMS}"


def _flow(release: Release) -> Iterator[str]:
    """No document is lost on the way: what a stage was given is what it passed on and what it removed."""
    given = 0
    for name in release.sources():
        filtered = release.manifest(Filtered, name)
        yield from _passed_on(release.manifest(Extracted, name).documents, filtered)
        given += filtered.documents
    deduplicated, tokens = release.manifest(Deduplicated), release.manifest(Tokens)
    yield from _passed_on(given, deduplicated)
    counted = [("train", tokens.available), ("train", tokens.splits.train), ("validation", tokens.splits.validation)]
    if set(tokens.passes.values()) != {1}:
        del counted[1]  # a mixture: its documents are in the training split as often as they were drawn
    for split, tally in counted:
        stayed = deduplicated.documents_by_split.get(split, 0)
        if tally.documents != stayed:
            yield f"{tokens.path}: {tally.documents} documents of {split}, dedup passed on {stayed}"


def _passed_on(given: int, manifest: Filtered | Deduplicated) -> Iterator[str]:
    kept, removed = manifest.documents, sum(manifest.removed.values())
    if given != kept + removed:
        yield f"{manifest.path}: {kept} documents kept and {removed} removed are not the {given} that were given"


def _removals(release: Release) -> Iterator[str]:
    """Each table of removals holds as many documents by reason as the manifest of its stage says."""
    sources = release.sources()
    extracted = [release.manifest(Extracted, name) for name in sources]
    filtered = [release.manifest(Filtered, name) for name in sources]
    stages: list[Extracted | Filtered | Deduplicated] = [*extracted, *filtered, release.manifest(Deduplicated)]
    for manifest in stages:
        table = output_folder(manifest.stage, manifest.of) / REMOVALS_FILE
        found: Counter[str] = Counter()
        for batch in column_batches(release.file(table), REMOVALS, ["reason"]):
            found.update(batch.column("reason").to_pylist())
        if manifest.removed != found:
            yield f"{manifest.path}: removed is {_shown(manifest.removed)}, {table} holds {_shown(_sorted(found))}"


def _replaced(release: Release) -> Iterator[str]:
    """The table of replaced personal data sums up to what the step counted, by kind."""
    for name in release.sources():
        manifest, table = release.manifest(Filtered, name), output_folder("filter", name) / REPLACED_FILE
        said = manifest.counts_of("personal_data")
        found: Counter[str] = Counter()
        for batch in column_batches(release.file(table), REPLACED, PERSONAL_DATA):
            found.update({kind: sum(batch.column(kind).to_pylist()) for kind in PERSONAL_DATA})
        if said != +found:
            yield f"{manifest.path}: personal_data counts {_shown(said)}, {table} holds {_shown(dict(+found))}"


def _index_groups(release: Release) -> Iterator[str]:
    """Each document index has the row groups whose digests its manifest lists."""
    tokens = release.manifest(Tokens)
    for split in SPLITS:
        index = tokens.shard(f"{split}_index")
        if group_digests(release.file(TOKENS / index.path), DOCUMENT_INDEX) != index.groups:
            yield f"{TOKENS / index.path}: its row groups are not those that {tokens.path} lists"


def _order(release: Release) -> Iterator[str]:
    """The published order is what the seed gives, line by line."""
    tokens = release.manifest(Tokens)
    seed, num_rows = tokens.parameters.seed, tokens.splits.train.rows
    with LineFile(release.file(ORDER)) as published:
        if len(published) != num_rows:
            yield f"{ORDER}: holds {len(published)} rows, {tokens.path} says {num_rows}"
            return
        lines = (parse(line, str(ORDER)) for line in published)
        rows = ({"row": row} for row in _permuted(num_rows, seed))
        yield from _compared(ORDER, "line", lines, f"the seed {seed} gives", rows)


def _permuted(num_rows: int, seed: int) -> Iterator[int]:
    for start in range(0, num_rows, SAMPLES_AT_ONCE):
        samples = np.arange(start, min(start + SAMPLES_AT_ONCE, num_rows), dtype=np.uint64)
        yield from permute(samples, num_rows, seed, epoch=0).tolist()


def _model(release: Release, name: str) -> Iterator[str]:
    """What the manifest of a model counts, counted again."""
    manifest = release.manifest(Trained, name)
    last = list(release.states(name).values())[-1]
    with TensorFile(last.file(ck.WEIGHTS)) as weights:
        parameters = sum(prod(shape) for shape in weights.shapes().values())
    for what, said, found in (
        ("parameters_unique", manifest.parameters_unique, parameters),
        ("parameters_if_repeated", manifest.parameters_if_repeated, num_parameters_if_repeated(last.spec)),
        ("tokens", manifest.tokens, last.entry.tokens),
    ):
        if said != found:
            yield f"{manifest.path}: {what} is {said}, the rest of the release gives {found}"


def _libraries(release: Release) -> Iterator[str]:
    """A training in the class `portable` ran with the torch that `constraints.txt` pins; others name what they had."""
    pinned = re.search(r"^torch==(\S+)$", release.read(CONSTRAINTS).decode("utf-8", "replace"), re.M)
    for name in release.models():
        for state in release.states(name).values():
            numerics = state.record.numerics
            if pinned and numerics.name == "portable" and numerics.torch.partition("+")[0] != pinned[1]:
                where = f"{state.folder}/{ck.RECORD}"
                yield f"{where}: numerics.torch is {numerics.torch}, {CONSTRAINTS} pins {pinned[1]}"


def _evaluation(release: Release, name: str) -> Iterator[str]:
    """The manifest's results are those of the lines, one for each checkpoint of the model, and each source."""
    manifest = release.manifest(Evaluated, name)
    for file, results in ((EVALUATION, manifest.results), (BY_SOURCE, manifest.by_source)):
        path, trees = RESULTS / name / file, [result.to_json() for result in results]
        yield from _compared(manifest.path, "result", trees, f"{path} gives", _lines(release, path))
    revisions = [entry.revision for entry in release.manifest(Trained, name).checkpoints]
    if [result.revision for result in manifest.results] != revisions:
        yield f"{manifest.path}: its results are not those of the model's checkpoints, in their order"
    yield from _ratios(manifest)
    tokenizer = release.files[TOKENIZER.as_posix()].digest
    last = manifest.results[-1]
    for key, said, found in (
        ("tokenizer_sha256", manifest.tokenizer_sha256, tokenizer),
        ("loss", manifest.loss, last.loss),
        ("bits_per_byte", manifest.bits_per_byte, last.bits_per_byte),
    ):
        if said != found:
            yield f"{manifest.path}: {key} is {said}, the rest of the release gives {found}"


def _ratios(manifest: Evaluated) -> Iterator[str]:
    """Bits per byte are the loss times targets, over ln 2 and bytes, for every checkpoint."""
    for result in manifest.results:
        expected = result.loss * manifest.targets / log_e(2) / manifest.bytes if manifest.bytes else 0.0
        if not abs(result.bits_per_byte - expected) <= CLOSE * expected:
            yield (
                f"{manifest.path}: {result.revision}: a loss of {result.loss} over {manifest.targets} targets of "
                f"{manifest.bytes} bytes makes {expected} bits per byte, not {result.bits_per_byte}"
            )


def _csv(release: Release, lines: Path) -> Iterator[str]:
    """A table for plotting has a row for each JSON line, and each number is written as there."""
    path = lines.with_suffix(".csv")
    if path.as_posix() not in release.files:
        yield f"{path}: missing"
        return
    rows = (row.decode("utf-8", "replace") for row in plain_lines(release.file(path)))
    entries = _lines(release, lines)
    header = next(rows, "")
    first: dict[str, Json] = next(entries, {})
    columns = header.split(",")
    if sorted(columns) != sorted(first):
        yield f"{path}: its columns are {header}, {lines} has {','.join(sorted(first))}"
        return
    printed = (",".join(_cell(entry[column]) for column in columns) for entry in chain([first], entries))
    yield from _compared(path, "row", rows, f"{lines} gives", printed)


def _coverage(release: Release) -> Iterator[str]:
    """What was read of the rows, counted again from the order and the document index."""
    where, said = path_of(Coverage), release.manifest(Coverage).to_json()
    for what, counted in count(release).to_json().items():
        if said[what] != counted:
            yield f"{where}: {what} is {_shown(said[what])}, the order and the index give {_shown(counted)}"


def _words(release: Release, evidence: Evidence) -> Iterator[str]:
    """The root manifest has the name and the version of `params.yaml`."""
    for key, said, declared in (
        ("name", release.name, evidence.release.name),
        ("version", release.version, evidence.release.version),
    ):
        if said != declared:
            yield f"{ROOT}: {key} is {said!r}, {PARAMS} says {declared!r}"


def _papers(release: Release, evidence: Evidence) -> Iterator[str]:
    """Every paper is what the evidence gives, to the last byte."""
    for name, render in PAPERS.items():
        if name not in release.files:
            yield f"{name}: missing"
            continue
        said, rendered = release.read(name), render(evidence)
        ours, theirs = (content.decode("utf-8", "backslashreplace").split("\n") for content in (said, rendered))
        yield from _compared(Path(name), "line", ours, f"{PARAMS} and the manifests give", theirs)


def _compared(where: Path, what: str, ours: Iterable[Json], other: str, theirs: Iterable[Json]) -> Iterator[str]:
    """The first entry that differs."""
    for number, (mine, yours) in enumerate(zip_longest(ours, theirs), 1):
        if mine != yours:
            yield f"{where}: {what} {number} is {_shown(mine)}, {other} {_shown(yours)}"
            return


def _lines(release: Release, path: Path) -> Iterator[Json]:
    return (parse(line, f"{path}:{number}") for number, line in enumerate(plain_lines(release.file(path)), 1))


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))


def _cell(value: Json) -> str:
    """A value as CSV writes it; none of ours holds a comma."""
    if value is None:
        return ""
    return value if isinstance(value, str) else canonical(value).decode()


def _shown(value: Json) -> str:
    return "missing" if value is None else str(value)
