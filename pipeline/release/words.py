"""Words of people about a release: the sections `descriptions` and `release` of `params.yaml`.

`descriptions` has what is said of each source and decides no byte of the data, so only the release stage depends on
it. `release.disclosures` answers what laws and forms ask and no manifest can know (`pipeline.release.disclosures`).
Every text is checked here, so that card, NOTICE and tables can show it letter by letter: a line has no line end, no
control character, and nothing that reorders the text around it.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.base.errors import EverystepError
from pipeline.base.files import PLAIN_NAME
from pipeline.base.spdx import License
from pipeline.base.yaml import Section, check
from pipeline.formats.canonical import Json

MAX_LINE, MAX_TEXT = 1000, 20_000  # characters
REFUSED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]")
"""Control characters, separators of lines, embeddings and overrides of direction, halves of a pair, no characters.
Marks of direction (U+200E, U+200F) and joiners (U+200D, in emoji) are text."""
INVISIBLE = ("Zs", "Cf")


def _line(value: str) -> str:
    if value.endswith("\n"):
        raise ValueError("ends with a line end; write `>-` instead of `>` or `|`")
    if "\n" in value:
        raise ValueError("is more than one line; write it as one, without an empty line inside")
    if value != value.strip():
        raise ValueError("begins or ends with a blank; remove it")
    return _bounded(value, MAX_LINE)


def _text(value: str) -> str:
    _bounded(value.replace("\n", " "), MAX_TEXT)
    return value


def _bounded(value: str, most: int) -> str:
    if found := REFUSED.search(value):
        raise ValueError(f"holds U+{ord(found[0]):04X}, an invisible control character; remove it")
    if all(unicodedata.category(character) in INVISIBLE for character in value):
        raise ValueError("is blank; write at least one word")
    if len(value) > most:
        raise ValueError(f"is {len(value):,} characters long; write at most {most:,}")
    return value


def _day(value: str) -> str:
    try:
        date.fromisoformat(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is no day; write it as '2026-11-25'") from error
    return value


def _quoted(value: Any) -> Any:
    if isinstance(value, date):
        raise ValueError(f"is a bare date; put it in quotes: '{value}'")
    return value


Line = Annotated[str, AfterValidator(_line)]
Text = Annotated[str, AfterValidator(_text)]
"""Lines and paragraphs of plain text: what looks like Markdown is shown as it is written."""
Day = Annotated[str, BeforeValidator(_quoted), Field(pattern=r"\A\d{4}-\d\d-\d\d\z"), AfterValidator(_day)]
Month = Annotated[str, Field(pattern=r"\A\d{4}-(0[1-9]|1[0-2])\z")]
Answer = Literal[False] | Text
"""No, or yes with what there is to say."""


class Description(Section):
    """What is said of a source."""

    title: Line
    issuer: Line
    """Who publishes the text under the licence that the source declares."""
    evidence: Line
    """Where the licence is stated: an address, or a path inside the artefact."""
    attribution: Text | None = None
    """A sentence that the licence asks whoever redistributes the text to carry; it enters the release's NOTICE."""
    content: Line | None = None
    """What kind of texts these are."""
    collected_from: Line | None = None
    """When the collection of the texts began: `MM/YYYY`, or in words where no month is known."""
    collected_to: Line | None = None
    """When it ended."""


class RowsDescription(Description):
    """What is said of rows that others published. Their licence decides no byte: no document of ours carries it."""

    license: License


class Disclosures(Section):
    """What laws and forms ask of a publisher and no manifest can know. What is left out is shown as not declared."""

    contact: Line | None = None
    """Where questions about these disclosures are answered."""
    representative: Line | None = None
    """Authorised representative in the European Union, or why none is needed."""
    address: Line | None = None
    """Where the publisher keeps the authoritative copy of the release."""
    versions: Text | None = None
    """Where all versions of the disclosures are, and where changes are announced."""
    changes: Text | None = None
    """What changed since the version before."""
    updated: Day | None = None
    """Day of the last change of the disclosures."""
    published: Day | None = None
    """Day on which the models were first released."""
    union_market: Line | None = None
    """Day on which the models were placed on the market of the European Union, or that they were not."""
    latest_data: Month | None = None
    """Month in which the newest data were acquired."""
    continuous: bool | None = None
    """Whether training goes on with newer data."""
    content: Line | None = None
    """Kinds of texts in the training data."""
    characteristics: Text | None = None
    """What is particular about the data, by nation, region or group of people."""
    licensed: Answer | None = None
    """Data licensed from rightsholders by commercial agreement."""
    private: Answer | None = None
    """Data that third parties provided and that are not public."""
    crawled: Answer | None = None
    """Data crawled by the publisher: crawlers, behaviour, period and domains."""
    prompts: Answer | None = None
    """Data from users of the models."""
    services: Answer | None = None
    """Data from users of other services of the publisher."""
    synthetic: Answer | None = None
    """Data generated by models for this training."""
    other: Answer | None = None
    """Data from other sources."""
    code_of_practice: bool | None = None
    """Whether the publisher signed the EU's Code of Practice for general-purpose AI models."""
    rights_reservations: Text | None = None
    """How opt-outs of text and data mining were respected."""
    copyright_policy: Text | None = None
    """A summary of the publisher's copyright policy."""
    illegal_content: Text | None = None
    """What was done against illegal content."""
    other_processing: Text | None = None
    """What else was done with the data that matters for rights."""
    purpose: Text | None = None
    """How the data serve the purpose of the models."""
    trademarks: bool | None = None
    """Whether the data hold content that is protected as a trademark."""
    patents: bool | None = None
    """Whether the data hold content that is protected by patents."""
    personal_information: bool | None = None
    """Whether the data hold personal information."""
    consumer_information: bool | None = None
    """Whether the data hold aggregate consumer information, as California defines it."""
    first_used: Day | None = None
    """Day on which the data were first used in development."""
    uses: Text | None = None
    """Uses that are intended, or that are restricted."""
    policy: Line | None = None
    """Where the acceptable use policy is, or that there is none."""
    integration: Text | None = None
    """Kinds of systems into which the models can be built."""
    distribution: Line | None = None
    """Channels through which the models are distributed."""
    rationale: Text | None = None
    """Why models and training were designed as they are."""
    unsuitable_data: Text | None = None
    """How it was found out which data are unsuitable."""
    biases: Text | None = None
    """How biases of the data were looked for."""
    training_time: Line | None = None
    """How long the training took, on which hardware."""
    energy: Line | None = None
    """Energy that the training used, and how it was measured."""
    inference: Line | None = None
    """Computation that inference takes, and how it was measured."""


class ReleaseParams(Section):
    """What the card says of the release."""

    name: Annotated[str, Field(pattern=f"^{PLAIN_NAME}$")]
    version: Line
    title: Line
    publisher: Line
    license: License
    """SPDX expression of the licence of the models and of the compilation; each document keeps its own."""
    base_model: Annotated[str, Field(pattern=r"\A[\w.-]+/[\w.-]+\z")] | None = None
    """Of a fork: repository on the Hub of the model that it goes on from, such as OWNER/NAME, if it is there."""
    repository: Line | None = None
    """Address of the repository of the program that built the release."""
    limits: Text
    """What the models cannot do and what is known to be wrong with them, in the publisher's words."""
    disclosures: Disclosures | None = None
    """Answers for laws and forms."""


class Words(Section):
    """Both sections."""

    descriptions: dict[str, Description]
    release: ReleaseParams


class WordsOnRows(Section):
    """The one section of a release that begins with rows that others published: it describes `rows`."""

    descriptions: dict[str, RowsDescription]


def check_words(params: Mapping[str, Json], sources: Sequence[str], where: str) -> Words:
    """The words of a whole `params.yaml`, read from the file `where`; each source has a description, nothing else."""
    words = check(Words, _sections(Words, params), where)
    _check_names(set(words.descriptions), set(sources), where)
    return words


def check_words_on_rows(params: Mapping[str, Json], where: str) -> None:
    """The same for a release that begins with rows that others published."""
    words = check(WordsOnRows, _sections(WordsOnRows, params), where)
    _check_names(set(words.descriptions), {"rows"}, where)


def _sections(model: type[Section], params: Mapping[str, Json]) -> dict[str, Json]:
    return {name: params[name] for name in model.model_fields if name in params}


def _check_names(described: set[str], sources: set[str], where: str) -> None:
    missing, unknown = sorted(sources - described), sorted(described - sources)
    if missing or unknown:
        lines = [f"{where}: descriptions.{name}: missing; say its title, issuer and evidence" for name in missing]
        fix = "there is no such source; remove it or correct its name"
        raise EverystepError("\n".join([*lines, *(f"{where}: descriptions.{name}: {fix}" for name in unknown)]))
