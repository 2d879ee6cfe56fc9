"""The papers of a release: each a pure function of its evidence.

The stage `release` writes them and `verify` renders them again, so that none can say what the manifests do not. A new
paper is one line here and its function.
"""

from collections.abc import Callable

from pipeline.release.card import write_card, write_notice
from pipeline.release.disclosures.croissant import write_croissant
from pipeline.release.disclosures.evidence import Evidence
from pipeline.release.disclosures.model_form import write_model_form
from pipeline.release.disclosures.openness import write_openness
from pipeline.release.disclosures.pages import write_ab2013, write_training_content
from pipeline.release.disclosures.summary import write_summary
from pipeline.release.plot import draw_losses
from pipeline.release.report.page import write_report

PAPERS: dict[str, Callable[[Evidence], bytes]] = {
    "README.md": write_card,
    "NOTICE": write_notice,
    "loss.svg": draw_losses,
    "report/index.html": write_report,
    "croissant.json": write_croissant,
    "mof.yml": write_openness,
    "disclosures/training-content.md": write_training_content,
    "disclosures/training-content.json": write_summary,
    "disclosures/ab2013.md": write_ab2013,
    "disclosures/model-documentation.md": write_model_form,
}
"""Name of a paper → the function that renders it."""
