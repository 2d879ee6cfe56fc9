"""Recomputed: the table of what a release says of its data, computed again from its bytes, without training and without sources.

This is the third rung of verification (`docs/audit.md`): it comes after every digest was compared and everything that
is said twice agrees, and finds what was changed consistently. What only the sources show is left to a rebuild.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from pipeline.audit.recompute.declared import declared_faults
from pipeline.audit.recompute.encoded import encoded_faults
from pipeline.audit.recompute.footers import footer_faults
from pipeline.audit.recompute.held_out import held_out_faults
from pipeline.audit.recompute.lock import lock_faults
from pipeline.audit.recompute.names import name_faults
from pipeline.audit.recompute.order import order_faults
from pipeline.audit.recompute.places import place_faults
from pipeline.audit.recompute.removals import contamination_faults, removal_faults
from pipeline.audit.recompute.replaced import replaced_faults
from pipeline.audit.recompute.rights import right_faults
from pipeline.audit.recompute.shards import shard_faults
from pipeline.audit.recompute.suite import suite_faults
from pipeline.audit.recompute.tallies import tally_faults
from pipeline.audit.recompute.texts import text_faults
from pipeline.audit.recompute.tokenizer import tokenizer_faults
from pipeline.audit.recompute.written import written_faults
from pipeline.base.console import progress
from pipeline.base.errors import EverystepError, well_shaped
from pipeline.release.release import Release

MOST = 100
"""Faults of one kind that are listed: a swapped tokenizer makes one for every document."""


class Recomputed(NamedTuple):
    """One kind of fact that is computed again. `faults` yields a line for each that differs, and names the file."""

    title: str
    faults: Callable[[Release], Iterator[str]]


RECOMPUTED = (
    Recomputed("names of files", name_faults),
    Recomputed("canonical bytes", written_faults),
    Recomputed("footers of tables", footer_faults),
    Recomputed("parameters of stages", declared_faults),
    Recomputed("recipes of the suite", suite_faults),
    Recomputed("dvc.lock", lock_faults),
    Recomputed("licences and sources", right_faults),
    Recomputed("places of documents", place_faults),
    Recomputed("held-out documents", held_out_faults),
    Recomputed("removals", removal_faults),
    Recomputed("contamination", contamination_faults),
    Recomputed("replaced personal data", replaced_faults),
    Recomputed("counts by document", tally_faults),
    Recomputed("shards of documents", shard_faults),
    Recomputed("documents compared and filled", encoded_faults),
    Recomputed("order", order_faults),
    Recomputed("tokenizer", tokenizer_faults),
    Recomputed("texts of documents", text_faults),
)
"""In the order in which they are computed: what is quick and names the cause first."""


def faults(release: Release) -> Iterator[str]:
    """Each fact about the data of a release that its bytes do not give. Every file was compared before."""
    with progress("recompute", len(RECOMPUTED), "kinds") as advance:
        for title, each in RECOMPUTED:
            yield from _listed(release, title, each)
            advance(1, title)


def _listed(release: Release, title: str, each: Callable[[Release], Iterator[str]]) -> Iterator[str]:
    try:
        with well_shaped(release.folder):
            found = [*islice(each(release), MOST + 1)]
    except (EverystepError, OSError) as error:
        found = [str(error).removeprefix(f"{release.folder}/")]
    yield from found[:MOST]
    if len(found) > MOST:
        yield f"{title}: more than {MOST} faults; the others are not listed"
