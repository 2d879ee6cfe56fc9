from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.base.errors import EverystepError
from pipeline.blocks.mixture import ONE, Wish, num_copies, passes, place
from pipeline.formats.documents import id_hash

IDS = [f"plays/{i}" for i in range(2000)]
TOKENS = st.dictionaries(st.sampled_from("abcde"), st.integers(10**6, 10**9), min_size=2)


@given(TOKENS)
def test_without_a_wish_every_source_is_passed_over_once(tokens: dict[str, int]) -> None:
    assert passes(tokens, {}) == dict.fromkeys(tokens, ONE)


@given(TOKENS, st.lists(st.integers(1, 400), min_size=5, max_size=5), st.floats(0.1, 4))
def test_shares_of_all_tokens_come_out(tokens: dict[str, int], parts: list[int], epochs: float) -> None:
    """Some source without a share, passed over `epochs` times; the others take what their shares ask."""
    plain, *others = sorted(tokens)
    shares = {source: part / 2001 for source, part in zip(others, parts, strict=False)}
    wishes = {source: Wish(share, 1e9) for source, share in shares.items()} | {plain: Wish(None, epochs)}
    found = passes(tokens, wishes)
    assert found[plain] == round(epochs * ONE)
    taken = {source: Fraction(found[source], ONE) * tokens[source] for source in tokens}
    for source, share in shares.items():
        assert abs(float(taken[source] / sum(taken.values())) - share) < 1e-5


@given(TOKENS, st.lists(st.integers(1, 9), min_size=5, max_size=5))
def test_where_every_source_has_a_share_one_of_them_is_used_up(tokens: dict[str, int], weights: list[int]) -> None:
    parts = dict(zip(sorted(tokens), weights, strict=False))
    shares = {source: round(part / sum(parts.values()), 6) for source, part in parts.items()}
    first = min(shares)
    shares[first] = round(1 - sum(share for source, share in shares.items() if source != first), 6)
    found = passes(tokens, {source: Wish(share, 2.0) for source, share in shares.items()})
    assert max(found.values()) == pytest.approx(2 * ONE, abs=ONE / 100) and max(found.values()) <= 2 * ONE


@pytest.mark.parametrize(
    ("wishes", "told"),
    [
        ({"a": Wish(0.9)}, r"mixture\.sources\.a: its share .* needs 9\.000 passes over it, more than 1"),
        ({"a": Wish(1.0)}, "add up to 1; make it less than 1"),
        ({"a": Wish(0.3), "b": Wish(0.3)}, "add up to 0.6; make it 1"),
        ({"a": Wish(0.3), "b": Wish(0.8)}, "add up to 1.1; make it 1"),
        ({"c": Wish(0.3)}, r"mixture\.sources\.c: has no text left"),
    ],
)
def test_a_mixture_that_cannot_be_is_told_so_with_its_key(wishes: dict[str, Wish], told: str) -> None:
    with pytest.raises(EverystepError, match=told):
        passes({"a": 100, "b": 100} | dict.fromkeys(wishes.keys() - {"a", "b"}, 0), wishes)


@given(st.integers(0, 5 * ONE), st.integers(0, 5 * ONE))
def test_more_passes_never_take_a_copy_away(some: int, others: int) -> None:
    assume(some <= others)
    assert all(num_copies(id, some, 7) <= num_copies(id, others, 7) for id in IDS[:50])


@pytest.mark.parametrize(("billionths", "low", "high"), [(ONE // 2, 0, 1), (3 * ONE // 2, 1, 2), (2 * ONE, 2, 2)])
def test_a_part_of_a_pass_takes_that_part_of_the_documents(billionths: int, low: int, high: int) -> None:
    copies = [num_copies(id, billionths, 7) for id in IDS]
    assert (min(copies), max(copies)) == (low, high)
    assert abs(sum(copies) / len(IDS) - billionths / ONE) < 0.04
    assert billionths == 2 * ONE or copies != [num_copies(id, billionths, 8) for id in IDS]


def test_the_first_copy_stands_where_dedup_shuffles_it_and_the_others_elsewhere() -> None:
    assert [place(id, 0, 7) for id in IDS] == [id_hash(id, "shuffle", 7) for id in IDS]
    assert len({place(id, copy, 7) for id in IDS for copy in range(3)}) == 3 * len(IDS)
    ranked = [sorted(IDS, key=lambda id: place(id, copy, 7)) for copy in (1, 2)]
    agree = sum(one == other for one, other in zip(*ranked, strict=True))
    assert agree < 10
