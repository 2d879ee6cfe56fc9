"""The card of a release, README.md, and its NOTICE: functions of the facts, so that `verify` can make them again.

Every number is taken from a manifest of the release; what is somebody's word (a licence, a title, what the models
cannot do) is marked as theirs. These words are plain text: `escaped` keeps Markdown from reading them as anything else.
"""

import json
import re
from typing import Any

from pipeline.formats.manifests import LicenseFacts, ModelFacts, StepTally
from pipeline.release.facts import Facts, SourceFacts

CARD = """# {name} {version}

{title} Published by {publisher}; built by Everystep with `dvc repro` from {num_sources} public corpora.
Every file is digested in `release.json`; every checkpoint can be trained again to the same bits from this folder alone,
on a machine of the numerics class that its manifest names. The code that built it is listed in `manifests/code.json`;
its Software Heritage identifier is `{swhid}`.
{ancestors}
![Validation loss of every checkpoint](loss.svg)

## Models

All models read the same rows in the same order, {rows_a_step} rows of {context} tokens a step.

{models}

*Parameters* are unique ones; *if repeated* counts an FFN that layers share once for each of them. *Tokens* are those
that the model was trained on, *rows read* the different rows that held them. Validation loss is in nats per token over
{targets} held-out tokens; bits per byte do not depend on the tokenizer.

## Data

**The models read {rows_read} of the {rows} training rows ({share_read}).** In the next two tables, *documents* and
*tokens* are those of the training rows, read or not; *documents read* and *tokens read* are those in the rows that at
least one model read. (A row holds {context} tokens and the target of the last one.)

{sources}

The titles and licences are the word of `params.yaml`, which names the evidence for each. By the licences of the
documents:

{licenses}

What follows is about all documents, whether a model read them or not. Each step of cleaning saw the documents that the
steps before it left; what is not in the table was not looked for. *Found* is what a step counted in them: kinds of
personal data, which it replaced, or evaluation sets whose items it met.

{cleaning}

Removed documents are listed with their reasons in `data/*/removals.parquet`, those of duplicates with the document that
was kept and the measured similarity:

{removals}

## What to do with it

The checkpoints below `runs/` are in the trainer's own form, so `from_pretrained` cannot load this folder. `pull` writes
one of them as a folder that transformers loads:

    everystep pull release --model {model} --step {stop} --out {model}-{stop}

Everything else that can be asked of a release:

{questions}

## Disclosures

What catalogues and laws ask for is in files of its own, computed from the manifests; a sentence that is not is marked
as a word of {publisher}: the data as [Croissant 1.1](croissant.json); the EU's
[Public Summary of Training Content](disclosures/training-content.md), also
[for programs](disclosures/training-content.json); California's [AB 2013](disclosures/ab2013.md); the Code of Practice's
[Model Documentation Form](disclosures/model-documentation.md); the [Model Openness Framework](mof.yml).

## Limits

In the words of {publisher}:

> {limits}
"""

MARKS = re.compile(r"[&<\\*`\[\]|#~$>]|(?<![^\W_])_|_(?![^\W_])")  # `_` inside a word is a letter
ENTITIES = {"&": "&amp;", "<": "&lt;", "\\": "&#92;"}  # a bracket after two backslashes begins a formula on the Hub
BLOCK = re.compile(r"^(\d*)(?=[-+=.)])")

# SPDX identifiers that the Hub knows in small letters (https://huggingface.co/docs/hub/repositories-licenses).
KNOWN_TO_HUB = """
    AFL-3.0 Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear BSL-1.0 CC0-1.0 CC-BY-2.0 CC-BY-2.5
    CC-BY-3.0 CC-BY-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC-BY-NC-2.0 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-ND-4.0 CC-BY-NC-ND-3.0
    CC-BY-NC-ND-4.0 CC-BY-NC-SA-2.0 CC-BY-NC-SA-3.0 CC-BY-NC-SA-4.0 CDLA-Permissive-1.0 CDLA-Permissive-2.0
    CDLA-Sharing-1.0 ECL-2.0 EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 ISC MIT MPL-2.0 MS-PL NCSA OFL-1.1 OSL-3.0 PostgreSQL
    Unlicense WTFPL Zlib
""".split()  # noqa: SIM905
OTHERWISE_KNOWN = {"AGPL-3.0-only": "agpl-3.0", "GPL-2.0-only": "gpl-2.0", "GPL-3.0-only": "gpl-3.0"}
HUB_LICENSES = {name: name.lower() for name in KNOWN_TO_HUB} | OTHERWISE_KNOWN


def write_card(facts: Facts) -> bytes:
    """The card from the facts of a release."""
    release, first = facts.release, facts.models[0]
    steps = [*(ancestor.step for ancestor in facts.ancestors[:1]), *first.steps]
    start, stop = steps[-3:][:2] if len(steps) > 1 else steps * 2
    models, sources, licenses, cleaning, removals = _tables(facts)
    text = front_matter(facts) + CARD.format(
        title=_first(f"{release.title}."),
        name=escaped(release.name),
        version=escaped(release.version),
        publisher=escaped(release.publisher),
        limits=_quoted(release.limits),
        num_sources=len(facts.sources),
        rows_a_step=first.global_batch,
        context=facts.context,
        rows=f"{facts.rows.train:,}",
        rows_read=f"{facts.rows.read:,}",
        share_read=percent(max(model.share_read for model in facts.models)),
        models=models,
        targets=f"{first.validation_tokens:,}",
        sources=sources,
        licenses=licenses,
        cleaning=cleaning,
        removals=removals,
        model=first.name,
        stop=stop,
        ancestors=_ancestors(facts),
        questions=_questions(first.name, start, stop),
        swhid=facts.swhid,
    )
    return text.encode()


def write_notice(facts: Facts) -> bytes:
    """What licences ask a redistributor to say."""
    lines = ["The rows and the tokenizer of this release derive from these texts:", ""]
    for source in facts.sources:
        lines.append(f"{source.name}: {source.title}. {source.issuer}. {source.license}.")
        lines += [f"    {line}".rstrip() for line in (source.attribution or "").split("\n") if line.strip()]
    return "\n".join([*lines, ""]).encode()


def front_matter(facts: Facts) -> str:
    """What the Hub reads of a card. It names no library: nothing can load the folder as a whole.

    Every text is quoted, because readers differ in what they take a bare word for: `no` is false in YAML 1.1, `0o10` is
    eight in YAML 1.2.
    """
    license = facts.release.license
    tag = HUB_LICENSES.get(license)
    datasets = sorted({source.repository for source in facts.sources if source.repository})
    metadata: dict[str, Any] = {"license": tag} if tag else {"license": "other", "license_name": license}
    metadata |= {"language": facts.languages} | ({"datasets": datasets} if datasets else {})
    metadata |= base_model(facts.release.base_model)
    lines = []
    for key, value in (metadata | {"tags": ["everystep", "reproducible"]}).items():
        lines += [f"{key}:", *(f"- {_in_quotes(item)}" for item in value)] if isinstance(value, list) else []
        lines += [f"{key}: {_in_quotes(value)}"] if isinstance(value, str) else []
    return "\n".join(["---", *lines, "---", ""])


def base_model(repository: str | None) -> dict[str, str]:
    """What the Hub reads of a model that was trained on from another. Of the relations that it knows, a training that
    goes on is a `finetune` (https://huggingface.co/docs/hub/model-cards#specifying-a-base-model)."""
    return {"base_model": repository, "base_model_relation": "finetune"} if repository else {}


def _ancestors(facts: Facts) -> str:
    """What the trainings went on from, a sentence for each generation; nothing if they began with new weights."""
    if not facts.ancestors:
        return ""
    began = (
        "\n**The models were trained on from a state of another release.** Its root manifest, and what proves the state"
    )
    lines = [f"{began},\nare in `data/parent`; the rows and all that they were made from are that release's.\n"]
    parents = [state for state in facts.ancestors if state.release_sha256 == facts.ancestors[0].release_sha256]
    for state in facts.ancestors:
        whose = "The models went on from" if len(parents) == 1 else "One of the models went on from"
        if state not in parents:
            whose = "That state went on from" if len(parents) == 1 else "One of these states went on from"
        lines.append(
            f"- {whose} `{state.model}` at step {state.step:,} ({state.tokens:,} tokens) of the release "
            f"{escaped(state.release)} {escaped(state.version)}: state `{state.state_digest}`, SHA-256 of "
            f"`release.json` `{state.release_sha256}`."
        )
    if facts.forgotten:
        lost = facts.forgotten
        lines.append(
            f"\n**It has forgotten {lost.documents:,} documents of that release.** Their {lost.tokens:,} tokens in "
            f"{lost.rows:,} rows are\nfiller, which no step was trained to predict; `manifests/forgotten.json` is the "
            f"certificate. Why, in the word of its\npublisher: {escaped(' '.join(lost.why.split()))}"
        )
    return "\n".join([*lines, ""])


def _tables(facts: Facts) -> list[str]:
    """Models, sources, licences, cleaning and removals: what the card says in numbers."""
    columns = ["documents", "documents read", "tokens", "tokens read"]
    sources = [[source.name, source.license, *_counts(source), source.title] for source in facts.sources]
    licenses = [[row.license, *_counts(row), percent(row.share), percent(row.share_read)] for row in facts.licenses]
    removals = [[stage, *pair] for stage, reasons in facts.removed.items() for pair in sorted(reasons.items())]
    return [
        models_table(facts.models),
        table(["source", "licence", *columns, "title"], sources),
        table(["licence", *columns, "share of tokens", "share of tokens read"], licenses),
        _cleaning_table(facts.cleaning),
        table(["stage", "reason", "documents"], removals),
    ]


def _counts(row: SourceFacts | LicenseFacts) -> list[int]:
    return [row.documents, row.documents_read, row.tokens, row.tokens_read]


def _cleaning_table(steps: list[StepTally]) -> str:
    """One line a step of the filter."""
    rows = [
        [step.step, step.documents, step.rewritten, sum(step.removed.values()), listed(step.counts)] for step in steps
    ]
    return table(["step", "documents", "rewritten", "removed", "found"], rows)


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


def table(header: list[str], rows: list[list[Any]]) -> str:
    """A Markdown table; numbers get thousands separators and are aligned to the right."""
    number = [all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(header))]
    lines = [header, ["---:" if right else "---" for right in number]]
    lines += [[_cell(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listed(counts: dict[str, int]) -> str:
    """What was counted, by kind, in one cell."""
    return ", ".join(f"{kind} {number:,}" for kind, number in counts.items())


def percent(share: float) -> str:
    """A share as text; a small one is never printed as 0.0%."""
    return "under 0.1%" if 0 < share < 0.0005 else f"{share:.1%}"


def escaped(text: str) -> str:
    """A piece of plain text as Markdown that shows just that, inside a line or a cell of a table."""
    return MARKS.sub(lambda mark: ENTITIES.get(mark[0], f"\\{mark[0]}"), text)


def _first(text: str) -> str:
    """The same at the beginning of a line, where it must begin neither a list nor an underline."""
    return BLOCK.sub(r"\1\\", escaped(text))


def _questions(model: str, start: int, stop: int) -> str:
    """Commands as a block of code, each with what it answers."""
    answers = {
        "verify release": "every digest, every file",
        f"trace release --model {model} --step {stop}": "the documents in that step's batch",
        f"replay release --model {model} --from {start} --to {stop}": "train that stretch again, compare",
    }
    width = max(map(len, answers))
    return "\n".join(f"    everystep {command:{width}}  # {answer}" for command, answer in answers.items())


def _quoted(text: str) -> str:
    """Paragraphs of plain text as the inside of a block quote, each line a line."""
    paragraphs = [paragraph.split("\n") for paragraph in re.split(r"\n(?:[^\S\n]*\n)+", text.strip())]
    lines = ["\\\n> ".join(_first(line.strip()) for line in paragraph) for paragraph in paragraphs]
    return "\n>\n> ".join(lines)


def _in_quotes(text: str) -> str:
    """A text in the double quotes of YAML, which are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _cell(cell: Any) -> str:
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return f"{cell:,}" if isinstance(cell, int) else escaped(str(cell))
