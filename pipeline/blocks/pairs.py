"""Minimal pairs: a place in a text as it is, and with one thing changed that a reader of the text would notice.

A rule finds the places of a text. Each becomes an item of two choices with the same context and the same number of
words: what the text says there, and the same with a change that a keyed hash of the place decides. So a model that
prefers the true one has learnt something of names, types or the order of words; one that cannot read prefers it half
the time. The gold choice is in the text word for word.
"""

import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from pipeline.formats.documents import id_hash, id_hashes
from pipeline.formats.tasks import Choice, Item, Task, ask

WORD = re.compile(r"\S+")
NAME = re.compile(r"[A-Za-z][A-Za-z' -]{0,39}")
SPACE = re.compile(r"\s")
TURN = re.compile(r"(?<=\S)(?P<gap>\n\n+)(?P<name>[^\n]+)\n(?P<line>[^\n]+)")
"""A paragraph of at least two lines, with the blank line before it; the first of a text has none."""
FIELD = re.compile(r"^(?:- )?\w+(?P<opening> \()(?P<type>[^()\n]{1,60})(?P<rest>\): \S.*)$", re.M)
SENTENCE = re.compile(r"(?:(?:(?<=\n)|\A)[^\W\d_]|(?<=[.?!] )[A-Z])[^\n.?!]*[.?!](?=\s|\Z)")
MOST_NAME_WORDS = 4
LEAST_WORDS = 6
"""Words of a sentence that is permuted."""


class Text(NamedTuple):
    """A document of which pairs are made."""

    id: str
    source: str
    text: str


class Limits(NamedTuple):
    """How much of a text an item holds."""

    characters: int
    """Of the context, before the place; it begins with a whole word."""
    words: int
    """Of a continuation, counted from the place."""


class Place(NamedTuple):
    """A place of a text where a rule applies."""

    text: Text
    start: int
    """Where the continuation begins."""
    true: str
    """The continuation as it is."""
    other: str | None
    """The continuation with the change; none if there is nothing to change."""


Rule = Callable[[Sequence[Text], Limits], Iterator[Place]]


def pairs(name: str, texts: Sequence[Text], limits: Limits) -> Iterator[Item | str]:
    """Yield an item for each place that the rule `name` finds, or the reason why there is none."""
    for text, start, true, other in RULES[name].places(texts, limits):
        context = _before(text.text, start, limits.characters)
        if other is None or not context:
            yield "no_context" if other is not None else "no_other"
            continue
        id = place_id(text, start)
        gold = id_hash(id, f"{name} gold") % 2
        told = (true, other) if gold == 0 else (other, true)
        yield Item(id=id, choices=[Choice(context=context, continuation=each) for each in told], gold=gold)


def pairs_asked(
    name: str, sources: Sequence[str], texts: Sequence[Text], limits: Limits, most: int
) -> tuple[list[Item], Task]:
    """At most `most` pairs of the rule `name` from the documents of these sources, and what a manifest says of them."""
    found = [*pairs(name, [text for text in texts if text.source in sources], limits)]
    left_out = Counter(each for each in found if isinstance(each, str))
    definition = {"rule": RULES[name].text, "sources": sorted(sources), **limits._asdict()}
    items = [each for each in found if isinstance(each, Item)]
    return ask(name, items, most, dict(sorted(left_out.items())), definition=definition)


def place_id(text: Text, start: int) -> str:
    """The id of the pair at a place: that of the document and the character where the continuation begins."""
    return f"{text.id}#{start}"


def swapped_speakers(texts: Sequence[Text], limits: Limits) -> Iterator[Place]:
    """Find the speeches of plays."""
    for text in texts:
        turns = [turn for turn in TURN.finditer(text.text) if NAME.fullmatch(turn["name"])]
        often = Counter(turn["name"] for turn in turns)
        speakers = {name: 1 for name, times in often.items() if times > 1 and _num_words(name) <= MOST_NAME_WORDS}
        pool = _Pool(speakers)
        for turn in turns:
            if turn["name"] not in speakers:
                continue
            other = pool.another(turn["name"], id_hash(place_id(text, turn.start()), "swapped_speaker"))
            gap, said = turn["gap"], f"\n{_first_words(turn['line'], limits.words)}"
            yield Place(text, turn.start(), f"{gap}{turn['name']}{said}", other and f"{gap}{other}{said}")


def swapped_types(texts: Sequence[Text], limits: Limits) -> Iterator[Place]:
    """Find the fields that documentation describes."""
    found = [(text, match) for text in texts for match in FIELD.finditer(text.text)]
    types: dict[str, Counter[str]] = {}
    for text, match in found:
        types.setdefault(text.source, Counter())[match["type"]] += 1
    pools = {source: _Pool(counted) for source, counted in types.items()}
    for text, match in found:
        start = match.start("opening")
        other = pools[text.source].another(match["type"], id_hash(place_id(text, start), "swapped_type"))
        opening, told = match["opening"], _first_words(match["rest"], limits.words)
        yield Place(text, start, f"{opening}{match['type']}{told}", other and f"{opening}{other}{told}")


def permuted_words(texts: Sequence[Text], limits: Limits) -> Iterator[Place]:
    """Find the sentences of a line."""
    for text in texts:
        for match in SENTENCE.finditer(text.text):
            words = match[0].split(" ")
            if len(words) < LEAST_WORDS or not all(words):
                continue
            start = match.start() + len(words[0])
            *inner, last = words[1 : 1 + limits.words]
            hashes = id_hashes((f"{place_id(text, start)} {i}" for i in range(len(inner))), "permuted_words")
            permuted = [word for _, word in sorted(zip(hashes, inner, strict=True))]
            true, other = (f" {' '.join([*order, last])}" for order in (inner, permuted))
            yield Place(text, start, true, None if other == true else other)


class _Pool:
    """Words or phrases, each with how often it occurs: one is exchanged for another with the same number of words."""

    def __init__(self, counted: Mapping[str, int]) -> None:
        self._members: dict[int, list[str]] = {}
        self._ends: dict[int, list[int]] = {}
        for member in sorted(counted):
            size = _num_words(member)
            ends = self._ends.setdefault(size, [])
            self._members.setdefault(size, []).append(member)
            ends.append((ends[-1] if ends else 0) + counted[member])

    def another(self, own: str, number: int) -> str | None:
        """The occurrence with this number, modulo their number, of those that are not `own`."""
        members, ends = self._members[_num_words(own)], self._ends[_num_words(own)]
        place = bisect_left(members, own)
        before = ends[place - 1] if place else 0
        count = ends[place] - before
        if count == ends[-1]:
            return None
        chosen = number % (ends[-1] - count)
        return members[bisect_right(ends, chosen if chosen < before else chosen + count)]


class Described(NamedTuple):
    """A rule and what it says, in words; a change of the words is another definition."""

    places: Rule
    text: str


RULES = {
    "swapped_speaker": Described(
        swapped_speakers,
        "A speech is a paragraph of at least two lines. Its first line is the name of the speaker: at most 40 letters, "
        "spaces, hyphens and apostrophes, at most four words, and the first line of at least two such paragraphs of "
        "the document. The continuation is the name and the beginning of the line after it; in the other choice the "
        "name is that of another speaker of the document with the same number of words.",
    ),
    "swapped_type": Described(
        swapped_types,
        "A field is a line that begins with a name, the type in parentheses, a colon and a description, with a hyphen "
        "before it or not. The continuation is the type and the beginning of the description; in the other choice the "
        "type is that of another field in the held-out documents of the source, a frequent one more often, with the "
        "same number of words.",
    ),
    "permuted_words": Described(
        permuted_words,
        "A sentence begins with a letter at the beginning of a line, or with a capital after the end of a sentence, "
        "ends with a full stop, question mark or exclamation mark, holds no other of these, and has at least six words "
        "with one space between two. Its first word belongs to the context. The continuation is the words after it; "
        "in the other choice all of these but the last are in the order of a hash.",
    ),
}
"""The rules by name."""


def _num_words(text: str) -> int:
    return len(text.split())


def _before(text: str, place: int, most: int) -> str:
    """The end of what is before a place, at most so many characters, from the beginning of a word."""
    start = max(0, place - most)
    if start:
        gap = SPACE.search(text, start - 1, place)
        start = gap.end() if gap else place
    return text[start:place].lstrip()


def _first_words(line: str, most: int) -> str:
    """The beginning of a line, up to the end of its last word of so many."""
    ends = [match.end() for match in WORD.finditer(line)][:most]
    return line[: ends[-1]] if ends else ""
