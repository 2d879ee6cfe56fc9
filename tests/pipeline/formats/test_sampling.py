"""Which stretches a beacon chooses: a fair draw, of which the formula says how often it catches."""

import hashlib
from collections import Counter
from itertools import combinations, pairwise

import pytest

from pipeline.base.errors import EverystepError
from pipeline.formats.sampling import Stretch, chance_to_catch, choose, parse_beacon

ROOT = hashlib.sha256(b"a release").hexdigest()
EVERY = [Stretch(model, start, start + 1) for model in ("a", "b") for start in range(5)]


def beacon(number: int) -> str:
    return hashlib.sha256(f"round {number}".encode()).hexdigest()


@pytest.mark.parametrize("sample", range(1, 11))
@pytest.mark.parametrize("bad", [1, 2, 5])
def test_the_chance_is_the_share_of_all_samples_that_hold_a_bad_stretch(bad: int, sample: int) -> None:
    samples = list(combinations(range(10), sample))
    caught = sum(min(chosen) < bad for chosen in samples)
    assert chance_to_catch(bad, sample, 10) == caught / len(samples)


def test_the_chance_is_exact_where_a_product_of_floats_would_not_be() -> None:
    assert chance_to_catch(1, 1, 10**6) == 1e-6
    assert chance_to_catch(5, 10**6, 10**6) == 1.0
    assert chance_to_catch(2, 10**6 - 2, 10**6) == 1 - 2 / (10**6 * (10**6 - 1))


def test_beacons_choose_every_stretch_and_every_pair_equally_often() -> None:
    """Deterministic: the beacons are numbered. 3,000 draws of 3 of 10; five standard deviations."""
    draws = [choose(ROOT, beacon(number), EVERY, 3) for number in range(3000)]
    for size in (1, 2):
        counted = Counter(part for draw in draws for part in combinations(draw, size))
        share = {1: 0.3, 2: 1 / 15}[size]
        allowed = 5 * (len(draws) * share * (1 - share)) ** 0.5
        assert len(counted) == {1: 10, 2: 45}[size]
        assert all(abs(count - share * len(draws)) < allowed for count in counted.values())


def test_a_smaller_sample_of_the_same_beacon_is_a_part_of_a_larger_one() -> None:
    for number in range(20):
        drawn = [choose(ROOT, beacon(number), EVERY, sample) for sample in range(1, 11)]
        assert all({*smaller} < {*larger} for smaller, larger in pairwise(drawn))
        assert drawn[-1] == EVERY


def test_another_release_another_beacon_or_another_order_of_the_stretches() -> None:
    other = hashlib.sha256(b"another release").hexdigest()
    assert any(choose(ROOT, beacon(n), EVERY, 3) != choose(other, beacon(n), EVERY, 3) for n in range(3))
    assert any(choose(ROOT, beacon(n), EVERY, 3) != choose(ROOT, beacon(0), EVERY, 3) for n in range(3))
    assert choose(ROOT, beacon(0), EVERY[::-1], 3) == choose(ROOT, beacon(0), EVERY, 3)


@pytest.mark.parametrize("text", ["", "12", "g" * 64, "0" * 31, "0" * 33, "0" * 130, "0" * 32 + "\n0", "٣" * 32])
def test_what_is_no_beacon_is_refused(text: str) -> None:
    with pytest.raises(EverystepError, match="give 16 to 64 bytes as hex digits"):
        parse_beacon(text)


def test_a_beacon_is_taken_as_it_is_published() -> None:
    assert parse_beacon("0x" + "AB" * 32 + "\n") == "ab" * 32
    assert parse_beacon("cd" * 64) == "cd" * 64


@pytest.mark.parametrize("sample", [0, -1, 11])
def test_a_sample_that_cannot_be_drawn_is_refused(sample: int) -> None:
    with pytest.raises(EverystepError, match="there are 10 stretches"):
        choose(ROOT, beacon(0), EVERY, sample)
