"""The tables of keys in `docs/formats.md` are those of the models: every key is specified, and nothing else is."""

import re
from typing import Any, get_args

import pytest

from pipeline.formats.checkpoints import Numerics, Record
from pipeline.formats.evidence import Evidence, Party
from pipeline.formats.lines import Shard
from pipeline.formats.log import Entry
from pipeline.formats.manifests import KINDS, Manifest, Splits
from pipeline.formats.receipts import Receipt, Verdict
from pipeline.formats.release import Revision, Root
from pipeline.formats.transcript import Claim, Head, Operation
from pipeline.formats.typed import Declared, Typed
from tests.pipeline.formats.vectors import DOCUMENT

TEXT = DOCUMENT.read_text("utf-8")
ELSEWHERE = (Shard, Numerics, Splits)
"""Models inside manifests that other sections specify, or one line of a table."""


def keys_of(model: type[Typed]) -> set[str]:
    """The keys of a model's own, as they are written."""
    bases: list[type[Typed]] = [other for other in (Manifest, *INSIDE) if other in model.__mro__[1:]]
    base = {name for other in bases for name in other.model_fields}
    return {field.alias or name for name, field in model.model_fields.items() if name not in base}


def inside(model: type[Typed]) -> list[type[Typed]]:
    """The models in the fields of a model, and in theirs; what is declared belongs to `params.yaml` and recipes."""
    found = [each for field in model.model_fields.values() for each in models_in(field.annotation)]
    return [deeper for each in found for deeper in (each, *inside(each))]


def models_in(annotation: Any) -> list[type[Typed]]:
    if isinstance(annotation, type) and issubclass(annotation, Typed):
        return [] if issubclass(annotation, Declared) else [annotation]
    return [model for argument in get_args(annotation) for model in models_in(argument)]


INSIDE = sorted({model for kind in KINDS.values() for model in inside(kind)}, key=lambda model: model.__name__)


def documented(text: str) -> set[str]:
    """The keys in the first column of the first table."""
    table = re.search(r"^\| key \|.*\n\|[-|]+\n((?:\|.*\n)*)", text, flags=re.M)
    assert table
    return {key for row in table[1].splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])}


def below(title: str) -> str:
    """What follows a bold title, or a heading."""
    found = re.search(rf"(?:\*\*{title}\*\*|^#+ [\d.]+ {title}$)(.*)", TEXT, flags=re.M | re.S)
    assert found, title
    return found[1]


def name_of(model: type[Typed]) -> str:
    """`StepTally` is titled "Step tally"."""
    return re.sub(r"(?<!^)[A-Z]", lambda letter: f" {letter[0].lower()}", model.__name__)


@pytest.mark.parametrize("stage", KINDS)
def test_keys_of_a_manifest_are_specified(stage: str) -> None:
    assert documented(below(f"`{stage}`")) == keys_of(KINDS[stage])


@pytest.mark.parametrize("model", [each for each in INSIDE if each not in ELSEWHERE], ids=name_of)
def test_keys_inside_manifests_are_specified(model: type[Typed]) -> None:
    assert documented(below(name_of(model))) == keys_of(model)


def test_keys_of_every_manifest_are_specified() -> None:
    assert documented(below("Form")) == set(Manifest.model_fields)


def test_keys_of_a_record_are_specified() -> None:
    assert documented(below("Record")) == keys_of(Record)
    assert documented(below("Record").partition("Keys of `numerics`")[2]) == keys_of(Numerics)


def test_keys_of_a_line_of_the_log_are_specified() -> None:
    assert documented(below("Log")) == keys_of(Entry)


@pytest.mark.parametrize("model", [Head, Operation, Claim, Evidence, Party], ids=name_of)
def test_keys_of_transcripts_and_evidence_are_specified(model: type[Typed]) -> None:
    assert documented(below(rf"{name_of(model)}\.")) == keys_of(model)


def test_keys_of_a_root_manifest_and_a_revision_are_specified() -> None:
    (root,) = re.findall(r"^\*\*Root manifest\.\*\* `\{(.*?)\}`", TEXT, flags=re.M)
    assert set(re.findall(r'"(\w+)"(?:,|$|:)', root)) == set(Root.model_fields)
    (line,) = re.findall(r"^\| `revisions.jsonl` \| (.*) \|$", TEXT, flags=re.M)
    assert set(re.findall(r"`(\w+)`", line)) == set(Revision.model_fields)


def test_the_keys_of_a_receipt_are_documented() -> None:
    text = below("Receipts")
    assert documented(text) == keys_of(Receipt)
    assert documented(text.partition("A verdict:")[2]) == keys_of(Verdict)
