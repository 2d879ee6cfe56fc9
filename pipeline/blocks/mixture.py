"""Mixture: how often each source is passed over, and how often and where one of its documents stands.

Shares are of tokens: that is what training counts, and when documents are drawn they are encoded already. Passes are
whole billionths, so that every draw is integer arithmetic. Whether a document takes part in a pass that is not whole,
and where each of its copies stands, depends on its id, the number of the copy and a seed, on nothing else.
"""

from collections.abc import Mapping
from typing import NamedTuple

from pipeline.base.errors import EverystepError
from pipeline.formats.documents import id_hash

ONE = 10**9
"""One pass over a source, in billionths."""


class Wish(NamedTuple):
    """What is asked of a source: a share of the training tokens, or none; and its passes, with a share the most."""

    share: float | None = None
    epochs: float = 1.0


def passes(tokens: Mapping[str, int], wishes: Mapping[str, Wish]) -> dict[str, int]:
    """The passes over each source, in billionths, from the tokens that each holds.

    A source without a share is passed over `epochs` times. The others are passed over as often as their shares of all
    training tokens ask, at most `epochs` times. If every source has a share, the total is as large as that allows.
    """
    wished = {source: wishes.get(source, Wish()) for source in sorted(tokens)}
    shares = {source: round(wish.share * ONE) for source, wish in wished.items() if wish.share is not None}
    most = {source: round(wish.epochs * ONE) for source, wish in wished.items()}
    for source in shares:
        if not tokens[source]:
            raise EverystepError(f"params.yaml: mixture.sources.{source}: no text of it is left to take a share of")
    total = _total(tokens, shares, most)
    found = {source: shares[source] * total // tokens[source] if source in shares else most[source] for source in most}
    for source in shares:
        if found[source] > most[source]:
            raise EverystepError(
                f"params.yaml: mixture.sources.{source}: its share of {total:,} tokens takes {found[source] / ONE:.3f} "
                f"passes over it, more than {most[source] / ONE:g}; raise its epochs, or lower its share"
            )
    return found


def num_copies(id: str, billionths: int, seed: int) -> int:
    """How often a document stands in the training split, at so many billionths of a pass over its source."""
    whole, part = divmod(billionths, ONE)
    return whole + (part > 0 and id_hash(id, "mixture", seed) < part * (2**64 // ONE))


def place(id: str, copy: int, seed: int) -> int:
    """What a copy of a document, counted from 0, is shuffled by; the first stands where it would without the others."""
    return id_hash(id, f"shuffle-{copy}" if copy else "shuffle", seed)


def _total(tokens: Mapping[str, int], shares: Mapping[str, int], most: Mapping[str, int]) -> int:
    """The tokens of the training split for which the shares come out."""
    declared = sum(shares.values())
    others = sum(most[source] * tokens[source] for source in tokens if source not in shares)
    if (others and declared >= ONE) or (not others and shares and declared != ONE):
        raise EverystepError(
            f"params.yaml: mixture.sources: the shares add up to {declared / ONE:g}; make it "
            + ("less than 1, sources without a share have a part too" if others else "1, every source has a share")
        )
    if others:
        return others // (ONE - declared)
    return min((most[source] * tokens[source] // share for source, share in shares.items() if share), default=0)
