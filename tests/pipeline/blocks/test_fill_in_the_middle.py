"""Fill-in-the-middle as laws: nothing of a text is lost, shares come out, every draw is of one id and a seed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.blocks.fill_in_the_middle import Filling, whole
from pipeline.formats.vocabulary import END_OF_TEXT, FILL_MIDDLE, FILL_PREFIX, FILL_SUFFIX
from tests.pipeline.formats import second_reader as second

PREFIX_FIRST = [FILL_PREFIX, FILL_SUFFIX, FILL_MIDDLE, END_OF_TEXT]
SUFFIX_FIRST = [FILL_PREFIX, FILL_SUFFIX, FILL_MIDDLE, "", END_OF_TEXT]
IDS = [f"s/{number}" for number in range(4000)]
SEEDS = st.integers(0, 2**53 - 1)


@given(st.text(max_size=30), st.text(max_size=10), SEEDS, st.floats(0, 1))
def test_pieces_put_together_again_are_the_text(text: str, id: str, seed: int, suffix_first_share: float) -> None:
    pieces = Filling(1.0, suffix_first_share, seed).pieces(id, text)
    texts, marks = [piece for piece, _ in pieces], [mark for _, mark in pieces]
    if marks == PREFIX_FIRST:
        _, prefix, suffix, middle = texts
    else:
        assert marks == SUFFIX_FIRST
        _, _, suffix, prefix, middle = texts
    assert prefix + middle + suffix == text
    assert texts[0] == "" and (marks == PREFIX_FIRST or texts[1] == "")


@given(st.text(max_size=30), st.text(max_size=10), SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_a_reader_of_the_document_cuts_the_same(text: str, id: str, seed: int, share: float, order: float) -> None:
    assert Filling(share, order, seed).pieces(id, text) == second.fill_in_the_middle(id, text, seed, share, order)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_shares_come_out_up_to_the_chance_of_the_draw(share: float) -> None:
    filling = Filling(share, share, seed=7)
    chosen = [id for id in IDS if filling.chooses(id)]
    orders = [len(filling._replace(share=1.0).pieces(id, "text")) == len(SUFFIX_FIRST) for id in IDS]
    slack = 4 * (share * (1 - share) / len(IDS)) ** 0.5
    assert abs(len(chosen) / len(IDS) - share) <= slack
    assert abs(sum(orders) / len(IDS) - share) <= slack
    assert all((filling.pieces(id, "text") == whole("text")) == (id not in set(chosen)) for id in IDS[:200])


def test_both_cuts_are_uniform_over_the_characters_and_independent() -> None:
    """Of two uniform places among 10, both ends included, each pair is as likely as any other."""
    text = "0123456789"
    counts = dict.fromkeys(range(11), 0)
    empty = 0
    for id in IDS:
        _, (prefix, _), (suffix, _), (middle, _) = Filling(1.0, 0.0, seed=3).pieces(id, text)
        for place in (len(prefix), len(text) - len(suffix)):
            counts[place] += 1
        empty += not middle
    assert all(abs(count - 8000 / 11) < 4 * (8000 / 11) ** 0.5 for count in counts.values())
    assert abs(empty / len(IDS) - 1 / 11) < 4 * (1 / 11 * 10 / 11 / len(IDS)) ** 0.5


def test_choice_order_and_cuts_are_drawn_independently() -> None:
    half = Filling(0.5, 0.5, seed=1)
    chosen = {id for id in IDS if half.chooses(id)}
    suffix_first = {id for id in IDS if len(half._replace(share=1.0).pieces(id, "x")) == len(SUFFIX_FIRST)}
    assert abs(len(chosen & suffix_first) / len(IDS) - 0.25) < 4 * (0.25 * 0.75 / len(IDS)) ** 0.5
    assert chosen != {id for id in IDS if half._replace(seed=2).chooses(id)}
