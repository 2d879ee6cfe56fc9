"""Mixture: passes over each source, and the number and places of a document's copies in the training split.

Shares are of tokens, the unit of training; documents are drawn after they are encoded. Passes are whole billionths, so
that every draw is integer arithmetic. Whether a document takes part in a fractional pass, and the place of each of its
copies, depends only on its id, the number of the copy and a seed.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.formats.documents import id_hash

ONE = 10**9
"""One pass over a source, in billionths."""


class Wish(NamedTuple):
    """Declared share of a source in the training tokens, if any, and its passes, with a share the upper limit."""

    share: float | None = None
    epochs: float = 1.0


def passes(tokens: Mapping[str, int], wishes: Mapping[str, Wish]) -> dict[str, int]:
    """Compute the passes over each source, in billionths, from the tokens that it has.

    A source without a share gets `epochs` passes. The others get as many as their shares of all training tokens
    require, at most `epochs`. If every source has a share, the total is as large as these limits allow.
    """
    wished = {source: wishes.get(source, Wish()) for source in sorted(tokens)}
    shares = {source: round(wish.share * ONE) for source, wish in wished.items() if wish.share is not None}
    most = {source: round(wish.epochs * ONE) for source, wish in wished.items()}
    for source in shares:
        if not tokens[source]:
            raise EverystepError(f"params.yaml: mixture.sources.{source}: has no text left for a share; set it to 0")
    total = _total(tokens, shares, most)
    found = {source: shares[source] * total // tokens[source] if source in shares else most[source] for source in most}
    for source in shares:
        if found[source] > most[source]:
            raise EverystepError(
                f"params.yaml: mixture.sources.{source}: its share of {total:,} tokens needs {found[source] / ONE:.3f} "
                f"passes over it, more than {most[source] / ONE:g}; raise its epochs, or lower its share"
            )
    return found


def num_copies(id: str, billionths: int, seed: int) -> int:
    """Count the copies of a document in the training split, from the billionths of a pass over its source."""
    whole, part = divmod(billionths, ONE)
    return whole + (part > 0 and id_hash(id, "mixture", seed) < part * (2**64 // ONE))


def place(id: str, copy: int, seed: int) -> int:
    """Hash a copy of a document, counted from 0, to its place in the shuffle; the first keeps the place of `dedup`."""
    return id_hash(id, f"shuffle-{copy}" if copy else "shuffle", seed)


def _total(tokens: Mapping[str, int], shares: Mapping[str, int], most: Mapping[str, int]) -> int:
    """Compute the tokens of the training split that make the shares come out."""
    declared = sum(shares.values())
    others = sum(most[source] * tokens[source] for source in tokens if source not in shares)
    if (others and declared >= ONE) or (not others and shares and declared != ONE):
        raise EverystepError(
            f"params.yaml: mixture.sources: the shares add up to {declared / ONE:g}; make it "
            + ("less than 1, since other sources have no share" if others else "1, since every source has a share")
        )
    if others:
        return others // (ONE - declared)
    return min((most[source] * tokens[source] // share for source, share in shares.items() if share), default=0)
