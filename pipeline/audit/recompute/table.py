"""Table: what follows from the rest of a release, computed again without training and without the sources.

A forger makes every digest fit again, but cannot make a seed give other numbers, or a text another digest. So each
module beside this one computes one kind of fact that a release also states, and compares.
"""

from collections.abc import Callable, Iterator
from itertools import islice

from pipeline.audit.recompute.declared import declared_faults
from pipeline.audit.recompute.encoded import encoded_faults
from pipeline.audit.recompute.evaluations import evaluation_faults
from pipeline.audit.recompute.footers import footer_faults
from pipeline.audit.recompute.held_out import held_out_faults
from pipeline.audit.recompute.lock import lock_faults
from pipeline.audit.recompute.names import name_faults
from pipeline.audit.recompute.order import order_faults
from pipeline.audit.recompute.places import place_faults
from pipeline.audit.recompute.removals import contamination_faults, removal_faults
from pipeline.audit.recompute.replaced import replaced_faults
from pipeline.audit.recompute.report import report_faults
from pipeline.audit.recompute.rights import right_faults
from pipeline.audit.recompute.scores import score_faults
from pipeline.audit.recompute.shards import shard_faults
from pipeline.audit.recompute.states import first_state_faults, movement_faults
from pipeline.audit.recompute.suite import suite_faults
from pipeline.audit.recompute.tallies import tally_faults
from pipeline.audit.recompute.tasks import task_faults
from pipeline.audit.recompute.texts import text_faults
from pipeline.audit.recompute.tokenizer import tokenizer_faults
from pipeline.audit.recompute.written import written_faults
from pipeline.base.console import progress
from pipeline.base.errors import EverystepError, well_shaped
from pipeline.release.release import Release
from pipeline.search.faults import search_faults

MOST = 100
"""Faults of one kind that are listed: a swapped tokenizer makes one for every document."""

CHECKS: dict[str, Callable[[Release], Iterator[str]]] = {
    "names of files": name_faults,
    "canonical bytes": written_faults,
    "footers of tables": footer_faults,
    "parameters of stages": declared_faults,
    "recipes of the suite": suite_faults,
    "dvc.lock": lock_faults,
    "licences and sources": right_faults,
    "places of documents": place_faults,
    "held-out documents": held_out_faults,
    "removals": removal_faults,
    "contamination": contamination_faults,
    "replaced personal data": replaced_faults,
    "counts by document": tally_faults,
    "shards of documents": shard_faults,
    "documents compared and filled": encoded_faults,
    "order": order_faults,
    "tokenizer": tokenizer_faults,
    "texts of documents": text_faults,
    "search index": search_faults,
    "data of the explorer": report_faults,
    "tasks": task_faults,
    "first states": first_state_faults,
    "movements of the weights": movement_faults,
    "evaluations": evaluation_faults,
    "scores": score_faults,
}
"""What is computed again, in this order: first what is quick."""


def recomputed_faults(release: Release) -> Iterator[str]:
    """Each thing that does not come out again, one line each, with the file. Every file was compared before."""
    with progress("recompute", len(CHECKS), "checks") as advance:
        for name, check in CHECKS.items():
            yield from _listed(release, name, check)
            advance(1, name)


def _listed(release: Release, name: str, check: Callable[[Release], Iterator[str]]) -> Iterator[str]:
    """The first faults of a check; what stops it is one too."""
    try:
        with well_shaped(release.folder):
            found = [*islice(check(release), MOST + 1)]
    except (EverystepError, OSError) as error:
        found = [str(error)]
    yield from found[:MOST]
    if len(found) > MOST:
        yield f"{name}: more than {MOST} faults; the others are not listed"
