"""Both summaries of the training content for people: Markdown, with the numbers and the field names of their forms."""

from collections.abc import Iterator
from typing import Any

from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.disclosures.forms import CALIFORNIA, DATASET, EU, Part
from pipeline.release.disclosures.summary import SIZES, Tree, summary
from pipeline.release.disclosures.word import Markdown, Word, mark, told
from pipeline.release.markdown import escaped

PREFACE = """`release.json` has the digest of every file but itself and `SHA256SUMS`, this one included.
`everystep verify` renders this text again from the manifests and compares it. **What is marked {mark} is declared in
`params.yaml`; everything else is computed from the manifests.** A field for which nothing was declared says so."""


def write_training_content(evidence: Evidence) -> bytes:
    """The summary by the template for Article 53(1)(d) of the AI Act."""
    head = [
        "# Public Summary of Training Content for General-Purpose AI models",
        "required by Article 53(1)(d) of Regulation (EU) 2024/1689 (AI Act), following the template of 24 July 2025",
        PREFACE.format(mark=mark(evidence.release.publisher)),
        "The same facts for programs are in [training-content.json](training-content.json), other disclosures in "
        "[the same folder](.); the card is [README.md](../README.md).",
    ]
    return _page(head, EU, evidence)


def write_ab2013(evidence: Evidence) -> bytes:
    """The documentation that California's AB 2013 asks for, in the order of its twelve items."""
    models = ", ".join(model.name for model in evidence.models)
    release = evidence.release
    head = [
        "# Training Data Transparency",
        "required by California's AB 2013 (Civil Code, section 3111), in the order of its twelve items",
        PREFACE.format(mark=mark(release.publisher)),
        f"Developer: {told(Word(release.publisher), release.publisher)}. "
        f"Systems: the models {escaped(models)} of {escaped(release.name)} {escaped(release.version)}.",
    ]
    return _page(head, CALIFORNIA, evidence)


def _page(head: list[str], form: list[Part], evidence: Evidence) -> bytes:
    tree, whose = _shown(evidence), evidence.release.publisher
    blocks = list(head)
    for heading, place, fields in form:
        depth = heading.split(" ")[0].count(".")
        blocks.append(f"{'#' * (1 + max(depth, 1))} {heading}")
        for name, key in fields.items():
            blocks += _field(name, at(tree, f"{place}.{key}".lstrip(".")), whose)
    return ("\n\n".join(blocks) + "\n").encode()


def _field(name: str, value: Any, whose: str) -> Iterator[str]:
    """A field with its answer; one that holds no details because the answer before it was no is left out."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        yield f"**{name}:**"
        yield "\n".join(line for one in value for line in _dataset(one, whose))
    elif isinstance(value, list):
        yield f"**{named(name)}** {'; '.join(told(one, whose) for one in value) or 'none'}"
    elif value is not None:
        yield f"**{named(name)}** {told(value, whose)}"


def named(field: str) -> str:
    """The name of a field before its answer: a question needs no colon."""
    return field if field.endswith("?") else f"{field}:"


def _dataset(one: Tree, whose: str) -> Iterator[str]:
    yield f"- **{told(one['identifier_or_name'], whose)}**"
    for name, key in DATASET.items():
        value = one[key]
        yield f"  - {name}: {', '.join(value) if isinstance(value, list) else told(value, whose)}"


def _shown(evidence: Evidence) -> Tree:
    """The tree of the summary with what only people read: ticked boxes, documents, owners and periods in words."""
    tree = summary(evidence)
    general, sources, asked = tree["general_information"], tree["data_sources"], tree["ab2013"]
    chosen = general["modalities"][0]["size_range"]
    tree["status"] = f"valid for version {tree['version']} alone; a later version of the release replaces it"
    general["boxes"] = {
        "modality": _boxes(["Text", "Image", "Audio", "Video", "Other"], "Text"),
        "size": _boxes([name for _, name in SIZES], chosen),
    }
    general["model_identification"]["documentation"] = Markdown(
        "[card](../README.md), [Model Documentation Form](model-documentation.md), [manifests](../manifests/models)"
    )
    for one in (listed := sources["publicly_available_datasets"]["large_datasets"]):
        one |= {"modality": "text", "period": Word(_period(one))}
    asked["owners"] = [
        Word(f"{source.issuer}: {source.title} ({artefact.identifier})")
        for source, artefact in zip(evidence.sources, evidence.artefacts, strict=True)
    ]
    asked["periods"] = [
        Word(f"{one['identifier_or_name'].value}: {one['period'].value or 'not declared'}") for one in listed
    ]
    return tree


def _period(one: Tree) -> str | None:
    """When a data set was collected, from its two words."""
    begin: str | None
    end: str | None
    begin, end = (one[f"collection_{which}_date"].value for which in ("start", "end"))
    if begin == end:
        return begin
    return f"{begin or 'not known'} to {end or 'not known'}"


def _boxes(names: list[str], chosen: str) -> str:
    return "; ".join(f"[{'x' if name == chosen else ' '}] {name}" for name in names)


def at(tree: Any, place: str) -> Any:
    """What is at a dotted place of the tree."""
    for key in place.split("."):
        tree = tree[int(key)] if key.isdigit() else tree[key]
    return tree
