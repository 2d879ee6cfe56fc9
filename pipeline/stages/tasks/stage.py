"""Make the items of evaluation, and count runs of tokens as a baseline.

Reads `data/evaluation_sets`, the rows and the tokenizer; writes `manifests/tasks.json` and

    data/tasks/TASK.jsonl.zst    the items of each task that are asked
    data/tasks/items.parquet     task, id and SHA-256 of the line of each

A release holds the table and the minimal pairs. It does not hold the items of stock tasks: some of their licences
do not allow it, and a test that everybody republishes ends in somebody's training data. This stage makes them again
from the pinned artefact, with the same digests.
"""

import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.base.console import progress
from pipeline.base.errors import EverystepError
from pipeline.base.files import fresh_folder
from pipeline.base.params import load_section, source_names
from pipeline.base.paths import EVALUATION_SETS, PARAMS, TASKS, TOKENIZER
from pipeline.base.suggest import did_you_mean
from pipeline.blocks.counting import CountedRuns, accuracies, bits_per_byte
from pipeline.blocks.pairs import Limits, Text, pairs_asked
from pipeline.blocks.token_ids import Reference
from pipeline.formats.current import read_current, take_basis, write_manifest
from pipeline.formats.lines import Shard
from pipeline.formats.manifests import EvaluationSets, TasksMade, TokenizerTrained, Tokens
from pipeline.formats.stages import manifest_path
from pipeline.formats.tables import ITEMS, ITEMS_FILE, write_table
from pipeline.formats.tasks import Item, Stock, Task, TextIds, ask, item_line, write_task
from pipeline.formats.vocabulary import token_bytes
from pipeline.release.held_out import held_out
from pipeline.release.project import promised_by
from pipeline.release.release import Release
from pipeline.release.row_blocks import first_rows, row_blocks
from pipeline.stages.tasks.definitions import PACKAGE, STOCK, VERSION
from pipeline.stages.tasks.items import items_of
from pipeline.stages.tasks.params import CountingParams, PairsParams, TasksParams
from pipeline.stages.upstream import check_fetched

Asked = tuple[list[Item], Task]


def tasks() -> None:
    """Make the items of all tasks."""
    params = load_section(TasksParams, "tasks")
    _check_sources(params.pairs)
    inputs = [manifest_path(stage) for stage in ("evaluation_sets", "tokenizer", "tokenize")]
    basis = take_basis(inputs, ["tasks"])
    read_current(Tokens)
    read_current(TokenizerTrained).check_file(TOKENIZER)
    built = Release(Path(), "", None, promised_by(Path(), manifests=inputs[1:]))
    folder = fresh_folder(TASKS)
    if params.stock.names:
        check_fetched(EvaluationSets, None, EVALUATION_SETS)
    limits = Limits(params.pairs.characters, params.pairs.words)
    texts = [Text(*document) for document in held_out(built)]
    made: dict[str, Asked] = {}
    outputs: dict[str, list[Shard]] = {"stock": [], "pairs": []}
    with progress("tasks", len(params.stock.names) + len(params.pairs.sources), "tasks") as advance:
        for name in sorted(params.stock.names):
            made[name] = stock_asked(name, EVALUATION_SETS, params.stock.items)
            outputs["stock"].append(write_task(folder, name, made[name][0]))
            advance(1, name)
        for name, sources in sorted(params.pairs.sources.items()):
            made[name] = pairs_asked(name, sources, texts, limits, params.pairs.items)
            outputs["pairs"].append(write_task(folder, name, made[name][0]))
            advance(1, name)
    items = {name: asked for name, (asked, _) in sorted(made.items())}
    table = write_table(folder / ITEMS_FILE, item_rows(items), ITEMS, ITEMS_FILE)
    write_manifest(
        TasksMade,
        None,
        basis,
        parameters=params.model_dump(),
        outputs=outputs | {"items": [table]},
        harness={"package": PACKAGE, "version": VERSION},
        begin_token="none",  # noqa: S106  # a rule, not a password
        tasks={name: task.to_json() for name, (_, task) in made.items()},
        counting=counted(built, params.counting, items),
    )


def stock_asked(name: str, artefact: Path, most: int) -> Asked:
    """At most `most` items of a stock task from the artefact in this folder, and what a manifest says of them."""
    definition = STOCK[name]
    items, left_out = items_of(artefact, definition)
    return ask(
        name,
        items,
        most,
        left_out,
        definition=definition.to_json(),
        metrics=definition.metrics,
        delimiter=definition.delimiter,
        stock=Stock(task=definition.stock, files=definition.files),
    )


def item_rows(items: dict[str, list[Item]]) -> Iterator[dict[str, str]]:
    """The lines of the table of items."""
    for name, asked in items.items():
        for item in asked:
            yield {"task": name, "item": item.id, "sha256": hashlib.sha256(item_line(item)).hexdigest()}


def counted(built: Release, params: CountingParams, items: dict[str, list[Item]]) -> dict[str, Any]:
    """What models that count score on the held-out rows and on the tasks."""
    tokens = built.manifest(Tokens)
    rows = first_rows(built, tokens, params.rows)
    counts = CountedRuns(rows, tokens.vocabulary, params.order)
    ids_of = _encoder(built.file(TOKENIZER))
    scored: dict[str, list[dict[str, float]]] = {}
    with progress("tasks: count", len(items), "tasks") as advance:
        for name, asked in items.items():
            found = enumerate(accuracies(counts, asked, ids_of), 1)
            scored[name] = [{"order": n, "accuracy": share, "standard_error": error} for n, (share, error) in found]
            advance(1, name)
    bits = enumerate(
        bits_per_byte(counts, row_blocks(built, tokens, "validation"), token_bytes(built.file(TOKENIZER))), 1
    )
    return {
        "rows": len(rows),
        "tokens": rows.size,
        "held_out": [{"order": n, "bits_per_byte": value} for n, value in bits],
        "tasks": scored,
    }


def _encoder(tokenizer: Path) -> TextIds:
    """An encoder of texts; contexts that several choices have are encoded once."""
    encode = cache(Reference(tokenizer).encode)
    return lambda texts: [encode(text) for text in texts]


def _check_sources(pairs: PairsParams) -> None:
    declared = source_names()
    for rule, sources in pairs.sources.items():
        for name in sources:
            if name not in declared:
                raise EverystepError(
                    f"{PARAMS}: tasks.pairs.sources.{rule}: {name!r} is not declared{did_you_mean(name, declared)}"
                )
