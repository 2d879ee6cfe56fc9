"""English words and sentences, close enough to spaCy's for the published rules, and much faster.

datatrove splits English with spaCy's blank pipeline, which takes nine tenths of the time of its rules. A rule
such as "80% of words contain a letter" depends on where punctuation is split off, so splitting at blanks alone would
decide otherwise. How spaCy splits a run of non-blank characters depends on that run alone: punctuation is peeled from
both ends, contractions are split, and the rest is cut at some marks inside. The same is done here for most of English,
once for each distinct run, which is cached. `docs/benchmarks.md` (Filters) has cost and agreement.

Law: the words of a text, joined, are the text without its blanks.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from string import ascii_lowercase

REMEMBERED, MAX_REMEMBERED = 1 << 16, 48  # cached runs, and their length: no text can fill the memory
MAX_RUN = 1000  # a longer run of non-blank characters is data, not language: one word
LONGEST_SUFFIX = 8
ONE_AFTER_LETTERS = ',;:!?)]}"”'  # marks that are cut off alone after a letter

QUOTES = "'\"`´‘’‚“”„«»"
ICONS = "©®™\ufffd\u2190-\u2199\u2500-\u27bf\U0001f300-\U0001faff"  # Unicode's other symbols in texts
MARKS = re.escape(",:;!?¿¡()[]{}<>_#*&…·、。，" + QUOTES) + "—–§" + ICONS
FACES = r"\):|:\)|:\(|\(:|;\)|:-\)|:-\(|;-\)"
PREFIX = re.compile(rf"{FACES}|['’](?:em|s|bout|cause|nuff)\b|\.\.+|[{MARKS}%=$£€¥]|\+(?!\d)")
SUFFIX = re.compile(
    rf"(?:{FACES}|\.\.+|['’][sS]|(?<=\d)(?:[+$£€¥%KkMmhFT]|km|cm|mm|kg|mg|g|[KMGT]B|[kmgt]b)"
    rf"|(?<=[a-z\d%²+\-){QUOTES}\]])\.|(?<=[A-Z][A-Z])\.|[{MARKS}])$"
)
INFIX = re.compile(
    rf"\.\.+|…|[{ICONS}]|(?<=\d)[+\-*^](?=[\d-])|(?<=[a-z{QUOTES}])\.(?=[A-Z{QUOTES}])|(?<=[^\W\d_]),(?=[^\W\d_])"
    r"|(?<=[^\W_])(?:---?|[-–—~])(?=[^\W\d_])|(?<=[^\W_])[:<>=/](?=[^\W\d_])"
)
ADDRESS = re.compile(r"(?:[a-z][a-z\d+.-]*://)?(?:\S+@)?(?:[^\W_][\w-]*\.)+[a-z]{2,}(?::\d+)?(?:[/?#]\S*)?")
CONTRACTION = re.compile(
    r"(can)(not)|(wo|do)(nt)|(i|you|he|she|it|we|they|that|this|there|who|what|where|when|why|how)(['’](?:ll|re|ve|m|d))"
    r"|(ai|are|ca|could|did|does|do|had|has|have|is|might|must|need|ought|sha|should|was|were|wo|would)(n['’]t)"
    r"|(i|we)(d)",
    re.IGNORECASE,
)
LONGEST_CONTRACTION = 9
NOT_CONTRACTED = {"ID"}
UNDIVIDED = frozenset(
    """
    e.g. E.g. i.e. I.e. a.m. p.m. vs. Mr. Mrs. Ms. Messrs. Dr. Prof. St. Mt. Inc. Co. Corp. Ltd. Bros. Jr. Ave. Adm.
    Gen. Gov. Rep. Rev. Sen. Ph.D. Jan. Feb. Mar. Apr. Jun. Jul. Aug. Sep. Sept. Oct. Nov. Dec. and/or
    """.split()  # noqa: SIM905
) | {f"{letter}." for letter in "abcdefghijklmnopqrstuvwxyz"}
LONGEST_UNDIVIDED = max(map(len, UNDIVIDED))
SENTENCE_ENDS = frozenset(".!?…‼⁇⁈⁉。！？")


def split_words(text: str) -> list[str]:
    """Split a text into words and marks, in order."""
    words: list[str] = []
    for run in text.split():
        words += _remembered(run) if len(run) <= MAX_REMEMBERED else split_run(run)
    return words


def split_sentences(text: str) -> list[tuple[int, int]]:
    """List (start, end) of each sentence: a new one begins at the first word after `.`, `!`, `?` or the like."""
    sentences: list[tuple[int, int]] = []
    start = end = 0
    ended = False
    for word, place in _placed(text):
        if ended and any(map(str.isalnum, word)):
            sentences.append((start, end))
            start, ended = place, False
        ended = ended or word in SENTENCE_ENDS
        end = place + len(word)
    return [*sentences, (start, end)] if end else []


def _placed(text: str) -> Iterator[tuple[str, int]]:
    place = 0
    for word in split_words(text):
        place = text.index(word, place)
        yield word, place
        place += len(word)


def split_run(run: str) -> tuple[str, ...]:
    """Split a run of non-blank characters into words and marks."""
    if len(run) > MAX_RUN:
        return (run,)
    if plain := _split_letters(run):
        return plain
    start, end = 0, len(run)
    before: list[str] = []
    after: list[str] = []
    while start < end and not _is_undivided(run, start, end):
        prefix = PREFIX.match(run, start, end)
        if prefix:
            before.append(prefix[0])
            start = prefix.end()
            if _is_undivided(run, start, end):
                break
        suffix = SUFFIX.search(run, max(start, end - LONGEST_SUFFIX), end)
        if suffix:
            after.append(suffix[0])
            end = suffix.start()
        if not prefix and not suffix:
            break
    return (*before, *_split_core(run[start:end]), *reversed(after))


def _split_letters(run: str) -> tuple[str, ...]:
    """Split a run of letters with at most one mark after them, as most are; empty for any other."""
    if run.isalpha():
        return _contracted(run)
    letters, mark = run[:-1], run[-1]
    if not letters.isalpha():
        return ()
    if mark in ONE_AFTER_LETTERS or (mark == "." and letters[-1] in ascii_lowercase and run not in UNDIVIDED):
        return (*_contracted(letters), mark)
    return ()


def _is_undivided(run: str, start: int, end: int) -> bool:
    """Tell whether the rest of a run stays one word; a long rest is not copied for the lookup."""
    return end - start <= LONGEST_UNDIVIDED and run[start:end] in UNDIVIDED


def _split_core(core: str) -> list[str]:
    """Split the part between the punctuation at both ends into words."""
    if not core or core.isdigit() or core in UNDIVIDED or core in NOT_CONTRACTED or ADDRESS.fullmatch(core):
        return [core] if core else []
    parts = _contracted(core)
    if len(parts) > 1:
        return [*parts]
    words: list[str] = []
    start = 0
    for mark in INFIX.finditer(core):
        words += [core[start : mark.start()], mark[0]]
        start = mark.end()
    return [word for word in [*words, core[start:]] if word]


def _contracted(core: str) -> tuple[str, ...]:
    """Split a contraction into its two words."""
    if len(core) > LONGEST_CONTRACTION or core in NOT_CONTRACTED:
        return (core,)
    contraction = CONTRACTION.fullmatch(core)
    return tuple(part for part in contraction.groups() if part) if contraction else (core,)


_remembered = lru_cache(REMEMBERED)(split_run)
