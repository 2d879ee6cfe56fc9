"""The page of forgeries has those that the tests make."""

from tests.forgeries import OF_DATA, OF_MODELS, PAGE, with_table


def test_the_page_lists_every_forgery_of_the_tests() -> None:
    assert PAGE.read_text() == with_table(PAGE.read_text())


def test_no_two_forgeries_have_one_name() -> None:
    names = [forgery.name for forgery in (*OF_DATA, *OF_MODELS)]
    assert len({*names}) == len(names)
