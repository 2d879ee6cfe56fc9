"""Our own score of the EU summary, by the public rubric of gpai-training-transparency.

The rubric (AIAccountabilityLab/gpai-training-transparency at fe45073; Blankvoort, Pandit, Gahntz, FAccT 2026) has 242
metrics with weights. `rubric.tsv` has our assessment of each, for our own release. What a regular expression can see is
looked for in the papers; the rest is our judgement, and `docs/disclosures.md` says how much that is.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.release.card import write_card
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.disclosures.model_form import write_model_form
from pipeline.release.disclosures.pages import write_training_content
from tests.project import ROOT

RUBRIC = Path(__file__).with_name("rubric.tsv")
TRANSPARENCY = ("Clarity", "Completeness", "Consistency", "Correctness")
USEFULNESS = ("Accessibility", "Comprehension")
PAPERS = {"page": write_training_content, "card": write_card, "form": write_model_form}
BEST = {"transparency": 92.9, "usefulness": 97.1}
"""Scores of the best public summary, Apertus, by the same rubric."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    id: str
    dimension: str
    weight: int
    score: float | None
    """Null: does not apply."""
    paper: str | None
    """Where its expression is looked for; null: judged."""
    basis: str


def rubric() -> Iterator[Metric]:
    lines = [line for line in RUBRIC.read_text().splitlines() if not line.startswith("#")]
    for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
        paper = re.match(r"(page|card|form): ", row["basis"])
        yield Metric(
            id=row["id"],
            dimension=row["dimension"],
            weight=int(row["weight"]),
            score=None if row["score"] == "-" else float(row["score"]),
            paper=paper[1] if paper else None,
            basis=row["basis"][paper.end() if paper else 0 :],
        )


def points(*dimensions: str) -> tuple[float, int]:
    """Points reached and reachable."""
    metrics = [metric for metric in rubric() if metric.dimension in dimensions and metric.score is not None]
    return sum(metric.weight * (metric.score or 0) for metric in metrics), sum(metric.weight for metric in metrics)


def test_the_rubric_has_all_its_metrics_and_weights() -> None:
    metrics = list(rubric())
    assert (len({metric.id for metric in metrics}), sum(metric.weight for metric in metrics)) == (242, 1893)


def test_what_can_be_seen_in_the_papers_is_there(declared: Evidence) -> None:
    texts = {name: write(declared).decode() for name, write in PAPERS.items()}
    seen = [metric for metric in rubric() if metric.paper]
    assert all(metric.score == 1 for metric in seen)
    missing = [metric.id for metric in seen if metric.paper and not re.search(metric.basis, texts[metric.paper])]
    assert missing == []


def test_a_silent_publisher_gets_no_points_for_words(silent: Evidence) -> None:
    text = write_training_content(silent).decode()
    missed = {metric.id for metric in rubric() if metric.paper == "page" and not re.search(metric.basis, text)}
    assert {"D15", "D28", "F1.3.c.1", "F1.3.d.1", "F2.3.a.1", "F3.1.b.1", "F3.2.a.1"} <= missed


def test_the_documents_tell_the_score_and_every_point_that_is_missing() -> None:
    text = (ROOT / "docs/disclosures.md").read_text()
    for name, dimensions in (("transparency", TRANSPARENCY), ("usefulness", USEFULNESS)):
        reached, reachable = points(*dimensions)
        share = 100 * reached / reachable
        assert f"| {name} | {reached:g} of {reachable} | {share:.1f} | {BEST[name]} |" in text
        assert share > BEST[name]
    judged = sum(metric.weight for metric in rubric() if metric.score is not None and not metric.paper)
    seen = sum(metric.weight for metric in rubric() if metric.paper)
    assert f"{seen} points are seen in the papers by a test, {judged} rest on our judgement" in text
    for metric in rubric():
        if metric.score is not None and metric.score < 1:
            assert f"| {metric.id} | {metric.weight * (1 - metric.score):g} | {metric.basis} |" in text
