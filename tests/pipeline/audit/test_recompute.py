"""Recomputed facts of releases that repeat documents, leave some out, or move their middles."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.audit.recompute.encoded import encoded_faults
from pipeline.audit.recompute.held_out import held_out_faults
from pipeline.audit.recompute.order import order_faults
from pipeline.audit.recompute.places import place_faults
from pipeline.audit.recompute.removals import removal_faults
from pipeline.audit.recompute.replaced import replaced_faults
from pipeline.audit.recompute.rights import right_faults
from pipeline.audit.recompute.shards import shard_faults
from pipeline.audit.recompute.tallies import tally_faults
from pipeline.audit.recompute.texts import text_faults
from pipeline.audit.recompute.tokenizer import tokenizer_faults
from pipeline.release.release import Release
from tests.pipeline.audit.forging import Ids, Lines, edit, edit_index, edit_removals, edit_rows, placed
from tests.pipeline.stages.test_tokenize import tokenized
from tests.releases import copied, unsealed

MIXTURE = {"letters": {"epochs": 2.5}, "notes": {"share": 0.1}}
FILLED = {"share": 0.5, "suffix_first_share": 0.5}
CHECKS = (
    removal_faults,
    replaced_faults,
    right_faults,
    tally_faults,
    place_faults,
    held_out_faults,
    shard_faults,
    encoded_faults,
    order_faults,
    tokenizer_faults,
    text_faults,
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, built_project: Path) -> Path:
    """What `tokenize` makes of a mixture with fill-in-the-middle."""
    folder = tmp_path_factory.mktemp("mixed")
    tokenized(folder, built_project, MIXTURE, fill_in_the_middle=FILLED)
    shutil.rmtree(folder / "manifests/evaluations")  # they are of another tokenizer
    for stage in ("documents", "filtered"):
        for table in (built_project / "data" / stage).rglob("*.parquet"):
            copy = folder / table.relative_to(built_project)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(table, copy)
    return folder


def faults(project: Path) -> Iterator[str]:
    """What the checks find that need no sources and no models."""
    release: Release = unsealed(project)
    release.trust({*release.files})
    for check in CHECKS:
        yield from check(release)


def test_an_honest_mixture_with_moved_middles_gives_every_fact_again(mixed: Path) -> None:
    assert [*faults(mixed)] == []


def another_copy(project: Path) -> None:
    def repeat(lines: Lines) -> None:
        lines.insert(40, lines[40])
        placed(lines, 33)

    edit_index(project, repeat)


def other_passes(project: Path) -> None:
    edit(project, "tokens", lambda tree: tree["passes"].update(letters=2.25))


def other_middle(project: Path) -> None:
    """One sentinel in the place of another."""

    def change(ids: Ids) -> None:
        ids[next(place for place, id in enumerate(ids) if id == 2)] = 3

    edit_rows(project, change)


def removal_of_a_drawn_document(project: Path) -> None:
    drawn: Lines = []
    edit_index(project, lambda lines: drawn.extend(lines))
    edit_removals(project, "tokens", lambda lines: lines[0].update(id=drawn[0]["id"], source=drawn[0]["source"]))


def removal_forgotten(project: Path) -> None:
    edit_removals(project, "tokens", lambda lines: lines.pop())


def fewer_filled(project: Path) -> None:
    edit(project, "tokens", lambda tree: tree["filled_documents_by_source"].update(letters=1))


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (another_copy, "the copies that the mixture draws"),
        (other_passes, "the copies that the mixture draws"),
        (other_middle, "are not a text"),
        (removal_of_a_drawn_document, "and in the rows"),
        (removal_forgotten, "documents_by_source"),
        (fewer_filled, "filled_documents_by_source"),
    ],
)
def test_a_forged_mixture_is_found(mixed: Path, tmp_path: Path, forge: Callable[[Path], None], named: str) -> None:
    project = copied(mixed, tmp_path / "project")
    forge(project)
    assert any(named in fault for fault in faults(project))
