"""The card of a release, README.md, and its NOTICE: functions of the evidence, so that `verify` can make them again.

Every number is taken from a manifest of the release; what is somebody's word (a licence, a title, what the models
cannot do) is marked as theirs. These words are plain text: `escaped` keeps Markdown from reading them as anything else.
The sections of models, results and data have modules of their own.
"""

from pipeline.release.card_data import data_section
from pipeline.release.card_models import models_section
from pipeline.release.card_results import results_section
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.facts import Facts
from pipeline.release.front_matter import front_matter
from pipeline.release.markdown import escaped, first, quoted

CARD = """# {name} {version}

{title} Published by {publisher}; built by Everystep with `dvc repro` from {num_sources} public corpora.
Every file is digested in `release.json`; every checkpoint can be trained again to the same bits from this folder alone,
on a machine of the numerics class that its manifest names. [The report](report/index.html) is a page that shows more
than this card, down to the documents of each step; open it in a browser.
{ancestors}
![Validation loss of every checkpoint](loss.svg)

## Get a model

The checkpoints below `runs/` are in the trainer's own form, so `from_pretrained` cannot load this folder. `pull` writes
one of them as a folder that transformers loads:

    everystep pull release --model {model} --step {stop} --out {model}-{stop}

{program}

    python3 -m venv .venv && .venv/bin/pip install --constraint constraints.txt .

{models}
{results}
{data}
## What proves it

{questions}

- `manifests/code.json` lists every file of the code that built the release, by SHA-256. A folder with exactly these
  files has the Software Heritage identifier `{swhid}`.
- Contents digest, of all files but those that are written from them (this card, `NOTICE`, the pictures, the
  disclosures): `{contents}`.
- The SHA-256 of `release.json` promises every byte, this card included, so it cannot be in it: `everystep verify`
  prints it, the project that built the release has it in `manifests/release.json`, and every signature signs it.

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
PROGRAM = """The command is that of Everystep, the program that built this release{where}. It is on no package index:
what has its name there is another program. In a clone of its repository, this installs what a reader needs, without
torch and DVC:"""


def write_card(evidence: Evidence) -> bytes:
    """The card from the evidence of a release."""
    release, model = evidence.release, evidence.models[0]
    steps = [*(ancestor.step for ancestor in evidence.ancestors[:1]), *model.steps]
    start, stop = steps[-3:][:2] if len(steps) > 1 else steps * 2
    publisher = escaped(release.publisher)
    text = front_matter(evidence) + CARD.format(
        title=first(f"{release.title}."),
        name=escaped(release.name),
        version=escaped(release.version),
        publisher=publisher,
        limits=quoted(release.limits),
        num_sources=len(evidence.sources),
        ancestors=_ancestors(evidence),
        model=model.name,
        stop=stop,
        program=PROGRAM.format(where=f" ({escaped(release.repository)})" if release.repository else ""),
        models=models_section(evidence),
        results=results_section(evidence),
        data=data_section(evidence),
        questions=_questions(model.name, start, stop),
        swhid=evidence.swhid,
        contents=evidence.contents,
    )
    return text.encode()


def write_notice(facts: Facts) -> bytes:
    """What licences ask a redistributor to say."""
    lines = ["The rows and the tokenizer of this release derive from these texts:", ""]
    for source in facts.sources:
        lines.append(f"{source.name}: {source.title}. {source.issuer}. {source.license}.")
        lines += [f"    {line}".rstrip() for line in (source.attribution or "").split("\n") if line.strip()]
    return "\n".join([*lines, ""]).encode()


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


def _questions(model: str, start: int, stop: int) -> str:
    """Commands as a block of code, each with what it answers."""
    answers = {
        "verify release": "every digest, every file",
        f"trace release --model {model} --step {stop}": "the documents in that step's batch",
        f"replay release --model {model} --from {start} --to {stop}": "train that stretch again, compare",
    }
    width = max(map(len, answers))
    return "\n".join(f"    everystep {command:{width}}  # {answer}" for command, answer in answers.items())
