"""Normalization of texts: Unicode NFC, LF line ends, no control characters, no trailing blanks.

All of it takes time in proportion to the text, for any text (`tests/test_costs.py`).
"""

import re
import unicodedata
from itertools import groupby

from pipeline.blocks.block import Outcome, Rewritten

# C0 and C1 controls except tab and LF, the byte order mark, and noncharacters that no text needs.
CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
ODD = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")  # what the two patterns replace
LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")  # a page break ends a line; removed, it would join two words
TRAILING = re.compile(r"(?<![ \t\u00a0])[ \t\u00a0]++$", re.MULTILINE)  # tried once for each run of blanks
TRAILED = (" \n", "\t\n", "\u00a0\n")
BLANK_LINES = re.compile(r"\n{3,}")
MARKS = re.compile(r"[^\w\s\x00-\x7f]{32,}")  # every long run of combining marks lies within such a run


def normalize(text: str) -> str:
    """Normalize a text. Law: `normalize(normalize(x)) == normalize(x)`."""
    if ODD.search(text):
        text = LINE_ENDS.sub("\n", text)
        text = CONTROLS.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", MARKS.sub(_in_canonical_order, text))
    text = text.strip()
    if any(end in text for end in TRAILED):
        text = TRAILING.sub("", text)
    return BLANK_LINES.sub("\n\n", text) if "\n\n\n" in text else text


def normalized(text: str) -> Outcome:
    """Normalize a text (the block)."""
    result = normalize(text)
    return None if result == text else Rewritten(result)


def _in_canonical_order(run: re.Match[str]) -> str:
    """Sort the marks of a run into canonical order (Unicode, section 3.11). `unicodedata` uses an insertion sort, which
    takes seconds for 20,000 marks, and grows with the square."""
    decomposed = "".join(unicodedata.normalize("NFD", character) for character in run[0])
    marks = groupby(decomposed, key=lambda character: unicodedata.combining(character) > 0)
    return "".join("".join(sorted(group, key=unicodedata.combining)) for _, group in marks)
