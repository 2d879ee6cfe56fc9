"""Repair of mojibake: UTF-8 that was decoded with another encoding (`schÃ¶n`), by ftfy (Speer 2019).

Nothing else is repaired: quotes, ligatures, widths, entities and control characters are left to `normalize`, or stay.
Each line is repaired by itself, because texts are assembled from parts with different histories.

`ftfy.fix_encoding` repeats until nothing changes. Of `Ãƒƒƒƒ` it removes one letter in each pass over the line, so its
time grows with the square of the line. Here a line gets at most `LAYERS` passes, and a long one is cut into pieces.
"""

import re
from functools import cache
from typing import Any

from pipeline.blocks.block import Outcome, Rewritten

LAYERS = 8  # times that a text may have been misread in a row; each makes its marks at least twice as long
# A line, or up to 10,000 characters of it that end between two ASCII characters if possible.
PIECE = re.compile(r".{1,10000}(?<=[\x00-\x7f])(?=[\x00-\x7f])|.{1,10000}", re.DOTALL)
MAX_PIECE = 10_000
AS_WINDOWS = [("encode", "latin-1"), ("decode", "windows-1252")]  # ftfy's step for lines in which it can repair no run


def repaired(text: str) -> Outcome:
    """Repair a text (the block); counts the lines it repairs. ASCII cannot be mojibake and is skipped."""
    if text.isascii():
        return None
    lines = text.split("\n")
    mended = [line if line.isascii() else _mended(line) for line in lines]
    changed = sum(new != old for new, old in zip(mended, lines, strict=True))
    return Rewritten("\n".join(mended), {"lines_mended": changed}) if changed else None


def _mended(line: str) -> str:
    if len(line) > MAX_PIECE:
        return "".join(_mended(piece) for piece in PIECE.findall(line))
    for _ in range(LAYERS):
        before = line
        line = _without_a_layer(line)
        if line == before:
            break
    return line


def _without_a_layer(line: str) -> str:
    """Repair, in ftfy's order, the whole line; else each run that looks like misread UTF-8; else single controls."""
    import ftfy
    from ftfy.badness import is_bad
    from ftfy.chardata import UTF8_DETECTOR_RE

    if not is_bad(line):
        return line
    whole, plan = ftfy.fix_encoding_and_explain(line, _settings())
    mended = line if plan is not None and plan[:2] == AS_WINDOWS else str(whole)
    mended = UTF8_DETECTOR_RE.sub(lambda run: _mended_run(run[0]), mended)
    return mended if mended != line else str(ftfy.fix_encoding(line, _settings()._replace(fix_c1_controls=True)))


def _mended_run(run: str) -> str:
    import ftfy
    from ftfy.badness import is_bad

    return str(ftfy.fix_encoding(run, _settings())) if is_bad(run) else run


@cache
def _settings() -> Any:
    from ftfy import TextFixerConfig

    return TextFixerConfig(
        unescape_html=False,
        remove_terminal_escapes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        uncurl_quotes=False,
        fix_line_breaks=False,
        fix_surrogates=False,
        remove_control_chars=False,
        normalization=None,
        decode_inconsistent_utf8=False,  # both are done above, a layer at a time
        fix_c1_controls=False,
    )
