"""The picture of a release: well-formed, the same bytes for the same numbers, whatever the numbers and names are."""

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.release.plot import draw_losses
from pipeline.release.report.charts import ticks
from tests.releases import facts_of

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"losses": [3.0, 3.0]},
        {"losses": [0.0, 0.0]},
        {"tokens": 0},
        {"steps": [0, 0]},
        {"losses": [1e-9, 1e9]},
        {"name": 'a<b>&"c'},
    ],
)
def test_any_losses_and_names_give_a_picture_inside_its_frame(built_project: Path, change: dict[str, object]) -> None:
    facts = facts_of(built_project / "release")
    two = {"steps": [0, 8], "losses": [8.0, 6.5]}
    model = facts.models[0].model_copy(update=two | change)
    drawn = draw_losses(facts.model_copy(update={"models": [model]}))
    assert drawn == draw_losses(facts.model_copy(update={"models": [model]}))
    picture = ElementTree.fromstring(drawn)
    assert [text.text for text in picture.iter(f"{SVG}text")][-1] == model.name
    for circle in picture.iter(f"{SVG}circle"):
        assert 0 <= float(circle.attrib["cx"]) <= 720 and 0 <= float(circle.attrib["cy"]) <= 420


@pytest.mark.parametrize(("low", "high"), [(0, 0), (3, 3), (5.94, 8.1), (0, 131.072), (1e-9, 1e9), (-2, 2)])
def test_ticks_are_round_evenly_spaced_and_around_the_numbers(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 14
    assert len({round((b - a) / (found[1] - found[0]), 9) for a, b in pairwise(found)}) == 1
