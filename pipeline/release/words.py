"""Words of people about a release: the sections `descriptions` and `release` of `params.yaml`.

`descriptions` has what is said of each source and decides no byte of the data, so only the release stage depends on
it. Every text is checked here, so that card, NOTICE and tables can show it letter by letter: a line has no line end, no
control character, and nothing that reorders the text around it.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

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


Line = Annotated[str, AfterValidator(_line)]
Text = Annotated[str, AfterValidator(_text)]
"""Lines and paragraphs of plain text: what looks like Markdown is shown as it is written."""


class Description(Section):
    """What is said of a source."""

    title: Line
    issuer: Line
    """Who publishes the text under the licence that the source declares."""
    evidence: Line
    """Where the licence is stated: an address, or a path inside the artefact."""
    attribution: Text | None = None
    """A sentence that the licence asks whoever redistributes the text to carry; it enters the release's NOTICE."""


class RowsDescription(Description):
    """What is said of rows that others published. Their licence decides no byte: no document of ours carries it."""

    license: License


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
    limits: Text
    """What the models cannot do and what is known to be wrong with them, in the publisher's words."""


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
