"""The card names a stretch to replay, whichever checkpoints a model has: every schedule has two of them at least."""

import re
from pathlib import Path

import pytest

from pipeline.formats.checkpoints import schedule
from pipeline.release.card import write_card
from tests.releases import evidence_of


@pytest.mark.parametrize(
    ("rule", "steps", "stretch"),
    [("every 8", 8, (0, 8)), ("chunks 1", 1, (0, 1)), ("every 4", 8, (0, 4)), ("pythia 32", 128, (64, 96))],
)
def test_a_card_names_a_stretch_between_two_checkpoints(
    built_project: Path, rule: str, steps: int, stretch: tuple[int, int]
) -> None:
    facts = evidence_of(built_project / "release")
    first = facts.models[0].model_copy(update={"steps": schedule(rule, steps)})
    card = write_card(facts.model_copy(update={"models": [first, *facts.models[1:]]})).decode()
    found = re.search(r"everystep replay release --model \S+ --from (\d+) --to (\d+)", card)
    assert found and (int(found[1]), int(found[2])) == stretch
