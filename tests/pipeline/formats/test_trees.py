"""Merkle trees of which some leaves are shown."""

from itertools import combinations

import pytest

from pipeline.base.errors import Differs
from pipeline.formats import trees


def leaves(count: int) -> list[bytes]:
    return [trees.leaf(bytes([number])) for number in range(count)]


def test_the_root_is_that_of_rfc_6962() -> None:
    """Section 2.1 splits after the largest power of two."""
    a, b, c, d, e, f, g = leaves(7)
    node = trees._node
    assert trees.root([a, b, c, d, e, f, g]) == node(node(node(a, b), node(c, d)), node(node(e, f), g))
    assert trees.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("count", range(1, 10))
def test_any_leaves_with_their_proof_give_the_root(count: int) -> None:
    all_leaves = leaves(count)
    for size in range(1, count + 1):
        for shown in combinations(range(count), size):
            proof = trees.prove(all_leaves, shown)
            assert trees.root_from(count, {n: all_leaves[n] for n in shown}, proof) == trees.root(all_leaves)


def test_a_proof_that_is_changed_gives_another_root_or_none() -> None:
    all_leaves = leaves(11)
    proof = trees.prove(all_leaves, [3, 4])
    shown = {n: all_leaves[n] for n in (3, 4)}
    assert trees.root_from(11, shown, [*proof[1:], proof[0]]) != trees.root(all_leaves)
    assert trees.root_from(11, shown | {3: all_leaves[5]}, proof) != trees.root(all_leaves)
    for wrong in (proof[1:], [*proof, proof[0]]):
        with pytest.raises(Differs, match="too"):
            trees.root_from(11, shown, wrong)
