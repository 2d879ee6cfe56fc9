"""The models of a release on its card: what they are, how each was trained, who described the architecture."""

from collections.abc import Sequence
from typing import Any

from pipeline.formats.manifests import ModelFacts
from pipeline.release.disclosures.evidence import DesignFacts, Evidence
from pipeline.release.markdown import escaped, percent, table
from pipeline.release.references import REFERENCES

SECTION = """## Models

All models read {rows}, {rows_a_step} rows of {context} tokens a step.

{models}

*Parameters* are unique ones; *if repeated* counts an FFN that layers share once for each of them. *Tokens* are those
that the model was trained on, *rows read* the different rows that held them. Validation loss is in nats per token over
{targets} held-out tokens; bits per byte do not depend on the tokenizer.

How they were built and trained (the whole recipes are in `recipes/`):

{recipes}

{same}*Heads* are those of the queries, and of keys and values; a number that changes with the depth is given as the
least and the most. Every checkpoint also has the moments of the optimizer, so a training can go on from it.
{seeds}
The architectures are described in:

{references}
"""


def models_section(evidence: Evidence) -> str:
    """The section of the models."""
    first = evidence.models[0]
    in_one_order = len({design.order_seed for design in evidence.designs}) == 1
    recipes, same = _recipes(evidence)
    return SECTION.format(
        rows="the same rows in the same order" if in_one_order else "from the same rows, each in the order of its seed",
        rows_a_step=first.global_batch,
        context=evidence.context,
        models=models_table(evidence.models),
        targets=f"{first.validation_tokens:,}",
        recipes=recipes,
        same=same,
        seeds=_seeds(evidence),
        references=_references(evidence.designs),
    )


def models_table(models: list[ModelFacts]) -> str:
    """One line a model."""
    header = ["model", "parameters", "if repeated", "tokens", "rows read", "of all rows", "checkpoints"]
    rows = [
        [
            *(model.name, model.parameters, model.parameters_if_repeated, model.tokens),
            *(model.rows_read, percent(model.share_read), len(model.checkpoints)),
            *(model.validation_loss, model.bits_per_byte),
        ]
        for model in models
    ]
    return table([*header, "validation loss", "bits per byte"], rows)


def recipe_columns(evidence: Evidence) -> dict[str, list[Any]]:
    """What decides a model, a list over the models for each key."""
    designs = evidence.designs
    columns: dict[str, list[Any]] = {
        "family": [design.family for design in designs],
        "layers": [_layers(design) for design in designs],
        "width": [design.width for design in designs],
        "heads": [f"{_range(design.query_heads)}, {_range(design.kv_heads)}" for design in designs],
        "FFN": [_range(design.ffn_widths) for design in designs],
        "context": [evidence.context for _ in designs],
        "rows a step": [design.global_batch for design in designs],
        "steps": [design.steps for design in designs],
        "peak rate": [f"{design.peak:g}" for design in designs],
        "schedule": [_schedule(design) for design in designs],
        "seed": [str(design.seed) for design in designs],
        "seed of the order": [str(design.order_seed) for design in designs],
    }
    within = [design.attention_within_documents for design in designs]
    return columns | (
        {"attention": ["within documents" if it else "to all before" for it in within]} if any(within) else {}
    )


def _recipes(evidence: Evidence) -> tuple[str, str]:
    """A table of what differs between models, one line a model, and a sentence with what does not."""
    whole = recipe_columns(evidence)
    same = {key: values[0] for key, values in whole.items() if len({*values}) == 1 and len(values) > 1}
    shown = {key: values for key, values in whole.items() if key not in same or key in ("layers", "heads", "FFN")}
    rows = [list(row) for row in zip([design.name for design in evidence.designs], *shown.values(), strict=True)]
    told = "; ".join(f"{key} {value}" for key, value in same.items() if key not in shown)
    return table(["recipe", *shown], rows), f"The same in all: {told}.\n\n" if told else ""


def _layers(design: DesignFacts) -> str:
    if design.layers == design.stored_layers:
        return str(design.layers)
    return f"{design.layers} of {design.stored_layers} stored"


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _schedule(design: DesignFacts) -> str:
    return f"{design.schedule} to {percent(design.floor)}, after {design.warmup_steps:,} steps of warm-up"


def _seeds(evidence: Evidence) -> str:
    """Which models differ only in a seed; nothing if none do."""
    designs = {design.name: design for design in evidence.designs}
    lines = []
    for group in evidence.siblings.seeds:
        first, *others = (designs[name] for name in group)
        told = [f"`{other.name}` with {_difference(first, other)}" for other in others]
        lines.append(f"- `{first.name}` was trained again as {', as '.join(told)}.")
    if not lines:
        return ""
    return "\n" + "\n".join(["**Siblings that differ only in a seed** show what chance does:", "", *lines]) + "\n"


def _difference(one: DesignFacts, other: DesignFacts) -> str:
    weights, order = one.seed != other.seed, one.order_seed != other.order_seed
    if weights and order:
        return "other first weights and another order of the rows"
    return "other first weights" if weights else "another order of the rows"


def _references(designs: Sequence[DesignFacts]) -> str:
    """A line for each paper that describes an architecture of the release."""
    found = dict.fromkeys(REFERENCES[design.family] for design in designs)
    return "\n".join(
        f"- {paper.architecture}: {escaped(paper.authors)} ({paper.year}). *{escaped(paper.title)}*. "
        f"[arXiv:{paper.identifier}]({paper.link})"
        for paper in found
    )
