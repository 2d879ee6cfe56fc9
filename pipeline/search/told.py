"""Questions from the command line, and their answers for a program and for a person."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.release.release import Release
from pipeline.search.answers import Count, count, following, likelihoods, search
from pipeline.search.explain import MOST_IDS, Rules, explain
from pipeline.search.index import open_index
from pipeline.search.query import Texts, ids_of
from pipeline.search.timeline import Timeline, timeline_of


class Question(NamedTuple):
    """What is asked."""

    text: str | None
    ids: str | None
    model: str | None
    until: int | None
    limit: int = 10


class Told(NamedTuple):
    """An answer."""

    tree: dict[str, Any]
    """For a program."""
    lines: list[str]
    """For a person."""
    header: list[str]
    rows: list[list[str]]
    """A table after the lines, if it has rows."""


def tell_search(release: Release, asked: Question) -> Told:
    """Where a run of ids is."""
    with open_index(release) as index:
        ids = ids_of(release, index, asked.text, asked.ids)
        until = _timeline(release, asked)
        names = [until.model] if until else [asked.model] if asked.model else release.models()
        timelines = {name: until or timeline_of(release, name) for name in names}
        found = search(release, index, ids, timelines, until, asked.limit)
    lines = [*_about(release, ids), f"{_counted(found.count)}, in {_number(found.rows, 'row')}"]
    steps = {name: [place.first_steps[name] for place in found.shown] for name in names}
    if all(listed == steps[names[0]] for listed in steps.values()):  # one suite: usually all read alike
        steps = {"all models" if len(names) > 1 else names[0]: steps[names[0]]}
    header = ["row", "ids", *(f"first step of {name}" for name in steps), "source", "licence", "document"]
    rows = [
        [
            f"{place.row}",
            f"{place.start}..{place.stop}",
            *(str(listed[i] or "none") for listed in steps.values()),
            document.source,
            document.license,
            document.id,
        ]
        for i, place in enumerate(found.shown)
        for document in place.documents
    ]
    tree = asdict(found)
    return Told(_count_tree(release, found.count) | {"rows": found.rows, "shown": tree["shown"]}, lines, header, rows)


def tell_count(release: Release, asked: Question) -> Told:
    """How often a run of ids is there."""
    with open_index(release) as index:
        ids = ids_of(release, index, asked.text, asked.ids)
        found = count(index, ids, _timeline(release, asked))
    return Told(_count_tree(release, found), [*_about(release, ids), _counted(found)], [], [])


def tell_next(release: Release, asked: Question) -> Told:
    """What follows a context."""
    with open_index(release) as index:
        context = ids_of(release, index, asked.text, asked.ids)
        timeline = _timeline(release, asked)
        found = following(index, context, timeline, asked.limit)
    texts = Texts(release)
    lines = _about(release, context)
    if len(found.used) < len(context):
        lines.append(f"nothing follows the whole text; the last {len(found.used)} of its {len(context)} ids are used")
    times = f"{_number(found.total, 'time')} in all{_until(timeline)}"
    lines.append(f"followed by {_number(found.different, 'different id')}, {times}")
    rows = [[f"{one.id}", texts.quoted([one.id]), f"{one.count:,}", f"{one.probability:.6f}"] for one in found.shown]
    tree = asdict(found)
    for one in tree["shown"]:
        one["token"] = texts.text([one["id"]])
    return Told(tree, lines, ["id", "token", "count", "probability"], rows)


def tell_score(release: Release, asked: Question) -> Told:
    """How probable each id of a text is after those before it."""
    with open_index(release) as index:
        ids = ids_of(release, index, asked.text, asked.ids)
        timeline = _timeline(release, asked)
        found = likelihoods(index, ids, timeline)
    texts = Texts(release)
    never = sum(not one.count for one in found)
    bits = sum(one.bits for one in found if one.count)
    said = f"{bits:,.3f} bits for {_number(len(ids) - never, 'id')}"
    said += f"; not counted: {_number(never, 'id')} that never came after what is before" * (never > 0)
    rows = [
        [
            f"{one.id}",
            texts.quoted([one.id]),
            f"{one.used}",
            f"{one.count:,}",
            f"{one.total:,}",
            f"{one.count / one.total if one.total else 0:.6f}",
        ]
        for one in found
    ]
    tree = {
        "model": asked.model if timeline is None else timeline.model,
        "until": asked.until,
        "bits": None if never else bits,
        "ids": [
            asdict(one) | {"token": texts.text([one.id]), "probability": one.count / one.total if one.total else 0.0}
            for one in found
        ],
    }
    header = ["id", "token", "ids before", "count", "of", "probability"]
    return Told(tree, [*_about(release, ids), said + _until(timeline)], header, rows)


def tell_explain(release: Release, ids: Sequence[int], timeline: Timeline, rules: Rules) -> Told:
    """Which spans of a text the model had read."""
    if not ids:
        raise EverystepError("the text is empty; give at least one character")
    if len(ids) > MOST_IDS:
        raise EverystepError(f"the text has {len(ids):,} ids; at most {MOST_IDS:,} are explained at a time, so cut it")
    with open_index(release) as index:
        found = explain(release, index, ids, timeline, rules)
    marked, at = [], 0
    texts = Texts(release)
    for number, span in enumerate(found.spans, 1):  # spans may overlap: a mark ends where the next one begins
        marked.append(texts.text(ids[at : span.start]))
        at = min(span.stop, found.spans[number].start) if number < len(found.spans) else span.stop
        marked.append(f"[{number}: {texts.text(ids[span.start : at])}]")
    marked.append(texts.text(ids[at:]))
    lines = [
        "".join(marked),
        f"{_number(len(ids), 'id')}, {_number(found.maximal, 'maximal span')} that {found.model} had read at step "
        f"{found.until}, {len(found.spans)} shown",
    ]
    header = ["span", "ids", "reads", "places", "first step", "last step", "source", "licence", "document"]
    rows = [
        [
            f"{number}",
            f"{span.stop - span.start}",
            f"{span.reads:,}",
            f"{span.places:,}",
            str(place.first_steps[found.model]) if i else str(span.first_step),
            "" if i else str(span.last_step),
            document.source,
            document.license,
            document.id,
        ]
        for number, span in enumerate(found.spans, 1)
        for i, (place, document) in enumerate((place, one) for place in span.shown for one in place.documents)
    ]
    return Told(asdict(found), lines, header, rows)


def _timeline(release: Release, asked: Question) -> Timeline | None:
    """What the model that is asked about had read, if a step is given."""
    if asked.until is None:
        if asked.model is not None:
            release.model(asked.model)  # an unknown name is an error, also where it changes nothing
        return None
    names = release.models()
    if asked.model is None and len(names) != 1:
        raise EverystepError(f"--until: add --model, one of {', '.join(names)}")
    return timeline_of(release, asked.model or names[0], asked.until)


def _about(release: Release, ids: Sequence[int]) -> list[str]:
    texts = Texts(release)
    listed = ",".join(map(str, ids))
    return [f"{texts.quoted(ids)} as ids: {listed}", f"tokens: {texts.quoted(ids, between='|')}"]


def _count_tree(release: Release, found: Count) -> dict[str, Any]:
    texts = Texts(release)
    tree = asdict(found)
    return {"ids": tree.pop("ids"), "tokens": [texts.text([id]) for id in found.ids], **tree}


def _counted(found: Count) -> str:
    if found.until is None:
        return f"{_number(found.places, 'place')} in the training rows"
    return (
        f"read {_number(found.reads or 0, 'time')} by {found.model} until step {found.until}, "
        f"at {found.places_read:,} of {_number(found.places, 'place')}"
    )


def _number(number: int, of: str) -> str:
    return f"{number:,} {of}{'s' if number != 1 else ''}"


def _until(timeline: Timeline | None) -> str:
    return f", in what {timeline.model} had read at step {timeline.until}" if timeline else ""
