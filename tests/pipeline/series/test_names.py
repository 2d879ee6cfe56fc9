"""Names of checkpoints as publishers write them, and the schedules that follow from their steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.series.names import parse_name, shards, steps_in_words
from pipeline.series.schedule import in_words, missing_steps
from tests.pipeline.series.published import PYTHIA


@pytest.mark.parametrize(
    ("name", "step", "tokens", "template"),
    [
        ("step143000", 143_000, None, "step#"),
        ("stage1-step140000-tokens587B", 140_000, 587e9, "stage1-step#-tokens#"),
        ("stage2-ingredient1-step11931-tokens100B", 11_931, 100e9, "stage2-ingredient1-step#-tokens#"),
        ("ckpt_100", 100, None, "ckpt_#"),
        ("CrystalCoder_phase2_checkpoint_214387", 214_387, None, "CrystalCoder_phase2_checkpoint_#"),
        ("chck_10M", 10_000_000, None, "chck_#"),
        ("checkpoint-500", 500, None, "checkpoint-#"),
        ("iter_0001000", 1000, None, "iter_#"),
        ("global_step1000", 1000, None, "global_step#"),
        ("step-125000", 125_000, None, "step-#"),
        ("step000064-tokens65536", 64, 65536, "step#-tokens#"),
        ("step1000-unsharded", 1000, None, "step#-unsharded"),
    ],
)
def test_steps_are_found_in_the_names_of_every_publisher(name: str, step: int, tokens: float, template: str) -> None:
    found = parse_name(name)
    assert found is not None and (found.step, found.tokens, found.template) == (step, tokens, template)


@pytest.mark.parametrize("name", ["main", "v1.0", "footstep12", "model-00001-of-00002.safetensors", "stepwise", ""])
def test_names_without_a_step_have_none(name: str) -> None:
    assert parse_name(name) is None


def test_missing_shards_follow_from_the_names_of_the_others() -> None:
    paths = ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors", "x/y-00001-of-00001.bin", "a.bin"]
    assert shards(paths) == {"model-#-of-#.safetensors": ["model-00002-of-00003.safetensors"]}


SCHEDULES = {
    "pythia": PYTHIA,
    "ours": [0, 1, 2, 4, 8, 16, 32, 64, 96, 128],
    "amber": list(range(360)),
    "babylm": [*range(1, 11), *range(20, 101, 10)],
    "olmo": [0, 150, 600, 700, 850, 900, 1000, 2000, 2150, *range(3000, 40_000, 1000), 928_646],
    "powers": [1, 2, 4, 8, 16, 32],
    "sparse at the end": [*range(0, 20_001, 1000), 25_000, 30_000, 35_000, 40_000],
    "a far last step": [*range(10), 10**15 - 1],
    "few": [10, 500],
    "one": [7],
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_whole_schedule_misses_nothing(name: str) -> None:
    assert missing_steps(SCHEDULES[name]) == []


@given(st.sets(st.sampled_from([step for step in PYTHIA if step > 1]), max_size=6).map(sorted))
def test_what_is_taken_from_pythias_schedule_is_what_is_missing(taken: list[int]) -> None:
    """But for its ends, which no other step promises: no power below the first or above the last that is left."""
    left = [step for step in PYTHIA if step not in taken]
    powers = [step for step in left if 0 < step <= 512]
    promised = [step for step in taken if (step > 512 and step < left[-1]) or powers[0] < step < powers[-1]]
    assert missing_steps(left) == promised


@given(st.integers(1, 5000), st.integers(0, 10_000), st.sets(st.integers(1, 38), max_size=4))
def test_gaps_in_a_constant_stride_are_found_unless_they_look_like_a_stride(
    stride: int, start: int, gone: set[int]
) -> None:
    whole = [start + stride * n for n in range(40)]
    left = [step for n, step in enumerate(whole) if n not in gone]
    assert set(missing_steps(left)) <= set(whole) - set(left)
    if len(gone) == 1:
        assert missing_steps(left) == sorted(set(whole) - set(left))


def test_schedules_and_steps_are_written_for_people() -> None:
    assert in_words(PYTHIA) == "powers of two to 512, then every 1,000"
    assert in_words(SCHEDULES["ours"]) == "powers of two to 64, then every 32"
    assert in_words(SCHEDULES["amber"]) == "every 1"
    assert in_words([10, 500]) == ""
    assert steps_in_words([0, 1, 2, 4, 8, 1000, 2000, 3000, 4000, 9000]) == "0, 1, 2, 4, 8, 1000 to 4000 by 1000, 9000"
