"""Steps of a regular expression: Python's matcher spelt out, so that a test can count them and need no clock.

The same search as `re` makes, without its shortcuts: one step for each character that is compared with a class or a
literal. `count_steps` is trusted because it finds the matches that `re` finds, which it checks each time.
"""

import re
from collections.abc import Iterator
from re import _constants as op  # type: ignore[attr-defined]
from re import _parser  # type: ignore[attr-defined]
from typing import Any

Items = list[tuple[Any, Any]]
ONE_CHARACTER = (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN)


def count_steps(pattern: re.Pattern[Any], text: Any, whole: bool = False) -> int:
    """The steps of finding all matches, or of matching the whole text."""
    search = _Search(pattern, text)
    if whole:
        assert search.is_whole() == bool(pattern.fullmatch(text)), (pattern.pattern, text)
    else:
        assert search.spans() == [match.span() for match in pattern.finditer(text)], (pattern.pattern, text)
    return search.steps


def alphabet(pattern: re.Pattern[Any]) -> list[str]:
    """Characters that the pattern tells apart: one for each way in which its classes answer."""
    classes = list(_classes(_parse(pattern)))
    known = {chr(number) for number in range(128)} | set("é’“—ÃÂƒâ€\x85\xa0\u2028😀中")
    for kind, what in classes:
        for _, item in what if kind is op.IN else [(op.LITERAL, what)]:
            known |= {chr(item)} if isinstance(item, int) else set()
            known |= {*map(chr, item)} if isinstance(item, tuple) else set()
    told_apart: dict[tuple[bool, ...], str] = {}
    for character in sorted(known):
        answers = tuple(_is_in(kind, what, character, pattern.flags) for kind, what in classes)
        told_apart.setdefault(answers, character)
    return sorted(told_apart.values())


def _parse(pattern: re.Pattern[Any]) -> Items:
    return list(_parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG))


def _classes(items: Any) -> Iterator[tuple[Any, Any]]:
    for kind, what in items:
        if kind in ONE_CHARACTER:
            yield kind, what
        for nested in what if isinstance(what, (tuple, list)) and kind not in ONE_CHARACTER else ():
            for sequence in nested if isinstance(nested, list) else [nested]:
                if isinstance(sequence, _parser.SubPattern):
                    yield from _classes(sequence)


def _is_in(kind: Any, what: Any, character: str, flags: int) -> bool:
    if flags & re.IGNORECASE:
        return any(_is_exactly_in(kind, what, each, flags) for each in {character.lower(), character.upper()})
    return _is_exactly_in(kind, what, character, flags)


def _is_exactly_in(kind: Any, what: Any, character: str, flags: int) -> bool:
    code = ord(character)
    match kind:
        case op.LITERAL:
            return bool(code == what)
        case op.NOT_LITERAL:
            return bool(code != what)
        case op.ANY:
            return character != "\n" or bool(flags & re.DOTALL)
        case op.RANGE:
            return bool(what[0] <= code <= what[1])
        case op.CATEGORY:
            answer = {
                "DIGIT": character.isdecimal(),
                "SPACE": character.isspace(),
                "WORD": character.isalnum() or character == "_",
            }[str(what).rpartition("_")[2]]
            return answer is not ("_NOT_" in str(what))
    negated = what[0][0] is op.NEGATE
    return negated is not any(_is_exactly_in(kind, what, character, flags) for kind, what in what[negated:])


class _Search:
    def __init__(self, pattern: re.Pattern[Any], text: Any) -> None:
        self.steps = 0
        self._items, self._flags = _parse(pattern), pattern.flags
        self._text: str = text if isinstance(text, str) else text.decode("latin-1")
        self._groups: dict[int, tuple[int, int]] = {}

    def spans(self) -> list[tuple[int, int]]:
        found = []
        place = 0
        while place <= len(self._text):
            end = next(self._ends(self._items, place), None)
            if end is not None:
                found.append((place, end))
            place = end if end is not None and end > place else place + 1
        return found

    def is_whole(self) -> bool:
        return any(end == len(self._text) for end in self._ends(self._items, 0))

    def _ends(self, items: Any, place: int, first: int = 0) -> Iterator[int]:
        if first == len(items):
            yield place
            return
        kind, what = items[first]
        for end in self._one(kind, what, place):
            yield from self._ends(items, end, first + 1)

    def _one(self, kind: Any, what: Any, place: int) -> Iterator[int]:
        match kind:
            case op.LITERAL | op.NOT_LITERAL | op.ANY | op.IN:
                if self._takes(kind, what, place):
                    yield place + 1
            case op.BRANCH:
                for branch in what[1]:
                    yield from self._ends(branch, place)
            case op.SUBPATTERN:
                for end in self._ends(what[3], place):
                    before = self._groups.get(what[0])
                    self._groups[what[0]] = (place, end)
                    yield end
                    self._groups[what[0]] = before or (0, 0)
            case op.GROUPREF:
                start, end = self._groups.get(what, (0, 0))
                self.steps += end - start
                if self._text.startswith(self._text[start:end], place):
                    yield place + end - start
            case op.ATOMIC_GROUP:
                yield from [end for end in [next(self._ends(what, place), None)] if end is not None]
            case op.MAX_REPEAT | op.MIN_REPEAT | op.POSSESSIVE_REPEAT:
                low, high, items = what
                if kind is op.POSSESSIVE_REPEAT:
                    yield from [end for end in [next(self._greedy(items, low, high, place), None)] if end is not None]
                elif kind is op.MAX_REPEAT:
                    yield from self._greedy(items, low, high, place)
                else:
                    yield from self._lazy(items, low, high, place)
            case op.AT:
                if self._is_at(str(what), place):
                    yield place
            case op.ASSERT | op.ASSERT_NOT:
                direction, items = what
                start = place if direction > 0 else place - _parser.SubPattern(None, list(items)).getwidth()[0]
                found = start >= 0 and next(self._ends(items, start), None) is not None
                if found is (kind is op.ASSERT):
                    yield place
            case _:
                raise NotImplementedError(kind)

    def _takes(self, kind: Any, what: Any, place: int) -> bool:
        self.steps += 1
        return place < len(self._text) and _is_in(kind, what, self._text[place], self._flags)

    def _greedy(self, items: Any, low: int, high: Any, place: int) -> Iterator[int]:
        if len(items) == 1 and items[0][0] in ONE_CHARACTER:
            end = place
            while (high is op.MAXREPEAT or end - place < high) and self._takes(items[0][0], items[0][1], end):
                end += 1
            for each in range(end, place + low - 1, -1):
                self.steps += 1
                yield each
            return
        if high is op.MAXREPEAT or high > 0:
            for end in self._ends(items, place):
                if end > place:
                    less = high if high is op.MAXREPEAT else high - 1
                    yield from self._greedy(items, max(low - 1, 0), less, end)
        if low == 0:
            yield place

    def _lazy(self, items: Any, low: int, high: Any, place: int) -> Iterator[int]:
        if low == 0:
            yield place
        if high is op.MAXREPEAT or high > 0:
            for end in self._ends(items, place):
                if end > place:
                    less = high if high is op.MAXREPEAT else high - 1
                    yield from self._lazy(items, max(low - 1, 0), less, end)

    def _is_at(self, where: str, place: int) -> bool:
        text, lines = self._text, bool(self._flags & re.MULTILINE)
        if where == "AT_BEGINNING":
            return place == 0 or (lines and text[place - 1] == "\n")
        if where == "AT_END":
            rest = text[place : place + 2]
            return rest in ("", "\n") or (lines and rest[:1] == "\n")
        if where == "AT_BEGINNING_STRING":
            return place == 0
        if where == "AT_END_STRING":
            return place == len(text)
        beside = [place > 0 and _is_word(text[place - 1]), place < len(text) and _is_word(text[place])]
        return (beside[0] != beside[1]) is (where == "AT_BOUNDARY")


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
