"""Forget: what a release has of some documents, and what it costs to have a release without them.

The documents are named by id or by source, or found by a text: then they are those whose ids, decoded, contain it. A
document that occurs in several copies is found in each. What follows from them is in `pipeline.release.forgetting`.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.audit.trace import absent
from pipeline.base.errors import EverystepError
from pipeline.base.paths import TOKENIZER, TOKENS
from pipeline.base.suggest import did_you_mean
from pipeline.formats.forgotten import Forgotten
from pipeline.formats.manifests import Forgetting, Parent, Tokens, path_of
from pipeline.formats.release import ROOT
from pipeline.formats.rows import DocumentIndex, Rows
from pipeline.formats.vocabulary import token_texts
from pipeline.release.ancestors import root_sha256
from pipeline.release.forgetting import Model, forgetting_faults, forgotten_of, plan, tokens_without
from pipeline.release.release import Release

SHOWN = 8
"""Documents, rows and steps that the report lists of each."""
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document of the training rows that is to be forgotten, once for each copy."""

    id: str
    source: str
    license: str
    tokens: int
    """Its ids in rows, the end token included; those in the dropped tail are in none."""


@dataclass(frozen=True, kw_only=True)
class Touched:
    """What a release has of some documents."""

    documents: list[Document]
    sources: list[str]
    """Named sources of which each training document is to be forgotten, and none was before."""
    held_out: list[str]
    """Ids of those that no training reads, because they are held out: they stay where they are."""
    removed: list[str]
    """Ids of those that a stage removed: no row has them."""
    forgotten: list[str]
    """Ids of those that the release has forgotten before."""
    rows: list[int]
    """Training rows that hold any of the documents, ascending."""
    ids: int
    """Ids in these rows that are theirs."""
    models: list[Model]

    def ids_alone(self) -> list[str]:
        """Ids of the documents that are not of a named source, sorted."""
        return sorted({document.id for document in self.documents if document.source not in self.sources})

    def to_json(self) -> dict[str, Any]:
        """The tree of what is printed."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Selected:
    """Training documents that were named, or found by a text, and where the others of these names are."""

    index: DocumentIndex
    chosen: Bools
    """The documents of the index that rows still hold the ids of; shape (documents,)."""
    documents: list[Document]
    """These."""
    spans: Forgotten
    """Their pieces of rows."""
    held_out: list[str]
    """Ids that are held out."""
    removed: list[str]
    """Ids that a stage removed."""
    forgotten: list[str]
    """Ids that the release has forgotten before."""
    sources: list[str]
    """Named sources of which nothing was forgotten before."""

    def nothing(self) -> str:
        """Why no training row holds any of them; empty if one does."""
        if self.spans.num_ids:
            return ""
        for ids, what in (
            (self.forgotten, "is forgotten in this release already"),
            (self.held_out, "is held out for validation; no training reads it"),
            (self.removed, "was removed before training; `everystep trace` says why"),
            ([document.id for document in self.documents], "is in the last, incomplete row, which is dropped"),
        ):
            if ids:
                return f"{ids[0]} {what}"
        return "no document of this release is chosen"


def touched(release: Release, documents: Collection[str], sources: Collection[str], text: str | None) -> Touched:
    """What the release has of the documents with these ids or sources, and of those that contain the text.

    An unknown id or source is an error, and so is a choice that the training rows hold nothing of.
    """
    if not documents and not sources and text is None:
        raise EverystepError("forget: give --document, --source or --match")
    found = selected(release, documents, sources, text)
    if nothing := found.nothing():
        raise EverystepError(f"nothing to forget: {nothing}")
    return Touched(
        documents=found.documents,
        sources=found.sources,
        held_out=found.held_out,
        removed=found.removed,
        forgotten=found.forgotten,
        rows=found.spans.rows.tolist(),
        ids=found.spans.num_ids,
        models=plan(release, found.spans.rows),
    )


def selected(
    release: Release,
    documents: Collection[str],
    sources: Collection[str],
    text: str | None,
    options: tuple[str, str] = ("--document", "--source"),
) -> Selected:
    """Find the documents with these ids or sources, and those that contain the text; an unknown id or source, which
    the reader named with these `options`, is an error."""
    _require_known(release, sources, options[1])
    tokens, (index, chosen), (others, held_out) = (
        release.manifest(Tokens),
        *(_chosen(release, split, documents, sources, text) for split in ("train", "validation")),
    )
    lost = forgotten_of(release)
    again = np.zeros_like(chosen) if lost is None else chosen & index.having(lost.spans)
    new = chosen & ~again
    about = index.names_of(new)
    elsewhere = [index.names_of(again), others.names_of(held_out)]
    before, kept = (sorted({name["id"] for name in names}) for names in elsewhere)
    removed = sorted({*documents} - {name["id"] for name in about} - {*before} - {*kept})
    for id in removed:
        absent(release, id, options[0])  # an unknown id is an error
    starts, stops = (places[new] for places in index.bounds())
    in_rows = np.clip(tokens.splits.train.rows * tokens.width - starts, 0, stops - starts)
    return Selected(
        index=index,
        chosen=new,
        documents=[Document(**name, tokens=number) for name, number in zip(about, in_rows.tolist(), strict=True)],
        spans=Forgotten(index.spans_of(new), tokens.end_token),
        held_out=kept,
        removed=removed,
        forgotten=before,
        sources=sorted({*sources} - {name["source"] for name in elsewhere[0]}),
    )


def _require_known(release: Release, sources: Collection[str], option: str) -> None:
    known = release.sources()
    for source in sources:
        if source not in known:
            hint = did_you_mean(source, known)
            raise EverystepError(f"{option} {source}: not in this release, which has {', '.join(known)}{hint}")


def _chosen(
    release: Release, split: str, documents: Collection[str], sources: Collection[str], text: str | None
) -> tuple[DocumentIndex, Bools]:
    """The index of a split, and which of its documents are chosen."""
    tokens = release.manifest(Tokens)
    num_rows = {"train": tokens.splits.train.rows, "validation": tokens.splits.validation.rows}[split]
    index = DocumentIndex(release.file(TOKENS / f"{split}.parquet"), tokens.width, num_rows)
    chosen = index.chosen(documents, sources)
    return index, chosen if text is None else chosen | containing(release, split, index, text)


def containing(release: Release, split: str, index: DocumentIndex, text: str) -> Bools:
    """Mark the documents whose ids, decoded, contain a text, byte for byte; shape (documents,).

    Special tokens, which are not text, are skipped. A document with fill-in-the-middle is read as it is in the rows;
    of one that the end of the rows cuts, what is in them is read.
    """
    if not text:
        raise EverystepError("--match: every document contains the empty text; give a longer one")
    wanted, texts = text.encode(), token_texts(release.file(TOKENIZER))
    starts, stops = index.bounds()
    found = np.zeros(len(starts), dtype=np.bool_)
    document, first, pieces = 0, 0, [np.empty(0, dtype=np.int64)]  # ids from place `first` of the stream on
    read = 0
    for row in [*_rows(release, split), None]:
        if row is not None:
            pieces.append(row)
            read += len(row)
        if document == len(starts) or (row is not None and stops[document] > read):
            continue
        ids = np.concatenate(pieces)
        while document < len(starts) and (stops[document] <= read or row is None) and starts[document] < read:
            own = ids[starts[document] - first : stops[document] - first]
            found[document] = wanted in b"".join([texts[id] for id in own.tolist()])
            document += 1
        pieces, first = [ids[starts[document] - first :]] if document < len(starts) else [], read
        first -= sum(map(len, pieces))
    return found


def _rows(release: Release, split: str) -> Iterator[NDArray[np.int64]]:
    """Every row of a split in its order."""
    tokens = release.manifest(Tokens)
    for shard in tokens.shards(split):
        release.file(TOKENS / shard.path)
        yield from Rows(release.folder / TOKENS, [shard], tokens.width, tokens.vocabulary)


def compare(release: Release, successor: Release) -> list[str]:
    """What is wrong with the certificate of a successor, as faults: all of it is computed again, and its rows are made
    again from those of the release before it."""
    if path_of(Forgetting).as_posix() not in successor.files:
        raise EverystepError(f"{successor.address}: has no {path_of(Forgetting)}; it has forgotten nothing")
    if (made_from := successor.manifest(Parent).parameters.release_sha256) != root_sha256(release):
        raise EverystepError(
            f"{successor.address}: was made from another release than {release.address}: one whose {ROOT} has the "
            f"SHA-256 {made_from}"
        )
    faults, lost = list(forgetting_faults(successor)), forgotten_of(successor)
    if not faults and lost is not None:
        with TemporaryDirectory(prefix="everystep-forget-") as folder:
            expected = tokens_without(release, lost, Path(folder))
        if expected != successor.manifest(Tokens).to_json():
            faults.append(f"{path_of(Tokens)}: its rows are not those of {release.address} with filler in the spans")
    return faults


def told(found: Touched) -> Iterator[str]:
    """The report on the documents, line by line."""
    tokens = {document.id: document.tokens for document in found.documents}
    yield f"{count(len(found.documents), 'document')}: {_listed([f'{id} ({n:,} tokens)' for id, n in tokens.items()])}"
    for what, ids in (
        ("held out, so no training reads them, and they stay", found.held_out),
        ("removed before training", found.removed),
        ("forgotten before", found.forgotten),
    ):
        if ids:
            yield f"{what}: {_listed(ids)}"
    yield f"{count(len(found.rows), 'row')} with {found.ids:,} of their tokens: {_listed(found.rows)}"


def costs(found: Touched) -> list[list[str]]:
    """The report on the models, as rows of a table."""
    return [
        [
            model.name,
            f"{count(len(model.steps), 'step')}: {_listed(model.steps)}" if model.steps else "no step",
            f"step {model.clean}, {'stored' if model.is_stored else 'virtual'}",
            f"{count(model.steps_again, 'step')}, {model.tokens_again:,} tokens",
            f"{100 * model.share:.1f} %",
        ]
        for model in found.models
    ]


COLUMNS = ["model", "read them", "goes on from", "trains again", "share"]


def count(number: int, what: str) -> str:
    """Print a number of things."""
    return f"{number:,} {what}" + "s" * (number != 1)


def _listed(items: Sequence[object]) -> str:
    return ", ".join([*map(str, items[:SHOWN]), *["..."] * (len(items) > SHOWN)])
