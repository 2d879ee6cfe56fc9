"""AdamW on a flat vector: equal to torch's, independent of how it is cut, with a schedule that is exact."""

import math

import pytest
import torch

from tests.trainer.tiny import tiny_spec
from trainer.model import Decoder, initialize
from trainer.optimizer import BLOCKS, AdamW, FlatParameters, block_norms, clip_factor, learning_rate
from trainer.recipe import OptimizerSection, ScheduleSection

SECTION = OptimizerSection(beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1, decay="matrices", clip_norm=1.0)
SCHEDULE = ScheduleSection(
    shape="cosine", start=0.0, peak=4e-3, peak_batch=None, floor=0.1, warmup_steps=16, decay_steps=112, steps=128
)


def flat_model(seed: int = 1) -> FlatParameters:
    model = Decoder(tiny_spec())
    initialize(model, seed)
    return FlatParameters(model)


def some_gradient(size: int) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(3))


@pytest.fixture(params=[False, True], ids=["native", "portable"], autouse=True)
def portable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each numerics class has an update of its own."""
    monkeypatch.setattr("trainer.matmul._portable", request.param)


def test_updates_equal_those_of_torch() -> None:
    flat, reference = flat_model(), flat_model()
    decayed = torch.nn.Parameter(reference.values[: flat.num_decayed].clone())
    others = torch.nn.Parameter(reference.values[flat.num_decayed :].clone())
    groups = [{"params": [decayed], "weight_decay": 0.1}, {"params": [others], "weight_decay": 0.0}]
    theirs = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)
    ours = AdamW(flat, 0, flat.size, SECTION)
    for step in range(1, 6):
        gradient = some_gradient(flat.size)
        decayed.grad, others.grad = gradient[: flat.num_decayed], gradient[flat.num_decayed :]
        theirs.step()
        ours.update(2 * gradient, 0.5, 1e-3, step)
    torch.testing.assert_close(flat.values, torch.cat([decayed, others]).detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("parts", [2, 4, 64])
def test_number_of_parts_changes_no_bit(parts: int) -> None:
    whole, cut = flat_model(), flat_model()
    one = AdamW(whole, 0, whole.size, SECTION)
    width = cut.size // parts
    many = [AdamW(cut, i * width, (i + 1) * width, SECTION) for i in range(parts)]
    for step in range(1, 4):
        gradient = some_gradient(whole.size)
        one.update(gradient.clone(), 0.25, 1e-3, step)
        for i, part in enumerate(many):
            part.update(gradient[i * width : (i + 1) * width].clone(), 0.25, 1e-3, step)
    assert torch.equal(whole.values, cut.values)


def test_modules_see_the_flat_vector_and_shared_tensors_lie_in_it_once() -> None:
    spec = tiny_spec(family="mobilellm-ls")
    model = Decoder(spec)
    initialize(model, 1)
    flat = FlatParameters(model)
    flat.values.zero_()
    assert all(not parameter.any() for parameter in model.parameters())
    assert sorted(place.name for place in flat.places) == sorted(name for name, _ in model.named_parameters())
    assert all(place.start % 64 == 0 for place in flat.places) and flat.size % (64 * BLOCKS) == 0


def test_norm_of_the_gradient_is_the_norm_whatever_the_blocks() -> None:
    gradient = some_gradient(64 * BLOCKS)
    norm, factor = clip_factor(block_norms(gradient, 64), 0.5, 1.0)
    assert norm == pytest.approx(float(gradient.double().norm()) / 2)
    assert factor * float(gradient.double().norm()) == pytest.approx(1.0)
    assert clip_factor([0.0], 0.5, 1.0) == (0.0, 0.5)
    assert clip_factor([1e-4], 0.5, 1.0) == (0.005, 0.5)


def test_schedule_warms_up_peaks_and_ends_at_its_floor() -> None:
    rates = [learning_rate(SCHEDULE, step, 4) for step in range(1, 129)]
    assert rates[0] == pytest.approx(4e-3 / 16)
    assert max(rates) == rates[15] == pytest.approx(4e-3)
    assert rates[-1] == pytest.approx(4e-4)
    middle = 16 + (128 - 16) // 2
    assert rates[middle - 1] == pytest.approx(4e-3 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2))), rel=1e-5)
    assert rates[15:] == sorted(rates[15:], reverse=True)


def test_a_clipped_cosine_falls_towards_zero_until_its_floor() -> None:
    clipped = SCHEDULE.model_copy(update={"shape": "cosine-clipped"})
    rates = [learning_rate(clipped, step, 4) for step in range(1, 129)]
    assert rates[71] == pytest.approx(2e-3)  # half way down to zero, not to the floor
    assert rates[-1] == rates[-2] == pytest.approx(4e-4)
    assert learning_rate(SCHEDULE, 72, 4) == pytest.approx(2.2e-3)


def test_wsd_is_stable_then_falls_in_a_line_to_its_floor() -> None:
    wsd = SCHEDULE.model_copy(update={"shape": "wsd", "decay_steps": 32})
    rates = [learning_rate(wsd, step, 4) for step in range(1, 129)]
    assert set(rates[15:96]) == {rates[15]} and rates[15] == pytest.approx(4e-3)
    assert rates[111] == pytest.approx(4e-3 * 0.55)
    assert rates[127] == pytest.approx(4e-4)


def test_a_peak_meant_for_one_batch_grows_with_the_batch_and_warm_up_may_start_above_zero() -> None:
    scaled = SCHEDULE.model_copy(update={"peak_batch": 4, "start": 1e-3})
    assert learning_rate(scaled, 16, 4) == pytest.approx(4e-3)
    assert learning_rate(scaled, 16, 32) == pytest.approx(32e-3)
    assert learning_rate(scaled, 8, 4) == pytest.approx(2.5e-3)


def test_decay_of_everything_takes_norms_too() -> None:
    model = Decoder(tiny_spec())
    initialize(model, 1)
    flat = FlatParameters(model, "all")
    everything = SECTION.model_copy(update={"decay": "all"})
    before = flat.values.clone()
    AdamW(flat, 0, flat.size, everything).update(torch.zeros(flat.size), 1.0, 0.5, 1)
    torch.testing.assert_close(flat.values, before * 0.95)
