"""What a release says twice, compared: tables for people with the records they were written from.

Every digest may be right and a table still tell another story, because a digest only says that a file is the one
that was listed. So the CSVs are compared with their JSON lines, the evaluations, the published order and the sizes
of the models with what gives them, what was read of the rows with order and index, the card's tables and the notice
with the manifests and `params.yaml`, and the tables of removals and of replaced personal data with the counts of the
stages. Read after `verify` has found each file to be the promised one, and the manifests to be a chain.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, zip_longest
from math import prod
from pathlib import Path

import numpy as np

from pipeline.base.errors import well_shaped
from pipeline.base.files import plain_lines, read_small
from pipeline.base.paths import (
    DEDUPLICATED,
    DOCUMENTS,
    FILTERED,
    MANIFESTS,
    PARAMS,
    REMOVALS_FILE,
    REPLACED_FILE,
    RESULTS,
    RUNS,
    TOKENS,
)
from pipeline.base.yaml import load_yaml
from pipeline.formats import checkpoints as ck
from pipeline.formats.bounds import MAX_ROWS, whole
from pipeline.formats.canonical import Json, canonical, parse
from pipeline.formats.lines import LineFile
from pipeline.formats.manifests import read_manifest, section_digest
from pipeline.formats.order import permute
from pipeline.formats.release import CARD, NOTICE, ROOT, members
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import PERSONAL_DATA, REMOVALS, REPLACED, column_batches
from pipeline.formats.tensors import TensorFile
from pipeline.release.card import card_tables, front_matter, write_notice
from pipeline.release.coverage import count
from pipeline.release.facts import gather

ORDER = TOKENS / "order.jsonl.zst"
REMOVED = [("extract", DOCUMENTS), ("filter", FILTERED)]
LOG, EVALUATION = "log.jsonl", "evaluation.jsonl"
SAMPLES_AT_ONCE = 1 << 16


def disagreements(release: Path, root: dict[str, Json]) -> Iterator[str]:
    """Each place where two files of the release tell different things, with both."""
    sources, models = members(root, "sources"), members(root, "models")
    with well_shaped(release / "manifests"):
        yield from _sections(release, root)
        tokens = read_manifest(release / manifest_path("tokenize"), "tokenize")
        yield from _flow(release, sources, tokens)
        yield from _removals(release, sources)
        yield from _replaced(release, sources)
        out_of_order = list(_order(release, tokens))
        yield from out_of_order
        if not out_of_order:
            yield from _coverage(release, models)
        for name in models:
            yield from _model(release, name, tokens["parameters"]["seed"])
            yield from _evaluation(release, name)
            yield from _csv(release, RUNS / name / LOG)
            yield from _csv(release, RESULTS / name / EVALUATION)
        facts = gather(release, sources, models)
        yield from _words(root, facts)
        yield from _card(release, facts)
        yield from _notice(release, facts)


def _sections(release: Path, root: dict[str, Json]) -> Iterator[str]:
    """Every manifest was built with the sections of the `params.yaml` beside it."""
    params = load_yaml(release / PARAMS)
    for path in sorted(path for path in root["files"] if path.startswith(f"{MANIFESTS}/")):
        for section, digest in read_manifest(release / path)["params"].items():
            if section_digest(params, section) != digest:
                yield f"{path}: was built with another `{section}` than the one in {PARAMS}"


def _flow(release: Path, sources: list[str], tokens: dict[str, Json]) -> Iterator[str]:
    """No document is lost on the way: what a stage was given is what it passed on and what it removed."""
    given = 0
    for name in sources:
        extracted = read_manifest(release / manifest_path("extract", name), "extract")
        filtered = read_manifest(release / manifest_path("filter", name), "filter")
        yield from _passed_on(manifest_path("filter", name), extracted["documents"], filtered)
        given += filtered["documents"]
    deduplicated = read_manifest(release / manifest_path("dedup"), "dedup")
    yield from _passed_on(manifest_path("dedup"), given, deduplicated)
    counted = [("train", tokens["available"]), *tokens["splits"].items()]
    if set(tokens["passes"].values()) != {1}:
        del counted[1]  # a mixture: its documents stand in the training split as often as they were drawn
    for split, counts in counted:
        stayed = deduplicated["documents_by_split"][split]
        if counts["documents"] != stayed:
            yield f"{manifest_path('tokenize')}: {counts['documents']} documents of {split}, dedup passed on {stayed}"


def _passed_on(where: Path, given: int, manifest: dict[str, Json]) -> Iterator[str]:
    kept, removed = manifest["documents"], sum(manifest["removed"].values())
    if given != kept + removed:
        yield f"{where}: {kept} documents kept and {removed} removed are not the {given} that were given"


def _removals(release: Path, sources: list[str]) -> Iterator[str]:
    """Each table of removals holds as many documents by reason as the manifest of its stage says."""
    per_source = [(stage, folder, name) for stage, folder in REMOVED for name in sources]
    for stage, folder, name in [*per_source, ("dedup", DEDUPLICATED, None)]:
        where, table = manifest_path(stage, name), folder / (name or "") / REMOVALS_FILE
        said = read_manifest(release / where, stage)["removed"]
        found: Counter[str] = Counter()
        for batch in column_batches(release / table, REMOVALS, ["reason"]):
            found.update(batch.column("reason").to_pylist())
        if said != found:
            yield f"{where}: removed is {_shown(said)}, {table} holds {_shown(dict(sorted(found.items())))}"


def _replaced(release: Path, sources: list[str]) -> Iterator[str]:
    """The table of replaced personal data sums up to what the step counted, by kind."""
    for name in sources:
        where, table = manifest_path("filter", name), FILTERED / name / REPLACED_FILE
        steps = {step["step"]: step["counts"] for step in read_manifest(release / where, "filter")["steps"]}
        said = steps.get("personal_data", {})
        found: Counter[str] = Counter()
        for batch in column_batches(release / table, REPLACED, PERSONAL_DATA):
            found.update({kind: sum(batch.column(kind).to_pylist()) for kind in PERSONAL_DATA})
        if said != +found:
            yield f"{where}: personal_data counts {_shown(said)}, {table} holds {_shown(dict(+found))}"


def _order(release: Path, tokens: dict[str, Json]) -> Iterator[str]:
    """The published order is what the seed gives, line by line."""
    seed, num_rows = tokens["parameters"]["seed"], whole(tokens, "splits", "train", "rows", most=MAX_ROWS)
    with LineFile(release / ORDER) as published:
        if len(published) != num_rows:
            yield f"{ORDER}: holds {len(published)} rows, {manifest_path('tokenize')} says {num_rows}"
            return
        lines = (parse(line, str(ORDER)) for line in published)
        rows = ({"row": row} for row in _permuted(num_rows, seed))
        yield from _compared(ORDER, "line", lines, f"the seed {seed}", rows)


def _permuted(num_rows: int, seed: int) -> Iterator[int]:
    for start in range(0, num_rows, SAMPLES_AT_ONCE):
        samples = np.arange(start, min(start + SAMPLES_AT_ONCE, num_rows), dtype=np.uint64)
        yield from permute(samples, num_rows, seed, epoch=0).tolist()


def _model(release: Path, name: str, seed: int) -> Iterator[str]:
    """What the manifest of a model counts, counted again."""
    where = manifest_path("train", name)
    manifest = read_manifest(release / where, "train")
    last = manifest["checkpoints"][-1]
    with TensorFile(release / RUNS / name / last["revision"] / ck.WEIGHTS) as weights:
        parameters = sum(prod(shape) for shape in weights.shapes().values())
    for what, said, found in (
        ("parameters_unique", manifest["parameters_unique"], parameters),
        ("tokens", manifest["tokens"], last["tokens"]),
        ("data.seed", manifest["parameters"]["data"]["seed"], seed),
    ):
        if said != found:
            yield f"{where}: {what} is {said}, the rest of the release gives {found}"


def _evaluation(release: Path, name: str) -> Iterator[str]:
    """The manifest's results are those of the lines, one for each checkpoint of the model."""
    where, path = manifest_path("evaluate", name), RESULTS / name / EVALUATION
    manifest = read_manifest(release / where, "evaluate")
    results = manifest["results"]
    yield from _compared(where, "result", results, path, _lines(release, path))
    revisions = [entry["revision"] for entry in read_manifest(release / manifest_path("train", name))["checkpoints"]]
    if [result["revision"] for result in results] != revisions:
        yield f"{where}: its results are not those of the model's checkpoints, in their order"
    for key in ("loss", "bits_per_byte"):
        if manifest[key] != results[-1][key]:
            yield f"{where}: {key} is {manifest[key]}, its last result has {results[-1][key]}"


def _csv(release: Path, lines: Path) -> Iterator[str]:
    """A table for plotting has a row for each JSON line, and each number is written as there."""
    path = lines.with_suffix(".csv")
    if not (release / path).is_file():
        yield f"{path}: missing"
        return
    rows = (row.decode("utf-8", "replace") for row in plain_lines(release / path))
    entries = _lines(release, lines)
    header = next(rows, "")
    first: dict[str, Json] = next(entries, {})
    columns = header.split(",")
    if sorted(columns) != sorted(first):
        yield f"{path}: its columns are {header}, {lines} has {','.join(sorted(first))}"
        return
    printed = (",".join(_cell(entry[column]) for column in columns) for entry in chain([first], entries))
    yield from _compared(path, "row", rows, lines, printed)


def _coverage(release: Path, models: list[str]) -> Iterator[str]:
    """What was read of the rows, counted again from the order and the document index."""
    where = manifest_path("coverage")
    manifest = read_manifest(release / where, "coverage")
    for what, counted in count(release, models).items():
        if manifest[what] != counted:
            yield f"{where}: {what} is {_shown(manifest[what])}, the order and the index give {_shown(counted)}"


def _words(root: dict[str, Json], facts: dict[str, Json]) -> Iterator[str]:
    """The root manifest has the name and the version of `params.yaml`."""
    for key in ("name", "version"):
        if root[key] != facts["release"][key]:
            yield f"{ROOT}: {key} is {root[key]!r}, {PARAMS} says {facts['release'][key]!r}"


def _card(release: Path, facts: dict[str, Json]) -> Iterator[str]:
    """The front matter, and the lines of all tables, in any order: a card may list its models as its maker liked."""
    text = read_small(release / CARD).decode("utf-8", "replace")
    if not text.startswith(front_matter(facts)):
        yield f"{CARD}: does not begin with what {PARAMS} and the manifests give for the Hub"
    shown = Counter(line for line in text.split("\n") if line.startswith("|"))
    expected = Counter(line for table in card_tables(facts) for line in table.split("\n"))
    yield from (f"{CARD}: says {line!r}, the manifests do not" for line in shown - expected)
    yield from (f"{CARD}: does not say {line!r}, the manifests do" for line in expected - shown)


def _notice(release: Path, facts: dict[str, Json]) -> Iterator[str]:
    lines = read_small(release / NOTICE).decode("utf-8", "replace").split("\n")
    yield from _compared(Path(NOTICE), "line", lines, PARAMS, write_notice(facts).split("\n"))


def _compared(where: Path, what: str, ours: Iterable[Json], other: str | Path, theirs: Iterable[Json]) -> Iterator[str]:
    """The first entry that differs."""
    for number, (mine, yours) in enumerate(zip_longest(ours, theirs), 1):
        if mine != yours:
            yield f"{where}: {what} {number} is {_shown(mine)}, {other} gives {_shown(yours)}"
            return


def _lines(release: Path, path: Path) -> Iterator[Json]:
    return (parse(line, f"{path}:{number}") for number, line in enumerate(plain_lines(release / path), 1))


def _cell(value: Json) -> str:
    """A value as CSV writes it; none of ours holds a comma."""
    if value is None:
        return ""
    return value if isinstance(value, str) else canonical(value).decode()


def _shown(value: Json) -> str:
    return "missing" if value is None else str(value)
