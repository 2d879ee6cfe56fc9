"""How large the corpora are: as `sizes.yaml` declares before they are fetched, and as the manifests of a build say.

A project may have a file `sizes.yaml`, with the source of each figure. What neither it nor a manifest says is unknown.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import Field

from pipeline.base.console import note
from pipeline.base.paths import SIZES
from pipeline.base.yaml import Section, check, load_yaml
from pipeline.formats.canonical import parse
from pipeline.formats.manifests import FORMAT, Manifest, parse_manifest, path_of

M = TypeVar("M", bound=Manifest)
Number = Annotated[float, Field(gt=0, allow_inf_nan=False, strict=False)]


class Declared(Section):
    """A figure and its source."""

    value: Number
    source: Annotated[str, Field(alias="from")]


class SourceSizes(Section):
    """What is known of a source before it is fetched."""

    download: Declared | None = None
    """Bytes to fetch."""
    documents: Declared | None = None
    text: Declared | None = None
    """Bytes of text."""
    tokens: Declared | None = None


class RowsSizes(Section):
    """One file of rows that others published."""

    rows: Declared
    bytes: Declared


class Sizes(Section):
    """The whole file."""

    sources: dict[str, SourceSizes] = Field(default_factory=dict)
    bytes_per_token: Declared | None = None
    """Of text, where a source has one of both declared."""
    rows: RowsSizes | None = None


class Amount(NamedTuple):
    """A number, unknown or not, where it is from, and what a build came to."""

    value: float | None
    origin: str
    built: float | None = None


UNKNOWN = Amount(None, f"unknown before it is fetched; {SIZES} may declare it")


def load_sizes(folder: Path) -> Sizes:
    """Read what a project declares, which may be nothing."""
    path = folder / SIZES
    return check(Sizes, load_yaml(path), str(path)) if path.is_file() else Sizes()


def manifest(folder: Path, kind: type[M], of: str | None = None) -> M | None:
    """Read a manifest of an earlier build, if it is there, and of the version that this code reads."""
    path = path_of(kind, of)
    if not (folder / path).is_file():
        return None
    content = (folder / path).read_bytes()
    tree: Any = parse(content, path)
    if isinstance(tree, dict) and tree.get("format") != FORMAT:
        note(f"note: {path}: of another version of Everystep, so it is not compared")
        return None
    return parse_manifest(kind, content, path)


def whole(parts: Iterable[Amount]) -> Amount:
    """Add what is known of each source; unknown if one of them is."""
    amounts = list(parts)
    planned = [amount.value for amount in amounts]
    built = [amount.built for amount in amounts]
    origins = list(dict.fromkeys(amount.origin for amount in amounts if amount.value is None or None not in planned))
    return Amount(
        None if None in planned else sum(value for value in planned if value is not None),
        "; ".join(origins),
        None if None in built else sum(value for value in built if value is not None),
    )


def known(declared: Declared | None, built: float | None, stage: str) -> Amount:
    """A figure as declared or else, from an earlier build, as the manifest of a stage says."""
    if declared:
        return Amount(declared.value, declared.source, built)
    return UNKNOWN if built is None else Amount(built, f"manifests of the build ({stage})", built)


def converted(
    amount: Amount, other: Amount, factor: Declared | None, convert: Callable[[float, float], float]
) -> Amount:
    """What is unknown, from the other of text and tokens, by the declared bytes of a token."""
    if amount.value is not None or other.value is None or factor is None:
        return amount
    value = convert(other.value, factor.value)
    return Amount(value, f"by {factor.value:.4g} bytes of text a token ({factor.source})", amount.built)
