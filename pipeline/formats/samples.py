"""What a checkpoint writes after a prompt: a line of `results/MODEL/samples.jsonl`, and what `everystep sample` prints.

The lines are those that the command prints for the same checkpoint, prompt and number of tokens, with its own way to
draw if nothing else is asked for.
"""

import codecs
from collections.abc import Sequence

from pipeline.formats.typed import Count, Typed

NAME = "samples.jsonl"
END, CONTEXT, ENOUGH = "end of the document", "end of the context", "as many tokens as asked"
TEMPERATURE, TOP_K, SEED = 0.8, 50, 0
"""How tokens are drawn unless somebody asks for another way."""


class Written(Typed):
    """A line of `samples.jsonl`: what a checkpoint wrote."""

    revision: str
    """Name of the checkpoint."""
    step: Count
    """Its step."""
    prompt: str
    """Text that it continued; an empty one is the beginning of a document."""
    text: str
    """The bytes of `token_ids` as UTF-8; what is not UTF-8 becomes U+FFFD."""
    token_ids: list[Count]
    """Tokens that it wrote."""
    ended: str
    """Why it stopped: `end of the document`, `end of the context` or `as many tokens as asked`."""


def text_written(token_ids: Sequence[int], texts: Sequence[bytes]) -> str:
    """Decode tokens, of which `texts` are the bytes."""
    return codecs.decode(b"".join(texts[token] for token in token_ids), "utf-8", "replace")


def reason_to_end(token_ids: Sequence[int], end_token: int, asked: int) -> str:
    """Say why a continuation of at most `asked` tokens is no longer."""
    if token_ids and token_ids[-1] == end_token:
        return END
    return ENOUGH if len(token_ids) == asked else CONTEXT
