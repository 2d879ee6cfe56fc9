"""The card of a release: README.md with what is in it, as tables, and the commands of its three readers.

Every number is taken from a manifest of the release, so it can be recomputed; what is somebody's word (a
licence, a title, what the models cannot do) is marked as theirs.
"""

from typing import Any

from pipeline.formats.canonical import Json

CARD = """---
license: {license_tag}
language: [{languages}]
library_name: transformers
tags: [everystep, reproducible]
---
# {name} {version}

{title}. Published by {publisher}; built by Everystep with `dvc repro` from {num_sources} public corpora.
Every file is digested in `release.json`; every checkpoint can be trained again to the same bits from this folder alone,
on a machine of the numerics class that its manifest names.

![Validation loss of every checkpoint](loss.svg)

## Models

All models read the same rows in the same order, {rows_a_step} rows of {context} tokens a step.

{models}

*Parameters* are unique ones; *if repeated* counts an FFN that layers share once for each of them. Validation loss
is in nats per token over {targets} held-out tokens; bits per byte do not depend on the tokenizer.

## Data

{sources}

The titles and licences are the word of `params.yaml`, which names the evidence for each. What the training rows are
made of:

{licenses}

Each step of cleaning saw the documents that the steps before it left; what is not in the table was not looked for.
*Found* is what a step counted in them: kinds of personal data, which it replaced, or evaluation sets whose items it
met.

{cleaning}

Removed documents stand with their reasons in `data/*/removals.parquet`, those of duplicates with the document that
stayed and the measured similarity:

{removals}

## What to do with it

    everystep verify release                                        # every digest, every file
    everystep pull release --model {model} --step {start} --out DIR    # one checkpoint for transformers
    everystep trace release --model {model} --step {start}             # the documents in that step's batch
    everystep replay release --model {model} --from {start} --to {stop}  # train that stretch again, compare

## Limits

In the words of {publisher}:

> {limits}
"""


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; numbers get thousands separators and stand to the right, a list is its length."""
    rows = [[len(cell) if isinstance(cell, list) else cell for cell in row] for row in rows]
    number = [all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(header))]
    lines = [header, ["---:" if right else "---" for right in number]]
    lines += [[_cell(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_card(release: dict[str, Json], facts: dict[str, Json]) -> str:
    """The card from the `release` section of params and the facts of `pipeline.release.facts`."""
    first = facts["models"][0]
    start, stop = first["steps"][-3:][:2]  # the last stretch but one, where there are two
    models, sources, licenses, cleaning, removals = card_tables(facts)
    return CARD.format(
        **release | {"limits": release["limits"].strip().replace("\n", "\n> ")},
        license_tag=release["license"].lower(),
        languages=", ".join(facts["languages"]),
        num_sources=len(facts["sources"]),
        rows_a_step=first["global_batch"],
        context=facts["context"],
        models=models,
        targets=f"{first['validation_tokens']:,}",
        sources=sources,
        licenses=licenses,
        cleaning=cleaning,
        removals=removals,
        model=first["name"],
        start=start,
        stop=stop,
    )


def card_tables(facts: dict[str, Json]) -> list[str]:
    """Models, sources, licences, cleaning and removals: what the card says in numbers."""
    columns = ("name", "license", "documents_kept", "tokens", "title")
    sources = [[source[column] for column in columns] for source in facts["sources"]]
    licenses = [[row["license"], row["documents"], row["tokens"], f"{row['share']:.1%}"] for row in facts["licenses"]]
    removals = [[stage, *pair] for stage, reasons in facts["removed"].items() for pair in sorted(reasons.items())]
    return [
        models_table(facts["models"]),
        table(["source", "licence", "documents", "tokens", "title"], sources),
        table(["licence", "documents", "tokens", "share of tokens"], licenses),
        cleaning_table(facts["cleaning"]),
        table(["stage", "reason", "documents"], removals),
    ]


def cleaning_table(steps: list[dict[str, Json]]) -> str:
    """One line a step of the filter."""
    keys = ("step", "documents", "rewritten", "removed")
    return table([*keys, "found"], [[*(step[key] for key in keys), spelled(step["counts"])] for step in steps])


def models_table(models: list[dict[str, Json]]) -> str:
    """One line a model."""
    header = ["model", "parameters", "if repeated", "tokens", "checkpoints", "validation loss", "bits per byte"]
    keys = ("name", "parameters", "parameters_if_repeated", "tokens", "checkpoints", "validation_loss", "bits_per_byte")
    return table(header, [[model[key] for key in keys] for model in models])


def spelled(counts: dict[str, int]) -> str:
    """What was counted, by kind, in one cell."""
    return ", ".join(f"{kind} {number:,}" for kind, number in counts.items())


def _cell(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)
