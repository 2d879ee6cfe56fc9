"""What went in: sources, licences, what became of the documents, what cleaning removed and why, duplicates."""

from collections.abc import Iterator

from pipeline.formats.manifests import StepTally
from pipeline.release.disclosures.evidence import ArtefactFacts, Evidence
from pipeline.release.facts import SourceFacts
from pipeline.release.markdown import percent
from pipeline.release.reasons import finding_in_words, reason_in_words, step_in_words
from pipeline.release.report.markup import (
    Cell,
    Content,
    Html,
    Marked,
    code,
    element,
    joined,
    listed,
    outside,
    paragraph,
    right,
    section,
    table,
)
from pipeline.release.report.overview import worded

FATES = {
    "read": ("read by a model", 0),
    "unread": ("in rows that no model read", 5),
    "held_out": ("held out", 2),
    "duplicates": ("duplicate", 3),
    "cleaning": ("removed by cleaning", 1),
    "cap": ("beyond the limit of its source", 7),
}
"""What becomes of a document → its words, and its colour."""
BAR = 100
HEATS = 3
ALL_STAGES = ("extract", "filter", "dedup")


def inputs_section(evidence: Evidence) -> Html:
    """The section."""
    return section(
        "inputs",
        "What went in",
        *_sources(evidence),
        *_fates(evidence),
        *_cleaning(evidence),
        *_duplicates(evidence),
    )


def _sources(evidence: Evidence) -> Iterator[Html]:
    rows, artefacts = evidence.rows, {artefact.source: artefact for artefact in evidence.artefacts}
    share = percent(rows.read / (rows.train or 1))
    yield paragraph(
        f"The models read {rows.read:,} of the {rows.train:,} training rows ({share}). A row holds "
        f"{evidence.context:,} tokens and the target of the last one, of a vocabulary of {evidence.vocabulary:,}. "
        "Titles and licences are the word of the publisher, with the place where each licence is stated; the files "
        "themselves were compared with pinned digests."
    )
    yield table(
        "Sources: documents and tokens of the training rows, and of the rows that a model read",
        [
            *("source", "licence", "languages"),
            *map(right, ("documents", "documents read", "tokens", "tokens read")),
        ],
        (
            [
                *(source.name, source.license, ", ".join(artefacts[source.name].languages)),
                *(source.documents, source.documents_read, source.tokens, source.tokens_read),
            ]
            for source in evidence.sources
        ),
    )
    yield table(
        "Where each source comes from",
        ["source", "what it is", "artefact", "issuer", "where its licence is stated", "collected"],
        (
            [
                source.name,
                _words(source.title),
                *_origin(artefacts[source.name], source),
                _collected(artefacts[source.name]),
            ]
            for source in evidence.sources
        ),
    )
    yield table(
        "By the licence of each document",
        [
            "licence",
            *map(right, ("documents", "documents read", "tokens", "tokens read", "share", "share of what was read")),
        ],
        (
            [
                *(row.license, row.documents, row.documents_read, row.tokens, row.tokens_read),
                *(percent(row.share), percent(row.share_read)),
            ]
            for row in evidence.licenses
        ),
    )


def _words(text: Content) -> Html:
    """A cell that needs room for a few words."""
    return element("div", text, class_="words")


def _origin(artefact: ArtefactFacts, source: SourceFacts) -> list[Cell]:
    named = element("a", artefact.identifier, href=artefact.link, rel="noreferrer")
    is_web = artefact.link.startswith(("https://", "http://"))
    return [named if is_web else artefact.identifier, *map(_words, (source.issuer, outside(source.evidence)))]


def _collected(artefact: ArtefactFacts) -> Cell:
    began, ended = artefact.collected_from or "not declared", artefact.collected_to or "not declared"
    return began if began == ended else f"{began} to {ended}"


def _fates(evidence: Evidence) -> Iterator[Html]:
    """What became of the documents, by source."""
    yield element("h3", "What became of the documents")
    yield listed(
        (joined([_key(color), element("span", words)]) for words, color in FATES.values()),
        class_="legend",
    )
    names = [*FATES]
    pairs = zip(evidence.sources, evidence.artefacts, strict=True)
    found = {source.name: fates(source, artefact) for source, artefact in pairs}
    totals = {name: sum(counts[name] for counts in found.values()) for name in names}
    rows = [*found.items(), ("all", totals)] if len(found) > 1 else [*found.items()]
    yield table(
        "Documents of each source, from the first that its reader found to the last that a model read",
        ["source", "shares", right("found"), *(right(words) for words, _ in FATES.values())],
        ([name, _bar(counts), sum(counts.values()), *(counts[fate] for fate in names)] for name, counts in rows),
    )


def fates(source: SourceFacts, artefact: ArtefactFacts) -> dict[str, int]:
    """How many documents of a source met each fate; a document that a mixture repeats is counted as often."""
    removed = dict(artefact.removed)
    others = {name: removed.pop(name, 0) for name in ("cap", "duplicates", "held_out")}
    return {
        "read": source.documents_read,
        "unread": source.documents - source.documents_read,
        "held_out": others["held_out"],
        "duplicates": others["duplicates"],
        "cleaning": sum(removed.values()),
        "cap": others["cap"],
    }


def _bar(counts: dict[str, int]) -> Html:
    """Shares as a bar; its numbers are in the other cells of its row."""
    whole, start, parts = sum(counts.values()) or 1, 0.0, []
    for fate, number in counts.items():
        width = BAR * number / whole
        parts.append(f'<rect class="c{FATES[fate][1]}" x="{start:.2f}" width="{width:.2f}" height="10"/>')
        start += width
    drawn = "".join(part for part in parts if 'width="0.00"' not in part)
    return Html(f'<svg class="bar" viewBox="0 0 {BAR} 10" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>')


def _key(color: int) -> Html:
    drawn = f'<rect class="c{color}" width="10" height="10"/>'
    return Html(f'<svg class="key" viewBox="0 0 10 10" aria-hidden="true">{drawn}</svg>')


def _cleaning(evidence: Evidence) -> Iterator[Html]:
    """The steps of cleaning, and the reasons."""
    yield element("h3", "What cleaning removed")
    yield paragraph(
        "Each step saw the documents that the steps before it left. What is not in the table was not looked for. Every "
        "removed document is listed, with its reason, in ",
        code("removals.parquet"),
        " of its stage.",
    )
    yield table(
        "Steps of cleaning, in their order, over all sources",
        ["step", "what it is for", *map(right, ("documents", "rewritten", "removed")), "found in them"],
        (_step(tally) for tally in evidence.cleaning),
    )
    reasons = [
        (stage, reason, number)
        for stage in ALL_STAGES
        for reason, number in sorted(evidence.removed.get(stage, {}).items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    total = sum(number for _, _, number in reasons)
    yield table(
        "Why documents were removed",
        ["documents that", right("documents"), right("share of the removed"), "name in the data"],
        (
            [reason_in_words(reason), number, percent(number / total), code(f"{stage}: {reason}")]
            for stage, reason, number in reasons
        ),
        class_="plain",
    )
    if evidence.evaluation_sets and any(tally.step == "contamination" for tally in evidence.cleaning):
        yield paragraph(
            "Documents that share a run of words with an item of an evaluation set were removed. The sets are ",
            f"{', '.join(evidence.evaluation_sets)}.",
        )


def _step(tally: StepTally) -> list[Cell]:
    found = ", ".join(f"{number:,} {finding_in_words(kind)}" for kind, number in tally.counts.items())
    return [
        code(tally.step),
        _words(step_in_words(tally.step)),
        *(tally.documents, tally.rewritten, sum(tally.removed.values()), found),
    ]


def _duplicates(evidence: Evidence) -> Iterator[Html]:
    """Duplicates as a matrix of sources."""
    yield element("h3", "Duplicates between sources")
    pairs = evidence.duplicates
    total = sum(number for kept in pairs.values() for number in kept.values())
    across = sum(number for name, kept in pairs.items() for other, number in kept.items() if other != name)
    yield paragraph(
        f"{worded(total, 'document').capitalize()} {'was' if total == 1 else 'were'} removed as the same, or nearly "
        f"the same, as one that was kept. {f'{across:,}' if across else 'None'} of them repeat a document of another "
        "source. Every removal names the document that was kept, and how similar the two are, in ",
        code("data/deduplicated/removals.parquet"),
        ".",
    )
    names = [source.name for source in evidence.sources]
    most = max((number for kept in pairs.values() for number in kept.values()), default=0)
    yield table(
        "Duplicates: the source of what was removed down, the source of what was kept in its place across",
        ["removed from", *map(right, names)],
        ([name, *(_heat(pairs.get(name, {}).get(other, 0), most) for other in names)] for name in names),
    )


def _heat(number: int, most: int) -> Cell:
    """A number on a ground that is the darker, the larger it is."""
    return Marked(number, f"heat{-(-HEATS * number // most)}") if number else number
