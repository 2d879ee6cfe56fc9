"""Rates of a plan: those of the benchmarks, and what others published."""

from pathlib import Path

import pytest

from pipeline.base.errors import EverystepError
from pipeline.plan.rates import BENCHMARKS, RATES, load_rates
from tests.imports import ROOT

TOKENS_OF_AMBER = 1_258.5e9


def test_measured_rates_quote_the_benchmarks() -> None:
    measured = (ROOT / BENCHMARKS).read_text("utf-8")
    rates = load_rates()
    rows = [rate.row for rate in rates.stages.values()] + [rates.index_bytes_per_token.row]
    assert [row for row in rows if row and row not in measured] == [], "measured again: quote the new row in rates.yaml"
    assert sum(row is not None for row in rows) >= 6


def test_a_rate_is_what_its_row_says() -> None:
    rates = load_rates().stages
    assert rates["filter"].row and f"| {1000 / (rates['filter'].per_second / 1e6):.1f} |" in rates["filter"].row
    seconds = rates["extract"].amount / rates["extract"].per_second
    assert f"| {seconds / 2:.0f} |" in str(rates["extract"].row)  # by the wall, on two processors


@pytest.mark.parametrize(
    ("name", "tokens", "days", "rounding"),
    [
        ("mobilellm-125m", 1e12, 32 * 3, 0),
        ("mobilellm-1.5b", 1e12, 32 * 18, 0),
        ("pythia-70m", 143_000 * 1024 * 2048, 510 / 24, 0.01),
        ("pythia-12b", 143_000 * 1024 * 2048, 72_300 / 24, 0.01),
        ("openelm-1.1b", 350_000 * 2048 * 2048, 128 * 11, 0.01),
        ("amber-7b", TOKENS_OF_AMBER, 224 * TOKENS_OF_AMBER / 582_400 / 86_400, 0.01),
        ("mobillama-05b", TOKENS_OF_AMBER, TOKENS_OF_AMBER / 14_000 / 86_400, 40),  # said as 14k to 15k
    ],
)
def test_a_published_size_costs_what_its_authors_say(name: str, tokens: float, days: float, rounding: float) -> None:
    rates = load_rates()
    found, origin = rates.gpu_days(rates.published[name].applied, tokens)
    assert found == pytest.approx(days, abs=rounding + 1e-6)
    assert origin == rates.published[name].source


def test_a_size_that_nobody_published_is_reckoned_by_its_operations() -> None:
    rates = load_rates()
    days, origin = rates.gpu_days(2 * 124_635_456, 1e12)
    assert days == pytest.approx(2 * 96)
    assert origin.startswith("6 N D at 0.289 of the peak of an A100")


def test_gpu_hours_of_pythia_add_up_to_the_published_sum() -> None:
    runs = load_rates().published
    assert sum(run.gpu_hours or 0 for name, run in runs.items() if name.startswith("pythia")) == 136_070


def test_a_rate_may_be_replaced_on_the_command_line() -> None:
    assert load_rates(RATES, ["filter=3e6"]).stages["filter"].per_second == 3e6


@pytest.mark.parametrize("given", ["filter", "filter=fast", "filter=0", "filter=-1", "filter=nan", "washing=3"])
def test_a_wrong_rate_is_refused(given: str) -> None:
    with pytest.raises(EverystepError, match=f"^--rate {given}: "):
        load_rates(RATES, [given])


def test_a_rate_without_a_source_is_refused(tmp_path: Path) -> None:
    text = RATES.read_text("utf-8")
    start = text.index("    from: SHA-256")
    path = tmp_path / "rates.yaml"
    path.write_text(text[:start] + text[text.index("\n", start) + 1 :])
    with pytest.raises(EverystepError, match=r"stages\.digest.*says not where it is from"):
        load_rates(path)
