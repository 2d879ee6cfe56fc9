"""The page of forgeries has those that the tests make, and the kinds of facts that are computed again."""

from pipeline.audit.recompute.table import CHECKS
from tests.forgeries import FORGERIES, PAGE, with_table


def test_the_page_lists_every_forgery_of_the_tests() -> None:
    assert PAGE.read_text() == with_table(PAGE.read_text())


def test_no_two_forgeries_have_one_name() -> None:
    names = [forgery.name for _, forgery in FORGERIES]
    assert len({*names}) == len(names)


def test_the_page_names_every_kind_of_fact_in_its_order() -> None:
    _, _, section = PAGE.read_text().partition("## What is recomputed")
    cells = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("|")]
    assert cells[2:] == [*CHECKS]
